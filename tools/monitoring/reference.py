"""docs/reference/metrics.md from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.metering import table
from ipa.metering.metric import Label, Metric, MetricsEndpoint

# The longest first: a name ends with its unit, before `_total`.
UNITS = ("timestamp_seconds", "core_seconds", "seconds", "cores", "rps", "ratio", "bytes")
HEAD = """# Metrics

On `/metrics` of the service, of each pipeline's router, of each stage's queue and of its model servers, as
Prometheus text.
Code, [alert rules](../../deploy/prometheus) and [dashboard](../../deploy/grafana) are made from one list,
`ipa/metering/table.py`; [Monitor](../how-to/monitor.md) says how to scrape and show them.

- Units are seconds, cores, requests a second (`rps`) and ratios; the name ends with its unit.
- Each line has the type and the labels in brackets.
- A counter begins at 0. A gauge of what was not seen is `NaN`: neither the last value nor 0. A series that
  is absent means that nothing was scraped.
- Every value of a closed label is there from the start. No label is what a client wrote: paths are route
  templates.
- With several replicas of the service each says what it sees: take `max by (pipeline)` of gauges and
  `sum by (pipeline)` of counters. A standby counts `hold.not_leader`.
"""

TITLES = {
    MetricsEndpoint.SERVICE: "Of the service",
    MetricsEndpoint.ROUTER: "Of a router",
    MetricsEndpoint.QUEUE: "Of a stage's queue",
    MetricsEndpoint.REPLICA: "Of a stage's model server",
}


def reference() -> str:
    """The page."""
    return "\n".join([HEAD, *_tables(), *_labels()])


def _tables() -> Iterator[str]:
    for place, title in TITLES.items():
        yield f"## {title}\n"
        yield from (_row(metric) for metric in table.METRICS if metric.place is place)
        yield ""


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{name}`" for name in metric.label_names)
    unit = next((unit for unit in UNITS if metric.base.endswith(unit)), "").replace("_", " ")
    kind = metric.kind.value if not unit or unit in metric.name else f"{metric.kind.value} in {unit}"
    says = f"{metric.help} ({metric.when})" if metric.when else metric.help
    return f"- `{metric.name}` ({'; '.join(filter(None, (kind, labels)))}): {says}"


def _labels() -> Iterator[str]:
    yield "## Labels\n"
    labels: dict[tuple[str, str], Label] = {}
    having: dict[tuple[str, str], list[str]] = {}
    for metric in table.METRICS:
        for label in metric.labels:
            key = (label.name, label.bound)
            labels[key] = label
            having.setdefault(key, []).append(metric.name)
    for key, label in sorted(labels.items()):
        metrics = having[key]
        which = f"{len(metrics)} metrics" if len(metrics) > 3 else ", ".join(f"`{name}`" for name in metrics)
        values = ", ".join(f"`{value}`" for value in label.values) or label.bound
        yield f"- `{label.name}` of {which}: {values}"
    yield ""
