"""Profiles: measured latency and throughput of variants over batch size and cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from ipa.model.errors import NotFoundError
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.slowdown import Slowdowns, ratios_of


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """One measurement: a replica with these cores serving batches of this size.

    `latency_s` is the high percentile (p99) of one batch's service time, `latency_mean_s` its mean,
    `throughput_rps` the most items a second that were measured (None: batch_size / latency_mean_s).
    `foreign_cpu_ratio` is the share of its CPUs that others used meanwhile, None if that is unknown.
    """

    cores: float
    batch_size: int
    latency_s: float
    latency_mean_s: float | None = None
    throughput_rps: float | None = None
    foreign_cpu_ratio: float | None = field(default=None, metadata=UNLESS_DEFAULT)

    @property
    def item_core_s(self) -> float:
        """The core seconds for an item of a batch: by the mean latency, else by the quantile measured."""
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

    `batches` are their items and times. Neither an item nor a batch beside its items takes less than nothing
    on the mean.
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
    """All measurements of one variant. `accuracy` is a fraction.

    `memory_gib` and `accelerators` (a count by kind) are those of one replica, at every number of cores.
    `rows_per_item` are the fewest and the most rows of an item's answer; None if not measured.
    """

    variant: str
    accuracy: float
    points: tuple[ProfilePoint, ...]
    readiness_s: float | None = None
    memory_gib: float | None = None
    rows_per_item: tuple[int, int] | None = None
    accelerators: Mapping[str, float] = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)

    @property
    def item_core_s(self) -> float:
        """The least core seconds for an item, over all measurements; 0 without any."""
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

    @property
    def has_varying_rows(self) -> bool:
        """True if some item was answered with a number of rows other than one."""
        return self.rows_per_item not in (None, (1, 1))


@dataclass(frozen=True, slots=True)
class StageProfile:
    """The profiles of one stage's variants, with the place, time and method of measurement."""

    pipeline: str
    stage: str
    variants: tuple[VariantProfile, ...]
    hardware: str
    measured_on: date
    method: str
    source: str = ""
    # The load offered during the measurement, if any.
    load_rps: float | None = None

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
        variants = tuple(
            replace(each, points=tuple(point.slowed(ratios[each.variant]) for point in each.points))
            if each.variant in ratios
            else each
            for each in self.variants
        )
        return replace(self, variants=variants)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The performance of one replica that runs this variant with this batch size on these cores.

    `latency_s` is the service latency l(b) of one batch at the high percentile, `latency_mean_s` its mean
    (None: as the percentile), `capacity_rps` the throughput h(b) in items a second; all include the
    objective's margins. `readiness_s` is the time until a new replica serves. `slowdown_ratio` is the
    observed time of a batch over its profile's; all numbers include it.
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

    def slowed(self, ratio: float) -> OperatingPoint:
        """The point of a replica that takes `ratio` times as long for each batch."""
        return replace(
            self,
            latency_s=self.latency_s * ratio,
            capacity_rps=self.capacity_rps / ratio,
            latency_mean_s=None if self.latency_mean_s is None else self.latency_mean_s * ratio,
            slowdown_ratio=self.slowdown_ratio * ratio,
        )
