"""From what is said of a metric to the object that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ipa.metering.metric import Kind, Metric


def new_registry() -> CollectorRegistry:
    """An empty registry. From then on no counter of the process has a `_created` series beside it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """The counter on that registry."""
    return Counter(metric.base, metric.help, metric.label_names, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """The gauge on that registry."""
    return Gauge(metric.name, metric.help, metric.label_names, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    """The histogram on that registry."""
    return Histogram(metric.name, metric.help, metric.label_names, registry=registry, buckets=metric.buckets)


MAKERS: Mapping[Kind, Callable[[Metric, CollectorRegistry], Counter | Gauge | Histogram]] = {
    Kind.COUNTER: counter,
    Kind.GAUGE: gauge,
    Kind.HISTOGRAM: histogram,
}


def counted(metric: Metric, values: Iterable[tuple[tuple[str, ...], float]]) -> CounterMetricFamily:
    """The counter as a collector yields it, of (label values, value)."""
    family = CounterMetricFamily(metric.base, metric.help, labels=metric.label_names)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def gauged(metric: Metric, values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    """The gauge as a collector yields it, of (label values, value)."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.label_names)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def combinations(metric: Metric, *given: str) -> list[tuple[str, ...]]:
    """All label values of a metric whose first labels have the given values and whose others are closed."""
    closed = [label.values for label in metric.labels[len(given) :]]
    return [(*given, *rest) for rest in product(*closed)]
