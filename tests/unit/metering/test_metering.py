"""The catalogue of metrics, and that the code, rules, dashboard and runbooks agree with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from experiments.forecast.runner import RUNGS
from ipa.adapters.kube.watch import health_figures
from ipa.adapters.metrics.publish import DESIRED, Catalogue, bucket_weights
from ipa.api.context import HttpMetrics, stream_figures
from ipa.bootstrap.app import record_figures
from ipa.control.audit.reason_log import RUNBOOKS
from ipa.control.engine.load_rules import fallback_forecast
from ipa.dataplane.metrics import QueueMetrics, RouterMetrics
from ipa.dataplane.quota import BatchTimes
from ipa.metering import labels as of
from ipa.metering import table
from ipa.metering.make import Figures, new_registry
from ipa.metering.metric import OTHER, Metric
from ipa.model.observation import Forecast
from ipa.model.pipeline import Fallback
from ipa.optimize.registry import BACKENDS
from ipa.serving.batching import Outcome
from ipa.targets.local.workload import cost_figures
from tests.fakes.world import PIPELINE
from tools.monitoring.alerts import ALERTS, Alert
from tools.monitoring.dashboard import queries
from tools.monitoring.rules import recordings

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
    catalogue = Catalogue(service, (PIPELINE,))
    for metric in DESIRED:
        catalogue.gauge(metric, *(ONE[name] for name in metric.label_names))
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
    rungs = {rung.name for rung in RUNGS} - {"maximum-10s"}
    assert set(of.RUNG.values) == {*rungs, fallback_forecast(Fallback(1.0)).rung, OTHER}
    assert isinstance(fallback_forecast(Fallback(1.0)), Forecast)


def test_a_value_that_is_not_known_makes_no_series() -> None:
    assert of.RUNG.known("level") == "level"
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


ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy" / "prometheus"
BOARD = json.loads((ROOT / "deploy" / "grafana" / "ipa.json").read_text())
METRICS = {name: metric for metric in table.METRICS for name in metric.series}
# Of targets, as Prometheus and its operator set them.
TARGET = {"namespace", "job", "instance"}
FUNCTIONS = {
    "absent",
    "avg_over_time",
    "clamp_max",
    "clamp_min",
    "histogram_quantile",
    "increase",
    "max_over_time",
    "rate",
    "time",
}
WORDS = {*FUNCTIONS, "and", "bool", "by", "group_left", "max", "min", "offset", "on", "or", "sum", "unless"}
SELECTOR = re.compile(r"(\w[\w:]*)\{([^}]*)\}")
GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


@cache
def documents(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return document


def expressions() -> list[str]:
    return [
        *(rule.expr for rule in recordings()),
        *(alert.expr for alert in ALERTS),
        *queries(BOARD),
    ]


def metrics_in(expr: str) -> list[str]:
    """Every word of a PromQL text that is no function, label, number or duration."""
    bare = GROUPING.sub(" ", re.sub(r'"[^"]*"', " ", expr))
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    return [word for word in re.findall(r"\b[a-zA-Z_][\w:]*", bare) if word not in WORDS]


@pytest.mark.parametrize("expr", expressions())
def test_queries_name_metrics_and_labels_of_the_catalogue_alone(expr: str) -> None:
    recorded = {rule.name for rule in recordings()}
    named = metrics_in(expr)
    assert named and [name for name in named if name not in METRICS and name not in recorded] == []
    known = {label for name in named if name in METRICS for label in METRICS[name].label_names}
    for name, inside in SELECTOR.findall(expr):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
        assert labels <= {*METRICS[name].label_names, *TARGET, "le"}, name
    for inside in GROUPING.findall(expr):
        grouped = {label.strip() for label in inside.split(",")} - {""}
        assert grouped <= {*known, *TARGET, "le", "pipeline"}, inside


def test_values_of_closed_labels_are_those_there_are() -> None:
    for expr in expressions():
        for name, inside in SELECTOR.findall(expr):
            for label, sign, text in re.findall(r'(\w+)(=~|=)"([^"]*)"', inside):
                closed = next((it.values for it in METRICS[name].labels if it.name == label), ())
                if closed:
                    pattern = text.replace("\\\\", "\\") if sign == "=~" else re.escape(text)
                    for each in pattern.split("|"):
                        assert any(re.fullmatch(each, value) for value in closed), f"{name}: {label}={each}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_says_what_it_is_and_what_to_do(alert: Alert) -> None:
    assert alert.severity in ("critical", "warning")
    assert alert.summary and alert.description.endswith(".")
    page, _, fragment = alert.runbook.partition("#")
    text = (ROOT / page).read_text()
    assert [title.lower() for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)].count(fragment) == 1
    section = text.partition(f"### {alert.name}\n")[2].partition("\n### ")[0]
    assert section.strip().startswith(f"*{alert.severity.capitalize()}.*")


def test_every_runbook_is_of_an_alert() -> None:
    page = ROOT / RUNBOOKS
    assert re.findall(r"^### (.*)$", page.read_text(), re.MULTILINE) == [alert.name for alert in ALERTS]


def test_the_operators_rules_are_the_same() -> None:
    rule = documents("prometheusrule.yaml")
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == documents("rules.yaml")
    known = {one["record"] for one in rule["spec"]["groups"][0]["rules"]}
    assert known == {recording.name for recording in recordings()}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_is_tried_where_it_fires_and_where_it_does_not(alert: Alert) -> None:
    """The trial of everything shows that nothing else fires; here only that it was asked."""
    tests = [test for test in documents("rules_test.yaml")["tests"] if test["name"].startswith(alert.name)]
    alert_tests = [one for test in tests for one in test["promql_expr_test"] if "ALERTS" in one["expr"]]
    fired = [sample["labels"] for one in alert_tests for sample in one["exp_samples"]]
    assert fired and all(f'alertname="{alert.name}"' in labels for labels in fired)
    quiet = [one for one in alert_tests if not one["exp_samples"]]
    series = [one["series"] for test in tests for one in test["input_series"]]
    assert quiet or any('"good"' in name for name in series)
    assert not any('"good"' in labels for labels in fired)


def test_the_monitor_of_all_pipelines_takes_routers_and_queues_alone() -> None:
    """By what Seldon's operator puts on pods: the labels of a SeldonDeployment are not among that."""
    from ipa.targets.kubernetes.split import PORT, PartRole
    from ipa.targets.seldon.layouts import parts_of
    from tests.contract.kube_harness import split
    from tests.fakes.kube.samples import sample_pipeline

    monitors = yaml.safe_load_all((ROOT / "deploy/prometheus/podmonitor.yaml").read_text())
    (endpoint,) = next(iter(monitors))["spec"]["podMetricsEndpoints"]
    assert endpoint["targetPort"] == PORT
    (relabeling,) = endpoint["relabelings"]
    assert relabeling["action"] == "keep"
    taken = {
        part.name
        for part in parts_of(split(sample_pipeline()))
        if re.fullmatch(relabeling["regex"], f"{part.name};{part.own.container}")
    }
    wanted = {it.name for it in parts_of(split(sample_pipeline())) if it.role is not PartRole.MODEL}
    assert taken == wanted


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    variables = [variable["name"] for variable in BOARD["templating"]["list"]]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__range"}
    assert used == set(variables) == {"datasource", "namespace", "pipeline"}
    # What fills to another series must find it.
    for panel in BOARD["panels"]:
        legends = {target["legendFormat"] for target in panel.get("targets", [])}
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            named = [override["matcher"]["options"]]
            named += [it["value"] for it in override["properties"] if it["id"] == "custom.fillBelowTo"]
            assert set(named) <= legends, panel["title"]
