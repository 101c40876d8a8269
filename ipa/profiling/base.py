"""IPA's base allocation: the cores of one replica, fixed before planning (Ghafouri et al., JSys 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from ipa.model.errors import DomainError
from ipa.model.pipeline import Objective
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

# The paper has SLA_s = 5 × the mean batch-1 latency. The released code multiplies by five twice; base
# allocations and published SLAs come from that.
SLA_FACTOR = 25.0


def point_latency_s(point: ProfilePoint, objective: Objective) -> float:
    """The measured latency of one batch with the objective's margin, in seconds."""
    return point.latency_s * (1 + objective.latency_margin_ratio)


def point_capacity_rps(point: ProfilePoint, objective: Objective) -> float:
    """The measured throughput with the objective's margin, in items a second.

    Where no throughput was measured it is the batch over its mean latency, or over its high percentile.
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
        found = next((index for index in range(start, len(sizes)) if counts[index]), None)
        if found is not None:
            position = found
            allocation[variant.variant] = sizes[found]
    return allocation


def _sustained(variant: VariantProfile, cores: float, objective: Objective, sla_s: float) -> int:
    """The number of measured batch sizes that a replica on these cores carries at the threshold in time."""
    return sum(
        point_capacity_rps(point, objective) >= objective.threshold_rps
        and point_latency_s(point, objective) <= sla_s
        for point in variant.points
        if point.cores == cores
    )
