"""A Prometheus over HTTP on a virtual clock: real counters, Prometheus' own arithmetic, and faults.

Targets are scraped each second of the virtual clock into the store of the built-in metrics server, which
answers the project's queries as Prometheus does. What goes wrong is set on the fake while it runs.
"""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import requests

from ipa.adapters.prometheus.scraper import SeriesStore
from ipa.model.pipeline import Pipeline
from tests.fakes.answering import Listening, Quiet
from tests.fakes.promql import respond
from tests.fakes.world import PIPELINE

Rate = Callable[[float], float]
Json = dict[str, Any]
# What is sent instead of the answer that is due: status and body, or None to leave it.
Rewrite = Callable[[Mapping[str, str], Json], tuple[int, bytes] | None]

EPOCH_S = 1_800_000_000.0
# So much of the load is there when the clock begins.
HISTORY_S = 120
# Cumulative shares of requests by latency: the 99th percentile is 0.18 s.
SHARES = {"0.1": 0.9, "0.2": 1.0, "+Inf": 1.0}
# The bounds of the buckets where latencies are told.
BOUNDS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, math.inf)


@dataclass
class Target:
    """One scraped process that serves a share of the load.

    `answers` says which scrapes succeed, `arrives` which samples are not lost on their way without a trace.
    `labels` are put on every series; it is started anew, with counters at zero, at the seconds `restarts`.
    """

    name: str
    share: Rate = lambda t_s: 1.0
    answers: Callable[[int], bool] = lambda second: True
    arrives: Callable[[int], bool] = lambda second: True
    labels: Mapping[str, str] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    buckets: dict[float, float] = field(default_factory=dict)
    restarts: frozenset[int] = frozenset()


class Monotonic(Protocol):
    """A clock that says seconds."""

    def monotonic_s(self) -> float: ...


class FakePrometheus(Listening):
    """A running fake; use as a context manager."""

    def __init__(
        self,
        clock: Monotonic,
        rate_rps: Rate,
        pipeline: Pipeline = PIPELINE,
        *,
        history_s: int = HISTORY_S,
        epoch_s: float = EPOCH_S,
    ) -> None:
        self.epoch_s = epoch_s
        self.clock, self.rate_rps, self.pipeline = clock, rate_rps, pipeline
        self.targets = [Target("router:9100")]
        # Answers nothing and scrapes nothing.
        self.is_down: Callable[[float], bool] = lambda t_s: False
        # The counters show what was so many seconds ago, under the time of now: a lag that nobody says.
        self.hidden_lag_s = 0
        # Samples arrive so many seconds late, with their own time: a lag that their age says.
        self.open_lag_s = 0
        self.rewrite: Rewrite | None = None
        # The stages whose model servers are scraped, and the seconds of their batches of one item; a request
        # waits as long before.
        self.batch_s: dict[str, float] = {}
        # The latency of all requests of a second; None: as SHARES has them.
        self.latency_s: Rate | None = None
        # Sent a byte at a time, so many a second of real time.
        self.drips = False
        self.dripped = 0
        self.requests = 0
        self._store = SeriesStore()
        self._lock = threading.Lock()
        self._scraped_s = int(clock.monotonic_s()) - history_s
        super().__init__(type("Handler", (_Handler,), {"fake": self}))

    def answer(self, path: str, parameters: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body; status 0 closes the connection without a word."""
        with self._lock:
            self.requests += 1
            now_s = self.clock.monotonic_s()
            self._scrape_until(int(now_s) - self.open_lag_s)
            if self.is_down(now_s):
                return 0, b""
            answer = {
                "status": "success",
                "data": respond(self._store, path, parameters, self.epoch_s + now_s),
            }
            sent = self.rewrite(parameters, answer) if self.rewrite else None
            return sent or (200, json.dumps(answer).encode())

    def _scrape_until(self, second: int) -> None:
        while self._scraped_s < second:
            self._scraped_s += 1
            for target in self.targets:
                self._scrape(target, self._scraped_s)

    def _scrape(self, target: Target, second: int) -> None:
        if second in target.restarts:
            target.counters.clear()
        # What arrived in the second that ends now.
        happened_s = float(second - 1 - self.hidden_lag_s)
        served = max(0.0, self.rate_rps(happened_s) * target.share(happened_s))
        for key in ("whole", *(stage.name for stage in self.pipeline.served)):
            target.counters[key] = target.counters.get(key, 0.0) + served
        for bound_s in BOUNDS_S if self.latency_s else ():
            in_time = served * (self.latency_s(happened_s) <= bound_s) if self.latency_s else 0.0
            target.buckets[bound_s] = target.buckets.get(bound_s, 0.0) + in_time
        if self.is_down(float(second)) or not target.arrives(second):
            return
        # A scrape that fails leaves Prometheus' staleness marker on every series of the target.
        samples = list(self._samples(target)) if target.answers(second) else []
        self._store.add(target.name, self.epoch_s + second, samples)

    def _samples(self, target: Target) -> Iterator[tuple[str, Mapping[str, str], float]]:
        def histogram(name: str, labels: Mapping[str, str], count: float) -> Any:
            counts = {le: share * count for le, share in SHARES.items()}
            if target.buckets:
                counts = {"+Inf" if math.isinf(s) else str(s): it for s, it in target.buckets.items()}
            return [(f"{name}_bucket", {**labels, "le": le}, it) for le, it in counts.items()]

        whole = {"pipeline": self.pipeline.name, **target.labels}
        yield "ipa_router_arrivals_total", whole, target.counters["whole"]
        yield from histogram("ipa_router_request_seconds", whole, target.counters["whole"])
        for stage in self.pipeline.served:
            labels = {**whole, "stage": stage.name}
            yield "ipa_queue_arrivals_total", labels, target.counters[stage.name]
            yield "ipa_queue_length", labels, 0.0
            yield from histogram("ipa_queue_stage_seconds", labels, target.counters[stage.name])
        yield from self._executor(target, histogram)

    def _executor(self, target: Target, histogram: Any) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """The same as Seldon's executor has it: no series of requests before its first one."""
        yield "go_goroutines", {"pod": f"{self.pipeline.name}-default-svc-orch-7c9d", **target.labels}, 12.0
        if not target.counters["whole"]:
            return
        labels = {"deployment_name": self.pipeline.name, "predictor_name": "default", **target.labels}
        served = {**labels, "service": "predictions", "code": "200"}
        name = "seldon_api_executor_server_requests_seconds"
        yield f"{name}_count", served, target.counters["whole"]
        yield from histogram(name, served, target.counters["whole"])
        for stage in self.pipeline.served:
            called = {**labels, "model_name": stage.name, "method": "post"}
            name = "seldon_api_executor_client_requests_seconds"
            yield f"{name}_count", called, target.counters[stage.name]
            yield from histogram(name, called, target.counters[stage.name])
            if stage.name in self.batch_s:
                yield from self._model_server(stage.name, target.counters[stage.name], target)

    def _model_server(
        self, model: str, count: float, target: Target
    ) -> Iterator[tuple[str, Mapping[str, str], float]]:
        here, batch_s = {"deployment_name": self.pipeline.name, **target.labels}, self.batch_s[model]
        yield "model_infer_request_duration_count", {**here, "model": model}, count
        yield "model_infer_request_duration_sum", {**here, "model": model}, 2 * batch_s * count
        for name, each in {"batches": 1.0, "service_seconds": batch_s, "items": 1.0}.items():
            yield f"ipa_replica_{name}_total", {**here, "model_name": model}, each * count


class _Handler(Quiet, BaseHTTPRequestHandler):
    fake: FakePrometheus
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        parameters = {name: values[-1] for name, values in parse_qs(split.query).items()}
        status, body = self.fake.answer(split.path, parameters)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status in (301, 302):
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        try:
            self._write(body)
        except OSError:
            self.close_connection = True

    def _write(self, body: bytes) -> None:
        if not self.fake.drips:
            self.wfile.write(body)
            self.wfile.flush()
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            self.fake.dripped += 1
            if self.fake.stopping.wait(0.02):
                return


class Direct(requests.adapters.BaseAdapter):
    """Hands the client's requests to the fake without a socket, where long loads are read."""

    def __init__(self, fake: FakePrometheus) -> None:
        super().__init__()
        self._fake = fake

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        split = urlsplit(str(request.url))
        parameters = {name: values[-1] for name, values in parse_qs(split.query).items()}
        status, body = self._fake.answer(split.path, parameters)
        if status == 0:
            raise requests.ConnectionError("closed without an answer")
        response = requests.Response()
        response.status_code, response.raw = status, io.BytesIO(body)
        return response

    def close(self) -> None:
        """Nothing is open."""


def session_of(metrics: Any) -> requests.Session:
    session: requests.Session = metrics.http.session
    return session
