"""The operating points a planner may choose from: variant × batch size × cores, margins applied.

With IPA's base allocation: the cores of one replica, fixed before planning (Ghafouri et al., JSys 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from math import inf, log
from statistics import fmean
from typing import Any

from ipa.model.errors import DomainError
from ipa.model.measured import stage_beside
from ipa.model.pipeline import Bounds, Objective, Stage
from ipa.model.plan import cores_of
from ipa.model.profile import OperatingPoint, ProfilePoint, StageProfile, VariantProfile
from ipa.model.resources import BESIDE_CORES, Resources
from ipa.profiling.fit import fit_variant
from ipa.queueing.service import ServiceTime
from ipa.queueing.tail import sojourn

# The paper has SLA_s = 5 × the mean batch-1 latency. The released code multiplies by five twice; base
# allocations and published SLAs come from that.
SLA_FACTOR = 25.0
# Halvings of an interval: the rest is far below the precision of measured latencies.
HALVINGS = 30


def point_latency_s(point: ProfilePoint, objective: Objective) -> float:
    """The measured latency of one batch with the objective's margin, in seconds."""
    return point.latency_s * (1 + objective.latency_margin_ratio)


def point_capacity_rps(point: ProfilePoint, objective: Objective) -> float:
    """The measured throughput with the objective's margin, in items a second.

    Without a measured throughput it is the batch over its mean latency, or over its high percentile.
    """
    measured_rps = point.throughput_rps
    if measured_rps is None:
        measured_rps = point.batch_size / (point.latency_mean_s or point.latency_s)
    return measured_rps * (1 + objective.throughput_margin_ratio)


def stage_sla_s(profile: StageProfile, objective: Objective) -> float:
    """A stage's own SLA in seconds: `SLA_FACTOR` × the mean of the variants' batch-1 latencies.

    With the objective's margin, taken at the largest measured cores. DomainError if a variant has no
    batch of 1 there.
    """
    return SLA_FACTOR * fmean(_single_latency_s(variant, objective) for variant in profile.variants)


def _single_latency_s(variant: VariantProfile, objective: Objective) -> float:
    largest = max(point.cores for point in variant.points)
    for point in variant.points:
        if point.cores == largest and point.batch_size == 1:
            return point_latency_s(point, objective)
    raise DomainError(
        f"variant {variant.variant!r} was not measured with a batch of 1 on {cores_of(largest)}",
        hint="Base allocation needs that point: measure it, or plan with allocation free.",
    )


def base_allocation(
    profile: StageProfile, objective: Objective, *, sla_s: float | None = None
) -> Mapping[str, float]:
    """The cores of one replica of each variant, by variant name, as the released code chooses them.

    A size sustains a batch if the measured throughput is at least `objective.threshold_rps` and the latency
    within the stage's SLA (`sla_s`, by default `stage_sla_s` of the released code). Variants are visited in
    rising accuracy with one pointer into the sizes; it moves up once if the next size sustains more batches,
    then until some batch is sustained, and never back. A variant that no size from there on sustains is left
    out.
    """
    limit_s = stage_sla_s(profile, objective) if sla_s is None else sla_s
    sizes = sorted({point.cores for variant in profile.variants for point in variant.points})
    allocation: dict[str, float] = {}
    position = -1
    for variant in sorted(profile.variants, key=lambda each: each.accuracy):
        counts = [_sustained(variant, size, objective, limit_s) for size in sizes]
        current = counts[position] if position >= 0 else 0
        start = max(position, 0)
        if position + 1 < len(sizes) and counts[position + 1] > current:
            start = position + 1
        place = next((index for index in range(start, len(sizes)) if counts[index]), None)
        if place is not None:
            position = place
            allocation[variant.variant] = sizes[place]
    return allocation


def _sustained(variant: VariantProfile, cores: float, objective: Objective, sla_s: float) -> int:
    """The number of measured batch sizes that a replica on these cores carries at the threshold in time."""
    return sum(
        point_capacity_rps(point, objective) >= objective.threshold_rps
        and point_latency_s(point, objective) <= sla_s
        for point in variant.points
        if point.cores == cores
    )


# IPA plans over powers of two.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Allocation(StrEnum):
    """The choice of a replica's cores: IPA's base allocation, or any measured size."""

    BASE = "base"
    FREE = "free"


class LatencySource(StrEnum):
    """The source of latencies: the fit, at any batch size in its domain, or the measurements themselves."""

    FITTED = "fitted"
    MEASURED = "measured"


def operating_points(
    profile: StageProfile,
    stage: Stage,
    objective: Objective,
    bounds: Bounds,
    *,
    allocation: Allocation,
    source: LatencySource,
) -> tuple[OperatingPoint, ...]:
    """Every point at which a replica of the stage may run, variants in the order of the pipeline.

    MEASURED: the measured batch sizes; latency and throughput as measured. FITTED: the `batch_sizes` of both
    bounds, by default powers of two to 64 and a pinned one, inside the measured range; latency l(b) from the
    fit, throughput the measured maximum if that batch was measured, else b / l(b). Latency is multiplied by 1
    + latency margin and throughput by 1 + throughput margin of the objective; for a fitted throughput the
    latency in it carries no margin. `objective.max_batch_size` and the `batch_sizes` of pipeline and stage
    hold in both.

    The mean latency is as far below the high percentile as at the measured point (FITTED: of the same cores,
    the batch size nearest in ratio), and None if no mean was measured. Memory and accelerators are those of
    the profile or those that the file gives the variant, whichever are more; readiness that of the profile,
    else 0.

    Base allocation always uses the measured points. A variant without one is left out, so the result may be
    empty. Errors: NotFoundError (the profile lacks a variant of the stage), those of `stage_beside`.
    """
    profiles = tuple(profile.variant(variant.name) for variant in stage.variants)
    used = replace(profile, variants=profiles)
    cores = base_allocation(used, objective) if allocation is Allocation.BASE else None
    generate = _measured if source is LatencySource.MEASURED else _fitted
    sizes = stage.limits(bounds).batch_sizes
    pinned = stage.pin.batch_size
    candidates = sizes or (BATCH_SIZES if pinned is None else tuple(sorted({*BATCH_SIZES, pinned})))
    besides = stage_beside(stage, profiles, bounds)
    return tuple(
        OperatingPoint(
            variant=measured.variant,
            accuracy=measured.accuracy,
            batch_size=batch_size,
            cores=size,
            latency_s=latency_s,
            capacity_rps=capacity_rps,
            latency_mean_s=None if mean_ratio is None else latency_s * mean_ratio,
            readiness_s=measured.readiness_s or 0.0,
            **_beside(besides[measured.variant]),
        )
        for measured in profiles
        for size, batch_size, latency_s, capacity_rps, mean_ratio in generate(measured, objective, candidates)
        if batch_size <= (objective.max_batch_size or inf)
        and (sizes is None or batch_size in sizes)
        and (cores is None or cores.get(measured.variant) == size)
    )


def _beside(held: Resources) -> dict[str, Any]:
    """The fields of an operating point for a replica's resources other than cores."""
    names = (*(each.attribute for each in BESIDE_CORES), "accelerators")
    return {name: getattr(held, name) for name in names}


# Cores, batch size, latency and capacity with their margins, and the ratio of `_mean_ratio`.
_Figures = tuple[float, int, float, float, float | None]


def _measured(variant: VariantProfile, objective: Objective, _: Sequence[int]) -> Iterator[_Figures]:
    for point in sorted(variant.points, key=lambda each: (each.cores, each.batch_size)):
        latency_s, capacity_rps = point_latency_s(point, objective), point_capacity_rps(point, objective)
        yield point.cores, point.batch_size, latency_s, capacity_rps, _mean_ratio([point], point.batch_size)


def _fitted(variant: VariantProfile, objective: Objective, sizes: Sequence[int]) -> Iterator[_Figures]:
    fitted = fit_variant(variant)
    for cores, fit in fitted.fits.items():
        near = [point for point in variant.points if point.cores == cores]
        for batch_size in sizes:
            if fit.batch_min <= batch_size <= fit.batch_max:
                latency_s = fit.latency_s(batch_size) * (1 + objective.latency_margin_ratio)
                fitted_rps = fitted.capacity_rps(batch_size, cores)
                capacity_rps = fitted_rps * (1 + objective.throughput_margin_ratio)
                yield cores, batch_size, latency_s, capacity_rps, _mean_ratio(near, batch_size)


def _mean_ratio(points: Sequence[ProfilePoint], batch_size: int) -> float | None:
    """Mean over high percentile at the batch size nearest in ratio that has a mean; None without any.

    At most 1: a mean above the p99 comes from a p99 of too few batches, and is planned as no spread.
    """
    with_mean = [point for point in points if point.latency_mean_s is not None]
    if not with_mean:
        return None
    nearest = min(with_mean, key=lambda point: (abs(log(point.batch_size / batch_size)), point.batch_size))
    assert nearest.latency_mean_s is not None
    return min(1.0, nearest.latency_mean_s / nearest.latency_s)


def under_load(point: OperatingPoint, percentile: float = 99.0) -> ServiceTime:
    """The constant service time of a replica whose latency was measured at its throughput, waiting included.

    With this service time, the latency's quantile under random arrivals at that rate is the measured one
    (`ipa.queueing.tail.sojourn`); the rate itself is within the replica's capacity.
    """
    batch_size, rate_rps = point.batch_size, point.capacity_rps
    low_s, high_s = 0.0, batch_size / rate_rps
    for _ in range(HALVINGS):
        middle_s = (low_s + high_s) / 2
        time = sojourn(batch_size, 1, middle_s, middle_s, rate_rps, percentile=percentile, timeout_s=0.0)
        if float(time.quantile_s) <= point.latency_s:
            low_s = middle_s
        else:
            high_s = middle_s
    return ServiceTime(high_s, high_s / batch_size)


def largest_batch(stage: Stage, bounds: Bounds, batch_size: int) -> int:
    """The most items of a batch if batches of `batch_size` cannot carry the arrivals.

    It is the largest that the file allows; `batch_size` if it has no limit, or pins the size.
    """
    sizes = stage.limits(bounds).batch_sizes
    return batch_size if stage.pin.batch_size is not None or not sizes else max(sizes)


def profiled_times(stage: Stage, bounds: Bounds, cores: float) -> dict[str, tuple[float, float]]:
    """The `profiled_s` of a stage's queue whose replicas have that many cores."""
    return {
        name: (measured.batch_core_s[0] / cores, measured.batch_core_s[1] / cores)
        for (of, name), measured in bounds.measured.items()
        if of == stage.name and measured.batch_core_s[0] > 0
    }
