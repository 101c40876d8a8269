"""The operating points a planner may choose from: variant × batch size × cores, margins applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum

from ipa.model.pipeline import Bounds, Objective, Stage
from ipa.model.profile import OperatingPoint, StageProfile, VariantProfile
from ipa.profiling.base import base_allocation, point_capacity_rps, point_latency_s

# IPA plans over powers of two.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Allocation(StrEnum):
    """Cores of a replica: fixed by IPA's base allocation, or a decision among all measured sizes."""

    BASE = "base"
    FREE = "free"


class LatencySource(StrEnum):
    """Latency from the fit, at any batch size in its domain, or as measured, at the measured ones only."""

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

    MEASURED: the measured batch sizes; latency and throughput as measured. FITTED: `bounds.batch_sizes`, by
    default powers of two to 64, inside the measured range; latency l(b) from the fit, throughput the measured
    maximum where that batch was measured, else b / l(b). Latency is multiplied by 1 + latency margin and
    throughput by 1 + throughput margin of the objective; for a fitted throughput the latency in it carries no
    margin. `objective.max_batch_size` and `bounds.batch_sizes` hold in both.

    Base allocation is always taken from the measured points. A variant that has none is left out, so the
    result may be empty. NotFoundError where the profile lacks a variant of the stage.
    """
    variants = tuple(profile.variant(variant.name) for variant in stage.variants)
    used = replace(profile, variants=variants)
    cores = base_allocation(used, objective) if allocation is Allocation.BASE else None
    generate = _measured if source is LatencySource.MEASURED else _fitted
    return tuple(
        point
        for variant in variants
        for point in generate(variant, objective, bounds)
        if _allowed(point, objective, bounds) and (cores is None or _is_base(point, cores))
    )


def _is_base(point: OperatingPoint, cores: Mapping[str, float]) -> bool:
    return cores.get(point.variant) == point.cores


def _allowed(point: OperatingPoint, objective: Objective, bounds: Bounds) -> bool:
    if objective.max_batch_size is not None and point.batch_size > objective.max_batch_size:
        return False
    return bounds.batch_sizes is None or point.batch_size in bounds.batch_sizes


def _measured(variant: VariantProfile, objective: Objective, _: Bounds) -> Iterator[OperatingPoint]:
    for point in sorted(variant.points, key=lambda each: (each.cores, each.batch_size)):
        yield OperatingPoint(
            variant=variant.variant,
            accuracy=variant.accuracy,
            batch_size=point.batch_size,
            cores=point.cores,
            latency_s=point_latency_s(point, objective),
            capacity_rps=point_capacity_rps(point, objective),
        )


def _fitted(variant: VariantProfile, objective: Objective, bounds: Bounds) -> Iterator[OperatingPoint]:
    # Here, since scikit-learn takes seconds to import and measured points do not need it.
    from ipa.profiling.fit import fit_variant

    fitted = fit_variant(variant)
    for cores, fit in fitted.fits.items():
        for batch_size in bounds.batch_sizes or BATCH_SIZES:
            if fit.batch_min <= batch_size <= fit.batch_max:
                yield OperatingPoint(
                    variant=variant.variant,
                    accuracy=variant.accuracy,
                    batch_size=batch_size,
                    cores=cores,
                    latency_s=fit.latency_s(batch_size) * (1 + objective.latency_margin_ratio),
                    capacity_rps=fitted.capacity_rps(batch_size, cores)
                    * (1 + objective.throughput_margin_ratio),
                )
