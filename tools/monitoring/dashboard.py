"""The Grafana dashboard: the page's Timeline over days, and the fleet above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ipa.metering import table
from ipa.metering.metric import Metric
from ipa.model.decision import UNHEALTHY
from tools.monitoring.rules import exceeded, in_time

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's: four scrapes at least, so that a rate is never empty.
RATE = "$__rate_interval"
HERE = 'namespace=~"$namespace",pipeline=~"$pipeline"'
# The router is scraped in the pipeline's namespace, not the service's.
ROUTER = 'pipeline=~"$pipeline"'
WIDTH, HEIGHT = 12, 8
BAD = "|".join(sorted(reason.value.replace(".", "\\\\.") for reason in UNHEALTHY))


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the name of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot. `bands` are pairs of legends between which it is filled; `stacked` adds its series up."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    says: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    bands: tuple[tuple[str, str], ...] = ()
    steps: bool = False
    dashed: tuple[str, ...] = ()
    signed: bool = False


def newest(metric: Metric, by: str = "", where: str = HERE) -> str:
    """The gauge as any replica of the service sees it; NaN only where none sees it."""
    grouped = f" by ({by})" if by else ""
    return f"max{grouped} ({metric.name}{{{where}}})"


def rate(metric: Metric, by: str, where: str = HERE, window: str = RATE) -> str:
    """The counter's increase a second, over all replicas of the service."""
    return f"sum by ({by}) (rate({metric.name}{{{where}}}[{window}]))"


def often(metric: Metric, by: str, where: str = HERE) -> str:
    """The increase of the counter in each interval of the plot."""
    return f"sum by ({by}) (increase({metric.name}{{{where}}}[{RATE}]))"


def quantile(ratio: float, metric: Metric, by: str, where: str) -> str:
    """The quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    selected = f"{metric.name}_bucket{{{where}}}" if where else f"{metric.name}_bucket"
    return f"histogram_quantile({ratio:g}, sum by ({labels}) (rate({selected}[{RATE}])))"


def missed(window: str) -> str:
    """The part of the requests at the router that failed, were dropped or late, by pipeline."""
    valid = f'{table.ROUTER_REQUESTS.name}{{outcome!="refused"}}'
    return f"clamp_min(1 - {in_time(window)} / (sum by (pipeline) (rate({valid}[{window}])) > 0), 0)"


FLEET = (
    Panel(
        "Leaders",
        "none",
        (Query(f'sum by (install) ({table.LEADER.name}{{namespace=~"$namespace"}})', "{{install}}"),),
        "Replicas that may write: one for each install.",
        "stat",
    ),
    Panel(
        "Requests that miss the SLA, last hour",
        "percentunit",
        (
            Query(
                missed("1h"),
                "{{pipeline}}",
            ),
        ),
        "Failed, dropped or late, of those that went through our router.",
        "stat",
    ),
    Panel(
        "Incidents",
        "none",
        (
            Query(
                often(table.DECISIONS, "pipeline, reason", f'{HERE},reason=~"{BAD}"'),
                "{{pipeline}} {{reason}}",
            ),
        ),
        "Changes and holds that a person should look at.",
    ),
    Panel(
        "Cores by pipeline",
        "none",
        (
            Query(
                f"sum by (pipeline) ({newest(table.STAGE_CORES, 'pipeline, stage')})",
                "{{pipeline}}",
            ),
        ),
        "Of all replicas.",
        stacked=True,
    ),
    Panel(
        "SLO attainment",
        "percentunit",
        (Query(f"{newest(table.IN_TIME, 'pipeline')} >= 0", "{{pipeline}}"),),
        "Part of the ended requests that were in time, as the loop sees it; on Seldon as well.",
    ),
    Panel(
        "Error budget spent in the range shown",
        "percentunit",
        (
            Query(
                f"{missed('$__range')} / (1 - max by (pipeline) ({table.SLA_PERCENTILE.name}))",
                "{{pipeline}}",
            ),
        ),
        "Late, failed and dropped requests over those that the SLA allows: above 100 % the SLO is broken. "
        "Of pipelines with our router.",
        "stat",
    ),
    Panel(
        "Price by pipeline",
        "currencyUSD",
        (Query(f"{newest(table.COST, 'pipeline')} >= 0", "{{pipeline}}"),),
        "An hour, of pipelines whose file has prices.",
        stacked=True,
    ),
    Panel(
        "Cores, mean of the range shown",
        "none",
        (
            Query(
                f"sum by (pipeline) (avg_over_time("
                f"({newest(table.STAGE_CORES, 'pipeline, stage')} >= 0)[$__range:1m]))",
                "{{pipeline}}",
            ),
        ),
        "Times its hours they are the core hours; times the price of a core, what they cost.",
        "stat",
    ),
    Panel(
        "API: answers",
        "reqps",
        (
            Query(
                f'sum by (status) (rate({table.HTTP_REQUESTS.name}{{namespace=~"$namespace"}}[{RATE}]))',
                "{{status}}",
            ),
        ),
        "Requests a second by class of status.",
    ),
    Panel(
        "API: time to answer",
        "s",
        (
            Query(quantile(0.5, table.HTTP_SECONDS, "", 'namespace=~"$namespace"'), "p50"),
            Query(quantile(0.99, table.HTTP_SECONDS, "", 'namespace=~"$namespace"'), "p99"),
            Query(f'sum ({table.HTTP_IN_FLIGHT.name}{{namespace=~"$namespace"}})', "in flight"),
        ),
    ),
)

TIMELINE = (
    Panel(
        "Load seen and forecast",
        "reqps",
        (
            Query(newest(table.ARRIVAL_RATE), "seen"),
            Query(newest(table.FORECAST_POINT), "expected peak"),
            Query(newest(table.FORECAST_UPPER), "planned for"),
        ),
        "The band is from the expected peak to the quantile that plans are made for.",
        bands=(("planned for", "expected peak"),),
    ),
    Panel(
        "Latency and SLA",
        "s",
        (
            Query(newest(table.LATENCY), "seen"),
            Query(newest(table.PREDICTED_LATENCY), "predicted by the profiles"),
            Query(newest(table.SLA), "SLA"),
        ),
        "At the SLA's percentile. Seen far above predicted: the profile is wrong.",
        dashed=("SLA",),
    ),
    Panel(
        "Attainment and SLO",
        "percentunit",
        (Query(newest(table.IN_TIME), "in time"), Query(newest(table.SLA_PERCENTILE), "SLO")),
        "Part of the ended requests that were in time; below the line the SLO is broken.",
        dashed=("SLO",),
    ),
    Panel(
        "Price",
        "currencyUSD",
        (
            Query(newest(table.COST), "an hour"),
            Query(
                f"1e4 * {newest(table.COST)} / (3600 * {newest(table.ARRIVAL_RATE)} > 0)",
                "ten thousand requests",
            ),
        ),
        "Of all resources held, by the prices in the pipeline's file; none without them.",
    ),
    Panel(
        "Core seconds a request",
        "s",
        (Query(f"sum ({newest(table.STAGE_CORES, 'stage')}) / ({newest(table.ARRIVAL_RATE)} > 0)", "held"),),
        "Cores held over requests a second: what a request costs without prices. High at little load.",
    ),
    Panel(
        "Replicas",
        "none",
        (
            Query(newest(table.PLAN_REPLICAS, "stage"), "{{stage}} planned"),
            Query(newest(table.DESIRED_REPLICAS, "stage"), "{{stage}} decided"),
            Query(newest(table.REPLICAS, "stage"), "{{stage}} wanted"),
            Query(newest(table.READY_REPLICAS, "stage"), "{{stage}} ready"),
        ),
        "Before the guards, after them, as asked of the cluster, and those that answer.",
        steps=True,
    ),
    Panel(
        "Cores",
        "none",
        (
            Query(newest(table.PLAN_CORES, "stage"), "{{stage}} planned"),
            Query(newest(table.DESIRED_CORES, "stage"), "{{stage}} decided"),
            Query(newest(table.STAGE_CORES, "stage"), "{{stage}} held"),
        ),
        steps=True,
    ),
    Panel(
        "Accuracy (PAS)",
        "percentunit",
        (Query(newest(table.PAS), "runs"), Query(newest(table.PLAN_PAS), "planned")),
        "The product of the stages' accuracies.",
        steps=True,
    ),
    Panel(
        "Variants",
        "percentunit",
        (Query(f"{newest(table.SHARE, 'stage, variant')} > 0", "{{stage}}={{variant}}"),),
        "Part of the requests that are for each.",
        steps=True,
    ),
    Panel(
        "Slower than the profile",
        "none",
        (Query(newest(table.SLOWDOWN, "stage, variant"), "{{stage}}={{variant}}"),),
        "Time of batches over that of the profile; 1 is as measured.",
    ),
    Panel(
        "Changes, by reason",
        "none",
        (Query(often(table.DECISIONS, "reason", f'{HERE},reason=~"apply.*"'), "{{reason}}"),),
        "Decisions that changed what runs.",
        stacked=True,
    ),
    Panel(
        "Holds, by reason",
        "none",
        (Query(often(table.DECISIONS, "reason", f'{HERE},reason=~"hold.*"'), "{{reason}}"),),
        "Why nothing was changed.",
        stacked=True,
    ),
    Panel(
        "For a person to look at",
        "none",
        (
            Query(often(table.DECISIONS, "reason", f'{HERE},reason=~"{BAD}"'), "{{reason}}"),
            Query(newest(table.QUARANTINES), "quarantines"),
        ),
        "Of changes and holds those that are not the loop doing well.",
        stacked=True,
    ),
    Panel(
        "Age of the inputs",
        "s",
        (Query(newest(table.INPUT_AGE, "input"), "{{input}}"),),
        "At the last tick; grows while an input is not seen.",
    ),
    Panel(
        "Time of plans and ticks",
        "s",
        (
            Query(
                quantile(0.99, table.SOLVE, "solver, termination", 'namespace=~"$namespace"'),
                "p99 {{solver}} {{termination}}",
            ),
            Query(quantile(0.99, table.TICK, "", HERE), "p99 tick"),
            Query(f'max ({table.TICK_INTERVAL.name}{{namespace=~"$namespace"}})', "interval"),
        ),
        "Solving is over all pipelines, ticks are of this one.",
        dashed=("interval",),
    ),
    Panel(
        "Plans by solver",
        "none",
        (
            Query(
                f"sum by (solver, termination) "
                f'(increase({table.SOLVE.name}_count{{namespace=~"$namespace"}}[{RATE}]))',
                "{{solver}} {{termination}}",
            ),
        ),
        "Over all pipelines.",
        stacked=True,
    ),
    Panel(
        "Forecasts",
        "none",
        (Query(often(table.FORECASTS, "rung"), "{{rung}}"),),
        "By the rung of the ladder that made them.",
        stacked=True,
    ),
    Panel(
        "Error of the forecasts",
        "percentunit",
        (
            Query(
                f"max ({table.ARRIVAL_RATE.name}{{{HERE}}} "
                f"/ ({table.FORECAST_POINT.name}{{{HERE}}} offset 15s) - 1)",
                "load over expected",
            ),
            Query(f"max ({exceeded('1h', f'{{{HERE}}}')})", "time above the upper forecast, last hour"),
        ),
        "Above 0: more came than was expected. About 5 % of the time should be above the upper quantile.",
        signed=True,
    ),
    Panel(
        "Requests at the router",
        "reqps",
        (
            Query(rate(table.ROUTER_REQUESTS, "outcome", ROUTER), "{{outcome}}"),
            Query(f"sum (rate({table.ROUTER_ARRIVALS.name}{{{ROUTER}}}[{RATE}]))", "arrived"),
        ),
        "Of pipelines with our router.",
    ),
    Panel(
        "Requests without an answer",
        "reqps",
        (Query(rate(table.ROUTER_LOSSES, "stage, cause", ROUTER), "{{stage}}: {{cause}}"),),
        "By the stage that had them and by cause; of pipelines with our router.",
    ),
    Panel(
        "Queues",
        "none",
        (Query(newest(table.QUEUE_LENGTH, "stage", ROUTER), "{{stage}} waiting"),),
        "Items; of pipelines with our queues.",
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = _row(panels, "Fleet", FLEET, 0, "")
    _row(panels, "Timeline of $pipeline", TIMELINE, top, "pipeline")
    return {
        "title": "ipa",
        "uid": "ipa",
        "description": "What ipa sees, expects, decides and writes. Made from its catalogue of metrics.",
        "tags": ["ipa"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": [_marks()]},
        "panels": panels,
    }


def queries(board: dict[str, Any]) -> list[str]:
    """Every PromQL text of a dashboard: its panels', its variables' and its annotations'."""
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return expressions + [mark["expr"] for mark in board["annotations"]["list"]]


def _row(panels: list[dict[str, Any]], title: str, plots: Sequence[Panel], top: int, repeat: str) -> int:
    """Put a row and its plots below `top`; where the next may begin."""
    row: dict[str, Any] = {
        "type": "row",
        "id": len(panels) + 1,
        "title": title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": 2 * WIDTH, "h": 1},
        "panels": [],
    }
    panels.append({**row, "repeat": repeat} if repeat else row)
    for index, plot in enumerate(plots):
        place = {
            "x": index % 2 * WIDTH,
            "y": top + 1 + index // 2 * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        }
        panels.append({**_panel(plot), "id": len(panels) + 1, "gridPos": place})
    return top + 1 + -(-len(plots) // 2) * HEIGHT


def _panel(plot: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if plot.kind == "timeseries":
        custom = {"spanNulls": False, "showPoints": "never", "fillOpacity": 20 if plot.stacked else 0}
        custom["lineInterpolation"] = "stepAfter" if plot.steps else "linear"
        if plot.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
    return {
        "type": plot.kind,
        "title": plot.title,
        "description": plot.says,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": plot.unit, **({} if plot.signed else {"min": 0}), "custom": custom},
            "overrides": [
                *(_override(upper, "custom.fillBelowTo", lower) for upper, lower in plot.bands),
                *(
                    _override(name, "custom.lineStyle", {"fill": "dash", "dash": [10, 10]})
                    for name in plot.dashed
                ),
            ],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        if plot.kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(plot.queries)
        ],
    }


def _override(name: str, key: str, value: Any) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value}],
    }


def _marks() -> dict[str, Any]:
    """Changes as marks over all plots."""
    changes = often(table.DECISIONS, "pipeline, reason", f'{HERE},reason=~"apply.*"')
    return {
        "name": "Changes",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"{changes} > 0",
        "titleFormat": "{{pipeline}} {{reason}}",
    }


def _variables() -> list[dict[str, Any]]:
    chosen = {
        "type": "query",
        "datasource": DATASOURCE,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "sort": 1,
    }
    namespaces = f"label_values({table.BUILD.name}, namespace)"
    pipelines = f'label_values({table.SLA.name}{{namespace=~"$namespace"}}, pipeline)'
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        # Targets outside of a cluster say no namespace, which matches too.
        {**chosen, "name": "namespace", "label": "Namespace", "allValue": ".*", "query": namespaces},
        {**chosen, "name": "pipeline", "label": "Pipeline", "query": pipelines},
    ]
