"""The time to read many pipelines once from a real Prometheus: neighbours together, and each alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from experiments.bench_api.figures import Figure
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.control.loop.scheduler import WORKERS
from ipa.model.observation import Measured
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.real_prometheus import RealPrometheus

# Of Seldon's executor, as it is scraped in a cluster.
SCRAPE_S = 5.0
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf")
WINDOW_S = 120.0
FILLED_S = 60.0


def reading_figures(pipelines: Mapping[str, Pipeline]) -> list[Figure]:
    """The figures; none where Prometheus is not installed."""
    if shutil.which("prometheus") is None:
        print("prometheus is not installed: nothing is read from it")
        return []
    # Under their own names in the metrics too.
    cluster_pipelines = tuple(replace(pipeline, targets={}) for pipeline in pipelines.values())
    figures: list[Figure] = []
    with _exporter(cluster_pipelines) as target, tempfile.TemporaryDirectory() as folder:
        server = RealPrometheus([target], SCRAPE_S, Path(folder))
        url = server.url
        settings = Settings(prometheus_url=url, prometheus_timeout_s=10.0)
        try:
            _fill(settings, cluster_pipelines[-1])
            for words, neighbours in (("neighbours together", cluster_pipelines), ("each alone", ())):
                name = f"{len(cluster_pipelines)} pipelines read from Prometheus, {words}"
                metrics = PrometheusMetrics(settings, EXECUTOR, pipelines=lambda them=neighbours: them)
                queries, began_s, cpu_s = _queries(url), time.monotonic(), time.process_time()
                with ThreadPoolExecutor(WORKERS) as pool:
                    read = list(pool.map(lambda each, it=metrics: it.read(each, WINDOW_S), cluster_pipelines))
                wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
                with_load = sum(isinstance(signals.load, Measured) for signals in read)
                load = os.getloadavg()[0]
                figures += [
                    Figure(name, wall_s, "s", load),
                    Figure("the service's CPU time of it", cpu_s, "s", load),
                    Figure("queries of it", _queries(url) - queries, "", load),
                    Figure(
                        "of them with a load",
                        100 * with_load / len(cluster_pipelines),
                        "%",
                        load,
                        at_least=100.0,
                    ),
                ]
        finally:
            server.stop()
    return figures


def _fill(settings: Settings, last: Pipeline) -> None:
    """Wait until there are rates."""
    metrics, until_s = PrometheusMetrics(settings, EXECUTOR), time.monotonic() + FILLED_S
    while not isinstance(metrics.load(last, WINDOW_S), Measured):
        if time.monotonic() > until_s:
            raise RuntimeError("Prometheus has no load of the last pipeline")
        time.sleep(1.0)


def _queries(url: str) -> float:
    """The number of requests that it has answered."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counters = [
        line for line in lines if line.startswith("prometheus_http_requests_total") and "/query" in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in counters)


@contextmanager
def _exporter(pipelines: tuple[Pipeline, ...]) -> Iterator[str]:
    """The address of a process that shows what Seldon's executors would of all of them."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(pipelines, there), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


def _serve(pipelines: tuple[Pipeline, ...], parent: Connection) -> None:
    began_s = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = _text(pipelines, 10.0 * (time.monotonic() - began_s)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        parent.send(http.server_address[1])
        http.serve_forever()


def _text(pipelines: tuple[Pipeline, ...], count: float) -> str:
    lines = []
    for pipeline in pipelines:
        whole = f'deployment_name="{pipeline.name}",predictor_name="default"'
        served = f'{whole},service="predictions",code="200"'
        lines += _histogram("seldon_api_executor_server_requests_seconds", served, count)
        for stage in pipeline.served:
            labels = f'{whole},model_name="{EXECUTOR.stage_value(stage)}",method="post"'
            lines += _histogram("seldon_api_executor_client_requests_seconds", labels, count)
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: str, count: float) -> list[str]:
    share = 1 / len(BOUNDS)
    rows = [
        f'{name}_bucket{{{labels},le="{le}"}} {share * place * count:.3f}'
        for place, le in enumerate(BOUNDS, 1)
    ]
    return [*rows, f"{name}_sum{{{labels}}} {count:.3f}", f"{name}_count{{{labels}}} {count:.3f}"]
