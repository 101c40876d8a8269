"""Rules, dashboard and runbooks agree with the catalogue, and with each other."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.control.audit.reason_log import RUNBOOKS
from ipa.metering import table
from tools.monitoring.alerts import ALERTS, Alert
from tools.monitoring.dashboard import queries
from tools.monitoring.rules import recordings

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
    from ipa.targets.seldon.layouts import PORT, PartRole, parts_of
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
        if re.fullmatch(relabeling["regex"], f"{part.name};{part.pipeline.stages[0].container}")
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
