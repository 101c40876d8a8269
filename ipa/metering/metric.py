"""Declarations of metrics and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Replaces a value that a closed label does not know, so that it cannot add a series.
OTHER = "other"


class MetricKind(StrEnum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricsEndpoint(StrEnum):
    """The process whose /metrics endpoint exports a metric."""

    SERVICE = "service"
    ROUTER = "router"
    QUEUE = "queue"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its possible values, or a description of their bound."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""

    def known(self, value: str) -> str:
        """The value, or OTHER if the label has a closed set of values without it."""
        return value if not self.values or value in self.values else OTHER


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name in queries, help and labels. The name tells type and unit, except for a histogram.

    A counter's name ends with `_total`, and before that every name with its unit. A histogram has `buckets`.
    `when` is the condition under which it exists, if any.
    """

    name: str
    help: str
    labels: tuple[Label, ...] = ()
    place: MetricsEndpoint = MetricsEndpoint.SERVICE
    buckets: tuple[float, ...] = ()
    when: str = ""

    @property
    def kind(self) -> MetricKind:
        """The Prometheus type."""
        if self.buckets:
            return MetricKind.HISTOGRAM
        return MetricKind.COUNTER if self.name.endswith("_total") else MetricKind.GAUGE

    @property
    def base(self) -> str:
        """The name of the metric family: without a counter's `_total`."""
        return self.name.removesuffix("_total")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels' names, in order."""
        return tuple(label.name for label in self.labels)

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series: three of a histogram."""
        if self.kind is not MetricKind.HISTOGRAM:
            return (self.name,)
        return self.bucket, self.count, self.sum

    @property
    def bucket(self) -> str:
        """The name of a histogram's cumulative buckets."""
        return f"{self.name}_bucket"

    @property
    def count(self) -> str:
        """The name of a histogram's number of observations."""
        return f"{self.name}_count"

    @property
    def sum(self) -> str:
        """The name of a histogram's sum of observations."""
        return f"{self.name}_sum"

    def label(self, name: str) -> Label:
        """The label of that name."""
        return next(label for label in self.labels if label.name == name)
