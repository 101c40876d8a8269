"""The catalogue of metrics: names, units and labels, and that the code has all of it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from ipa.adapters.kube.watch import health_figures
from ipa.adapters.metrics.publish import Catalogue, bucket_weights
from ipa.api.context import HttpMetrics, stream_figures
from ipa.bootstrap.app import record_figures
from ipa.control.engine.load_rules import fallback_forecast
from ipa.dataplane.batching import Outcome
from ipa.dataplane.metrics import QueueMetrics, RouterMetrics
from ipa.dataplane.quota import BatchTimes
from ipa.forecast.ladder import BACKTEST_RUNGS, DEFAULT_RUNGS
from ipa.metering import labels as of
from ipa.metering import table
from ipa.metering.make import Figures, new_registry
from ipa.metering.metric import OTHER, Metric
from ipa.model.observation import Forecast
from ipa.model.pipeline import Fallback
from ipa.optimize.registry import BACKENDS
from ipa.targets.local.workload import cost_figures
from tests.fakes.world import PIPELINE

# A name may say a unit in one way only.
WRONG_UNITS = ("ms", "milliseconds", "minutes", "hours", "percent", "millicores", "mib", "gib", "per_second")
SERVED = len(PIPELINE.served)


KUBE, EVENTS = SimpleNamespace(skew_s=0.1), SimpleNamespace(dropped=0)
WATCHER = SimpleNamespace(namespace="default", what="Deployments", lists=1, failures=0)
RUNNER = SimpleNamespace(core_seconds=1.0, restarts=0, corrections=0)


class _Telling:
    failures = dropped = open = 0
    pruned = SimpleNamespace(record_bytes=0, is_bounded=False)

    def degraded(self) -> tuple[str, ...]:
        return ()


def registries() -> Iterator[CollectorRegistry]:
    """Every registry of service, router, queue and model server with everything on it that there is."""
    service = new_registry()
    Catalogue(service, (PIPELINE,))
    HttpMetrics(service).start([("/healthz", ("GET",))])
    service.register(health_figures(KUBE, EVENTS, [WATCHER]))
    service.register(cost_figures(SimpleNamespace(runner=lambda name: RUNNER), (PIPELINE.name,)))
    for figures in (record_figures, stream_figures):
        service.register(figures(_Telling()))  # type: ignore[operator]
    service.register(Figures((table.LOG_DROPPED, lambda: 0)))
    yield service
    yield RouterMetrics("pages", ["detect"]).registry
    queue = QueueMetrics("pages", "detect")
    queue.variant_items("small")
    yield queue.registry
    replica = new_registry()
    BatchTimes("detect", replica)
    yield replica


@pytest.mark.parametrize("metric", table.METRICS, ids=lambda metric: metric.name)
def test_names_say_their_unit(metric: Metric) -> None:
    assert re.fullmatch(r"ipa(_[a-z]+)+", metric.name)
    parts = metric.base.removeprefix("ipa_")
    assert not any(parts.endswith(f"_{wrong}") for wrong in WRONG_UNITS)
    assert metric.help.endswith(".") and metric.help[0] in "0123456789" + metric.help[0].upper()
    for label in metric.labels:
        assert bool(label.values) != bool(label.bound), f"{label.name}: what bounds it is not said"


def test_each_is_there_once() -> None:
    names = [metric.base for metric in table.METRICS]
    assert len(names) == len(set(names)) and len(names) > 50


def test_the_code_has_what_the_catalogue_says_and_nothing_else() -> None:
    declared = {
        (metric.base, metric.kind.value, metric.help, frozenset(metric.label_names))
        for metric in table.METRICS
    }
    exported = set()
    for registry in registries():
        for family in registry.collect():
            labels = {name for sample in family.samples for name in sample.labels}
            labels -= {"le"} if family.type == "histogram" else set()
            exported.add((family.name, family.type, family.documentation, frozenset(labels)))
    assert exported == declared


def test_every_closed_label_has_all_its_series_at_the_start() -> None:
    samples = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for registry in registries()
        for family in registry.collect()
        for sample in family.samples
    }
    wanted = [
        ((metric.series[-1]), tuple(sorted(zip(metric.label_names, values, strict=True))))
        for metric in table.METRICS
        for values in _closed(metric)
    ]
    assert len(wanted) > 80
    assert [series for series in wanted if series not in samples] == []


# One value of each label that is not closed; none of them is one of several.
ONE = {"pipeline": "pages", "stage": "detect", "part": "1", "variant": "small", "route": "/healthz"}


def _closed(metric: Metric) -> list[tuple[str, ...]]:
    """The label values that must be there; none where no label is closed."""
    if not any(label.values for label in metric.labels):
        return []
    values = [label.values or (ONE[label.name],) for label in metric.labels]
    # A route has its own methods.
    values = [
        ("GET",) if label is of.METHOD else each for label, each in zip(metric.labels, values, strict=True)
    ]
    return list(product(*values))


def test_the_closed_labels_know_what_the_code_has() -> None:
    assert set(of.OUTCOME.values) == {outcome.value for outcome in Outcome}
    assert set(of.SOLVER.values) == {*BACKENDS, OTHER}
    rungs = {rung.name for rung in (*DEFAULT_RUNGS, *BACKTEST_RUNGS)} - {"maximum-10s"}
    assert set(of.RUNG.values) == {*rungs, fallback_forecast(Fallback(1.0)).rung, OTHER}
    assert isinstance(fallback_forecast(Fallback(1.0)), Forecast)


def test_a_value_that_is_not_known_makes_no_series() -> None:
    assert of.RUNG.known("seasonal") == "seasonal"
    assert of.RUNG.known("my-own") == OTHER
    assert of.PIPELINE.known("anything") == "anything"


@pytest.mark.parametrize("sla_s", [0.0005, 0.001, 0.08, 0.8, 1.0, 7.0, 10.0, 60.0])
def test_bucket_weights_count_what_met_the_sla(sla_s: float) -> None:
    """Against requests that are spread evenly within each bucket, where between bounds linearly is exact."""
    bounds = table.ROUTER_SECONDS.buckets
    weights = bucket_weights(sla_s, bounds)
    counted = sum(weight * min(bound_s, 10.0) for bound_s, weight in weights)
    assert counted == pytest.approx(min(sla_s, 10.0))
    router = RouterMetrics("pages", [])
    known = {sample.labels.get("le") for family in router.registry.collect() for sample in family.samples}
    registry = new_registry()
    Catalogue(registry, (replace(PIPELINE, sla=replace(PIPELINE.sla, latency_s=sla_s)),))
    shown = {
        sample.labels["le"]
        for family in registry.collect()
        if family.name == "ipa_sla_bucket_weight_ratio"
        for sample in family.samples
    }
    assert shown and shown <= known


def test_a_metric_is_named_in_the_table_alone(root: Path) -> None:
    names = {f'"{name}"' for metric in table.METRICS for name in (metric.name, *metric.series)}
    others = [path for path in (root / "ipa").rglob("*.py") if path != Path(table.__file__)]
    by_file = {}
    for path in others:
        text = path.read_text()
        if named := [it for it in names if it in text]:
            by_file[path.name] = named
    assert by_file == {}
