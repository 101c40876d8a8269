"""Prometheus objects from metric declarations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ipa.metering.metric import Metric, MetricKind


def new_registry() -> CollectorRegistry:
    """An empty registry. From now on no counter of the process has a `_created` series."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """A counter on that registry."""
    return Counter(metric.base, metric.help, metric.label_names, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """A gauge on that registry."""
    return Gauge(metric.name, metric.help, metric.label_names, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    """A histogram on that registry."""
    return Histogram(metric.name, metric.help, metric.label_names, registry=registry, buckets=metric.buckets)


MAKERS: Mapping[MetricKind, Callable[[Metric, CollectorRegistry], Counter | Gauge | Histogram]] = {
    MetricKind.COUNTER: counter,
    MetricKind.GAUGE: gauge,
    MetricKind.HISTOGRAM: histogram,
}


Values = Iterable[tuple[tuple[str, ...], float]]
Family = CounterMetricFamily | GaugeMetricFamily


class Figures(Collector):
    """A collector of counters and gauges, each with the function that reads it at each scrape.

    The function returns the value, or for each series its label values and its value.
    """

    def __init__(self, *figures: tuple[Metric, Callable[[], float | Values]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        """Yield each metric that has values."""
        for metric, read in self._figures:
            values = read()
            make = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
            family = make(metric.base, metric.help, labels=metric.label_names)
            for labels, value in [((), values)] if isinstance(values, int | float) else values:
                family.add_metric(labels, value)
            if family.samples:
                yield family


def combinations(metric: Metric, *given: str) -> list[tuple[str, ...]]:
    """All label values of a metric that begin with the given ones; the other labels are closed."""
    closed = [label.values for label in metric.labels[len(given) :]]
    return [(*given, *rest) for rest in product(*closed)]
