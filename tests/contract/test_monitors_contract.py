"""A Seldon pipeline in shape single, scraped by a real Prometheus as the shipped PodMonitors say.

Executors and model servers are pages in their own text; the Prometheus Operator's part is done here.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.doctor import metrics_checks
from ipa.control.engine.observe import observe
from ipa.control.ports import Signals
from ipa.model.findings import Finding, Severity
from ipa.model.observation import Batches, Measured, Missing
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant, chain
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.answering import Answering
from tests.fakes.exposition import INFER, executor, mlserver, rest_call
from tests.fakes.real_prometheus import RealPrometheus
from tests.fakes.waiting import until

pytestmark = [
    pytest.mark.live,
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus"),
]
SCRAPE_S = 0.25
PATIENCE_S = 300.0
RATE = 20.0
STAGES = chain([Stage(name, (Variant("v"),)) for name in ("detect", "read")])


def pipeline(name: str) -> Pipeline:
    return Pipeline(name, STAGES, Sla(1.0, 99.0), {}, targets={"seldon": SeldonTarget(name, "models")})


PAGES, FOREIGN, FRESH = pipeline("pages"), pipeline("foreign"), pipeline("fresh")
# Of the requests a half comes over REST, a quarter over gRPC, and a quarter fails.
SERVED = {
    ("predictions", "post", "200"): 0.5,
    (INFER, "unary", "OK"): 0.25,
    ("predictions", "post", "500"): 0.2,
    (INFER, "unary", "Unavailable"): 0.05,
    # Neither is load.
    ("status", "get", "200"): 30.0,
    ("/inference.GRPCInferenceService/ModelReady", "unary", "OK"): 40.0,
}


def calls(model: str, ratio: float) -> Mapping[tuple[str, str, str], float]:
    """The executor's calls of a model, which has so many a request; it is asked whether it is ready, too."""
    return {
        (rest_call(model), "post", "200"): 0.75 * ratio,
        (INFER, "unary", "OK"): 0.25 * ratio,
        (f"/v2/models/{model}/ready", "get", "200"): 50.0,
    }


def page_of_executor(name: str, predictor: str, share: float, count: float) -> str:
    served = {key: part * share * count for key, part in SERVED.items()}
    called = {
        model: {key: part * share * count for key, part in calls(model, 1.0).items()}
        for model in ("detect", "read")
    }
    return executor(name, predictor, served, called)


# Of each of two replicas of `detect`: half of the requests, of three rows each, in batches of 2 requests that
# take 0.1 s; a request spends 0.2 s there. `read` serves requests one by one in 0.02 s, and none waits.
def page_of_detect(count: float) -> str:
    batches = count / 4
    return mlserver("detect", count / 2, 0.2 * count / 2, (batches, 0.1 * batches, 3.0 * count / 2))


Page = Callable[[float], str]


class Pages:
    """Pages on ports of their own, whose counters grow by RATE a second, at /prometheus alone."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def serve(self, page: Page, resources: ExitStack) -> str:
        """The host:port of that page until the end."""

        def answer(path: str, body: Any) -> tuple[int, str]:
            count = 1000 + RATE * (time.monotonic() - self._began_s)
            return (200, page(count)) if path == "/prometheus" else (404, "")

        return resources.enter_context(Answering(answer)).target


def pod(name: str, container: str, address: str, port: str = "metrics", **labels: str) -> dict[str, Any]:
    """A container's port of a pod, as discovery finds it."""
    meta = {
        "__meta_kubernetes_namespace": "models",
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_container_name": container,
        "__meta_kubernetes_pod_container_port_name": port,
    }
    for label, value in labels.items():
        meta[f"__meta_kubernetes_pod_label_{label}"] = value
        meta[f"__meta_kubernetes_pod_labelpresent_{label}"] = "true"
    return {"targets": [address], "labels": meta}


def pods(pages: Pages, resources: ExitStack) -> list[dict[str, Any]]:
    """The objects in the namespace: `pages` with a second predictor, a shadow, and foreign ones."""

    def engine(name: str, predictor: str, page: Page) -> dict[str, Any]:
        service = f"{name}-{predictor}"
        labels = {"seldon_app": service, "seldon_deployment_id": service}
        address = pages.serve(page, resources)
        return pod(f"{service}-svc-orch-7c9d", "seldon-container-engine", address, **labels)

    def model(name: str, container: str, page: Page, number: int = 0, **labels: str) -> dict[str, Any]:
        own = {"seldon_deployment_id": name, **labels}
        return pod(f"{name}-default-0-{container}-{number}", container, pages.serve(page, resources), **own)

    def many(count: float) -> str:
        return page_of_detect(1000 * count)

    return [
        engine("pages", "default", lambda count: page_of_executor("pages", "default", 0.75, count)),
        engine("pages", "default-2", lambda count: page_of_executor("pages", "default-2", 0.25, count)),
        engine("pages", "shadow", lambda count: page_of_executor("pages", "shadow", 100.0, count)),
        model("pages", "detect", page_of_detect, 1),
        model("pages", "detect", page_of_detect, 2),
        model("pages", "read", lambda n: mlserver("read", n, 0.02 * n, (n, 0.02 * n, n))),
        model("pages", "detect", many, 3, shadow="true"),
        # The same port by its other name, a queue of shape split, and another pipeline's pods.
        pod("pages-default-0-detect-1", "detect", pages.serve(many, resources), "http"),
        model("pages-detect-queue", "queue", many),
        engine("foreign", "default", lambda count: page_of_executor("foreign", "default", 1.0, count)),
        model("foreign", "detect", lambda count: mlserver("detect", count, 0.1 * count, None)),
        model("foreign", "read", lambda count: mlserver("read", count, 0.1 * count, None)),
        engine("fresh", "default", lambda _count: executor("fresh", "default", {}, {})),
    ]


def scrape_config(monitor: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The configuration that the Prometheus Operator makes of a PodMonitor."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    relabelings = [_keep("__meta_kubernetes_pod_container_port_name", endpoint["port"])]
    for each in monitor["spec"]["selector"]["matchExpressions"]:
        assert each["operator"] == "Exists"
        name = each["key"].replace("-", "_")
        relabelings.append(_keep(f"__meta_kubernetes_pod_labelpresent_{name}", "true"))
    for label, source in {
        "namespace": "namespace",
        "pod": "pod_name",
        "container": "pod_container_name",
    }.items():
        relabelings.append({"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label})
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    for each in endpoint["relabelings"]:
        relabelings.append({names.get(key, key): value for key, value in each.items()})
    return {
        "job_name": f"podMonitor/{monitor['metadata']['name']}",
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(file)]}],
        "relabel_configs": relabelings,
    }


def _keep(source: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "source_labels": [source], "regex": regex}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes what the monitors say, with some samples of all."""
    folder, pages = tmp_path_factory.mktemp("prometheus"), Pages()
    with ExitStack() as resources:
        targets = folder / "pods.json"
        targets.write_text(json.dumps(pods(pages, resources)))
        # That of router and queues goes by the number of a port, which no page here has.
        _, *monitors, _ = yaml.safe_load_all((root / "deploy/prometheus/podmonitor.yaml").read_text())
        configs = [scrape_config(monitor, targets) for monitor in monitors]
        prometheus = RealPrometheus((), SCRAPE_S, folder, configs)
        resources.callback(prometheus.stop)
        with httpx.Client(base_url=prometheus.url, trust_env=False, timeout=5.0) as client:
            params = {"query": 'count_over_time({__name__="go_goroutines"}[1m]) > 10'}

            def is_scraped() -> bool:
                answer = client.get("/api/v1/query", params=params)
                return answer.is_success and len(answer.json()["data"]["result"]) >= 4

            until(is_scraped, PATIENCE_S)
        yield prometheus.url


@pytest.fixture(scope="module", params=("alone", "together"))
def read(url: str, request: pytest.FixtureRequest) -> Callable[[Pipeline], Signals]:
    """Reads a pipeline's signals, with queries of its own or shared with the others."""
    neighbours = (PAGES, FOREIGN, FRESH) if request.param == "together" else ()
    settings = Settings(prometheus_url=url)
    metrics = PrometheusMetrics(settings, EXECUTOR, pipelines=lambda: neighbours, share_s=0.0)
    return lambda of: metrics.read(of, 30.0)


def value(signal: Measured[float] | Missing) -> float:
    assert isinstance(signal, Measured), signal
    return signal.value


def batches(signals: Signals, stage: str) -> Batches:
    measured = signals.stages[stage].batches
    assert isinstance(measured, Measured), measured
    return measured.value


def test_the_load_has_both_protocols_and_predictors_and_nothing_else(read: Callable[..., Signals]) -> None:
    signals = read(PAGES)
    assert value(signals.arrival_rate_rps) == pytest.approx(RATE, rel=0.1)
    # Its window is not full yet.
    assert 0 < value(signals.stages["read"].arrival_rate_rps) < 1.1 * RATE
    assert isinstance(signals.attainment, Measured)
    # All answered ones are within the SLA.
    assert signals.attainment.value.in_time_ratio == pytest.approx(0.75, rel=0.05)
    assert value(signals.latency_s) == pytest.approx(0.25 + 0.04 / 0.05 * 0.25, rel=0.02)


def test_service_times_fill_and_waiting_are_those_of_the_replicas(read: Callable[..., Signals]) -> None:
    signals = read(PAGES)
    detect, alone = batches(signals, "detect"), batches(signals, "read")
    assert (detect.service_s, alone.service_s) == pytest.approx((0.1, 0.02), rel=0.02)
    # Two requests of three rows each.
    assert (detect.items, alone.items) == pytest.approx((6.0, 1.0), rel=0.02)
    # Arrivals count rows, as the planner does.
    stage_signals = signals.stages["detect"]
    rows_rps = value(stage_signals.arrival_rate_rps)
    assert rows_rps == pytest.approx(3 * value(signals.stages["read"].arrival_rate_rps), rel=0.15)
    # A request is there for 0.2 s, of which a batch takes 0.1: its rows wait for the other half.
    assert value(stage_signals.queue_length) / rows_rps == pytest.approx(0.1, rel=0.15)
    assert value(signals.stages["read"].queue_length) == pytest.approx(0.0, abs=0.05)
    assert value(stage_signals.latency_s) == pytest.approx(0.45, rel=0.02)
    # The engine takes all of it.
    stages = observe(PAGES, signals, None, at_s=0.0).stages
    assert all(isinstance(stage.batches, Measured) for stage in stages)
    assert all(isinstance(stage.queue_length, Measured) for stage in stages)


def test_model_servers_of_another_runtime_are_seen_by_the_executor_alone(
    read: Callable[..., Signals],
) -> None:
    stage = read(FOREIGN).stages["detect"]
    assert value(stage.arrival_rate_rps) > 0 and value(stage.latency_s) > 0
    assert isinstance(stage.batches, Missing) and stage.batches.is_idle
    assert isinstance(stage.queue_length, Missing) and stage.queue_length.is_idle


def looked(url: str, pipeline: Pipeline) -> dict[str, Finding]:
    """The findings about the pipeline's series, by what they are about."""

    settings = Settings(prometheus_url=url)
    _, series = metrics_checks(settings, {pipeline.name: (pipeline, EXECUTOR)}, "the monitors")
    return {finding.name.removeprefix(f"series of {pipeline.name}: "): finding for finding in series.look()}


def test_doctor_looks_at_each_series(url: str) -> None:
    findings = looked(url, PAGES)
    assert set(findings) == {
        *("load", "latency", "load of stages", "latency of stages"),
        *("requests in replicas", "batches of stages"),
    }
    assert all(finding.state is Severity.OK for finding in findings.values()), findings


def test_doctor_tells_a_runtime_that_is_not_ours_from_a_scrape_that_is_not_there(url: str) -> None:
    foreign = looked(url, FOREIGN)["batches of stages"]
    assert foreign.state is Severity.WARN
    assert "their runtime is not ours" in foreign.seen and "StageRuntime" in foreign.remedy
    fresh = looked(url, FRESH)
    assert fresh["load"].state is Severity.OK and "no request yet" in fresh["load"].seen
    missing = fresh["requests in replicas"]
    assert missing.state is Severity.WARN and missing.remedy.startswith("the monitors; ")
    gone = looked(url, replace(PAGES, targets={"seldon": SeldonTarget("gone", "models")}))["load"]
    assert gone.state is Severity.FAIL and gone.remedy.startswith("the monitors; ")
