"""Profiles: measured latency and throughput of variants over batch size and cores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ipa.model.errors import NotFoundError
from ipa.model.forms import (
    Accelerators,
    BatchSize,
    Day,
    Line,
    Name,
    PositiveDuration,
    PositiveMemory,
    PositiveRate,
    VariantName,
)
from ipa.model.recording import UNLESS_DEFAULT

# The bounds of a slowdown. Beyond the upper one a variant is broken: more replicas would not help.
LEAST_SLOWDOWN, MOST_SLOWDOWN = 0.5, 4.0


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A variant's slowdown: its batches take `ratio` times its profile's time; 1 is as measured.

    If the measured accuracy contradicts the profile's, `accuracy` is its lower bound and `mean_accuracy` the
    measured one; else None.
    """

    stage: str
    variant: str
    ratio: float
    accuracy: float | None = None
    mean_accuracy: float | None = None


# The slowdowns other than 1, each variant once, in the order of the pipeline: equal values make equal keys.
Slowdowns = tuple[Slowdown, ...]
AS_MEASURED: Slowdowns = ()


def ratios_of(slowdowns: Iterable[Slowdown], stage: str) -> dict[str, float]:
    """The slowdowns of a stage's variants, by name; a variant without an entry has 1."""
    return {each.variant: each.ratio for each in slowdowns if each.stage == stage}


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """One measurement: a replica with these cores serving batches of this size."""

    cores: float
    """Of one replica."""
    batch_size: BatchSize
    """Items in the batch."""
    latency_s: PositiveDuration
    """p99 of the service time of one batch."""
    latency_mean_s: PositiveDuration | None = None
    # None: batch_size / latency_mean_s.
    throughput_rps: PositiveRate | None = None
    """The most items a second."""
    foreign_cpu_ratio: float | None = field(default=None, metadata=UNLESS_DEFAULT)
    """The share of its CPUs that other processes or machines used meanwhile, if they disturbed it."""

    @property
    def item_core_s(self) -> float:
        """The core seconds for an item of a batch: by the mean latency, else by the measured quantile."""
        latency_s = self.latency_s if self.latency_mean_s is None else self.latency_mean_s
        return latency_s * self.cores / self.batch_size

    def slowed(self, ratio: float) -> ProfilePoint:
        """The measurement of a replica that takes `ratio` times as long."""
        return replace(
            self,
            latency_s=self.latency_s * ratio,
            latency_mean_s=None if self.latency_mean_s is None else self.latency_mean_s * ratio,
            throughput_rps=None if self.throughput_rps is None else self.throughput_rps / ratio,
        )


def time_per_item(batches: Sequence[tuple[int, float]]) -> float | None:
    """The time that each item adds to a batch, by least squares; None if all batches are of one size.

    `batches` are pairs of items and time. Neither the time of an item nor the fixed time of a batch is
    negative.
    """
    if len({items for items, _ in batches}) == 1:
        return None
    mean, mean_s = (sum(each) / len(batches) for each in zip(*batches, strict=True))
    spread = sum((items - mean) ** 2 for items, _ in batches)
    shared = sum((items - mean) * (took_s - mean_s) for items, took_s in batches)
    item_s: float = min(max(shared / spread, 0.0), mean_s / mean)
    return item_s


@dataclass(frozen=True, slots=True)
class VariantProfile:
    """All measurements of one variant, whose memory is the same at every number of cores."""

    variant: VariantName
    accuracy: float
    points: tuple[ProfilePoint, ...]
    readiness_s: PositiveDuration | None = None
    """From start to the first answer."""
    memory_gib: PositiveMemory | None = None
    """Of one replica."""
    rows_per_item: tuple[int, int] | None = None
    """If they are not [1, 1], the stage does not batch on targets whose replicas batch by themselves."""
    accelerators: Accelerators = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    """Of one replica."""
    assumed_ratio: float | None = field(default=None, metadata=UNLESS_DEFAULT)
    """If the times are assumed, not measured: the ratio of them, the longest credible, to the likely ones."""

    @property
    def item_core_s(self) -> float:
        """The fewest core seconds for an item, over all measurements; 0 without any."""
        return min((point.item_core_s for point in self.points), default=0.0)

    @property
    def batch_core_s(self) -> tuple[float, float]:
        """The core seconds for the first item of a batch and for each further one; (0, 0) without any.

        By least squares over all measurements.
        """
        if not self.points:
            return 0.0, 0.0
        taken = [(point.batch_size, point.item_core_s * point.batch_size) for point in self.points]
        mean, mean_s = (sum(each) / len(taken) for each in zip(*taken, strict=True))
        next_s = time_per_item(taken)
        next_s = mean_s / mean if next_s is None else next_s
        return mean_s - next_s * (mean - 1), next_s

    def slowed(self, ratio: float) -> VariantProfile:
        """The profile of replicas that take `ratio` times as long for each batch."""
        return (
            replace(self, points=tuple(point.slowed(ratio) for point in self.points)) if ratio != 1 else self
        )

    @property
    def has_varying_rows(self) -> bool:
        """True if an item was answered with a number of rows other than one."""
        return self.rows_per_item not in (None, (1, 1))


@dataclass(frozen=True, slots=True)
class StageProfile:
    """The profiles of one stage's variants, with the place, time and method of measurement."""

    pipeline: Name
    """Also the name of the folder the file lies in."""
    stage: Name
    """Also the name of the file."""
    variants: tuple[VariantProfile, ...]
    hardware: Line
    measured_on: Day
    method: Line
    source: str = ""
    load_rps: PositiveRate | None = None
    """Offered while measuring, if it was limited: throughput is then censored at it."""

    def variant(self, name: str) -> VariantProfile:
        """The profile of that variant; NotFoundError lists the existing ones."""
        for profile in self.variants:
            if profile.variant == name:
                return profile
        known = ", ".join(profile.variant for profile in self.variants)
        raise NotFoundError(
            f"the profile of stage {self.pipeline}/{self.stage} has no variant {name!r}",
            hint=f"It has: {known}",
        )

    def slowed(self, slowdowns: Slowdowns) -> StageProfile:
        """The profile with each variant's times multiplied by its slowdown."""
        ratios = ratios_of(slowdowns, self.stage)
        variants = (each.slowed(ratios.get(each.variant, 1.0)) for each in self.variants)
        return replace(self, variants=tuple(variants))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The performance of one replica that runs this variant with this batch size on these cores.

    `latency_s` is the service latency l(b) of one batch at the high percentile, `latency_mean_s` its mean
    (None: as the percentile), `capacity_rps` the throughput h(b) in items a second; all include the
    objective's margins. `readiness_s` is the time until a new replica serves. `slowdown_ratio` is the
    observed time of a batch over its profile's; all numbers include it. `mean_accuracy` counts in the
    objective, None if it is the `accuracy`, which counts for PAS and floors.
    """

    variant: str
    accuracy: float
    batch_size: int
    cores: float
    latency_s: float
    capacity_rps: float
    latency_mean_s: float | None = None
    memory_gib: float = 0.0
    readiness_s: float = 0.0
    slowdown_ratio: float = 1.0
    accelerators: Mapping[str, float] = field(default_factory=dict, hash=False)
    mean_accuracy: float | None = None

    @property
    def mean_s(self) -> float:
        """The mean service latency of one batch, or the high percentile where no mean was measured."""
        return self.latency_s if self.latency_mean_s is None else self.latency_mean_s

    def corrected(self, slowdown: Slowdown) -> OperatingPoint:
        """The point of a replica with that slowdown and accuracy."""
        ratio = slowdown.ratio
        return replace(
            self,
            accuracy=self.accuracy if slowdown.accuracy is None else slowdown.accuracy,
            mean_accuracy=slowdown.mean_accuracy,
            latency_s=self.latency_s * ratio,
            capacity_rps=self.capacity_rps / ratio,
            latency_mean_s=None if self.latency_mean_s is None else self.latency_mean_s * ratio,
            slowdown_ratio=self.slowdown_ratio * ratio,
        )
