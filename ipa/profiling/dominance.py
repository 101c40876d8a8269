"""Dominated variants: another of the stage is at least as good wherever both were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.model.pipeline import Stage
from ipa.model.profile import StageProfile, VariantProfile
from ipa.model.resources import beside_of
from ipa.profiling.fit import VariantFit, fit_variant
from ipa.profiling.points import BATCH_SIZES

Costs = tuple[float, ...]


def dominated(
    profile: StageProfile, names: Sequence[str], stages: Sequence[Stage] = ()
) -> Iterator[tuple[str, str]]:
    """The variants of those names that another of them dominates, each with that other.

    The other is at least as accurate, takes no more memory or accelerators and sends no more items to any of
    `stages`; on every measured number of cores, at each batch size that may be planned with, it is as quick
    and carries as much, as measured and as fitted; and in something it is better. Unknown memory is no more
    than unknown memory only. Readiness does not count.
    """
    measured = [each for each in profile.variants if each.variant in names]
    edges = [edge for stage in stages for edge in stage.after if edge.parent == profile.stage]
    for variant in measured:
        for other in measured:
            sends = [(edge.items(variant.variant), edge.items(other.variant)) for edge in edges]
            if all(most >= items for most, items in sends) and _dominates(other, variant):
                yield variant.variant, other.variant
                break


def _dominates(other: VariantProfile, variant: VariantProfile) -> bool:
    if other.accuracy < variant.accuracy or not _takes_no_more(other, variant):
        return False
    own, others = fit_variant(variant), fit_variant(other)
    better = other.accuracy > variant.accuracy
    for cores, batch_size in _planned_at(own):
        costs, least = _costs(own, cores, batch_size), _costs(others, cores, batch_size)
        if len(costs) > len(least) or any(most < cost for most, cost in zip(costs, least, strict=False)):
            return False
        better = better or any(most > cost for most, cost in zip(costs, least, strict=False))
    return better


def _takes_no_more(other: VariantProfile, variant: VariantProfile) -> bool:
    if (other.memory_gib is None) is not (variant.memory_gib is None):
        return False
    return beside_of(other) <= beside_of(variant)


def _planned_at(fitted: VariantFit) -> Iterator[tuple[float, int]]:
    """Cores and batch sizes at which the variant may run: the measured ones, and powers of two between."""
    for cores, fit in fitted.fits.items():
        sizes = {batch for on, batch in fitted.points if on == cores}
        sizes |= {size for size in BATCH_SIZES if fit.batch_min <= size <= fit.batch_max}
        yield from ((cores, size) for size in sorted(sizes))


def _costs(fitted: VariantFit, cores: float, batch_size: int) -> Costs:
    """Seconds as fitted, seconds an item carried, and seconds as measured: fewer if they are unknown."""
    fit = fitted.fits.get(cores)
    if fit is None or not fit.batch_min <= batch_size <= fit.batch_max:
        return ()
    known = (fit.latency_s(batch_size), 1 / fitted.capacity_rps(batch_size, cores))
    point = fitted.points.get((cores, batch_size))
    return known if point is None else (*known, point.latency_s)
