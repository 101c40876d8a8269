"""What is said of a metric, and of its labels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# What a value that a closed label does not know is called, so that it can never make a series more.
OTHER = "other"


class MetricKind(StrEnum):
    """What Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricsEndpoint(StrEnum):
    """Whose /metrics it is on."""

    SERVICE = "service"
    ROUTER = "router"
    QUEUE = "queue"


class Unit(StrEnum):
    """The base units; the metric's name ends with its unit, before `_total`."""

    SECONDS = "seconds"
    TIMESTAMP = "timestamp_seconds"
    CORES = "cores"
    CORE_SECONDS = "core_seconds"
    RPS = "rps"
    RATIO = "ratio"
    BYTES = "bytes"
    # How many of what the name says.
    COUNT = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A label: all the values it can have, or in words what bounds them."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""

    def known(self, value: str) -> str:
        """The value, or OTHER where the label is closed and does not know it."""
        return value if not self.values or value in self.values else OTHER


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name as it is asked for (a counter's with `_total`), and all else that is said of it.

    `when` says where it is to be found, where not everywhere; `since` is the version that first had it.
    """

    name: str
    kind: MetricKind
    unit: Unit
    help: str
    labels: tuple[Label, ...] = ()
    place: MetricsEndpoint = MetricsEndpoint.SERVICE
    buckets: tuple[float, ...] = ()
    when: str = ""
    since: str = "0.1"

    @property
    def base(self) -> str:
        """The name of the family: without a counter's `_total`."""
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
        return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))

    def label(self, name: str) -> Label:
        """The label of that name."""
        return next(label for label in self.labels if label.name == name)
