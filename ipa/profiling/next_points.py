"""The points to measure next: those that plans would use if all others were as quick as is credible.

The logarithm of a variant's mean time is linear in those of the cores and the batch size. The belief in its
three coefficients starts at those of the shipped profiles and follows from the measured points (Bayesian
linear regression, normal errors). A point that no plan uses although it is taken to be quick needs no
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log, sqrt
from statistics import median

import numpy as np

from ipa.model.plan import StagePlan
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

# The batch sizes to measure, by variant and cores.
Grid = Mapping[str, Mapping[float, Sequence[int]]]

# Of the shipped profiles: the mean exponents of cores and batch size, and their deviation between variants;
# the deviation of a point from its line, and that of the level, of which nothing is known.
CORES_EXPONENT, BATCH_EXPONENT, EXPONENT_DEVIATION = -0.73, 0.45, 0.3
OWN_DEVIATION, LEVEL_DEVIATION = 0.1, 1.0
# Deviations of the belief by which a point that is not measured is taken to be quicker than likely: with more
# of them plans rest on more points and are hardly better (experiments/next_points.py).
OPTIMISM = 0.5


def first_points(grid: Grid, profile: StageProfile | None) -> Grid:
    """One point of each variant that the profile lacks: the smallest batch on the most cores."""
    known = {each.variant for each in profile.variants} if profile else set()
    most = {name: max(sizes) for name, sizes in grid.items() if name not in known}
    return {name: {cores: [min(grid[name][cores])]} for name, cores in most.items()}


def likely_profile(profile: StageProfile, grid: Grid) -> StageProfile:
    """The profile with all points of the grid: what is not measured is as quick as is credible."""
    variants = (_filled(each, grid.get(each.variant, {})) for each in profile.variants)
    return replace(profile, variants=tuple(variants))


def _filled(variant: VariantProfile, sizes: Mapping[float, Sequence[int]]) -> VariantProfile:
    measured = _places(variant)
    rows = np.array([_row(*place) for place in measured])
    means_s = [each.latency_mean_s or each.latency_s for each in variant.points]
    expected = np.array([0.0, CORES_EXPONENT, BATCH_EXPONENT])
    off = np.log(means_s) - rows @ expected
    expected[0] = float(np.mean(off))
    prior = np.diag([LEVEL_DEVIATION**-2, EXPONENT_DEVIATION**-2, EXPONENT_DEVIATION**-2])
    covariance = np.linalg.inv(prior + rows.T @ rows / OWN_DEVIATION**2)
    likely = expected + covariance @ rows.T @ (off - expected[0]) / OWN_DEVIATION**2
    tail_ratio = median(each.latency_s / mean_s for each, mean_s in zip(variant.points, means_s, strict=True))
    points = list(variant.points)
    unknown = {(cores, size) for cores, of_cores in sizes.items() for size in of_cores} - {*measured}
    for place in sorted(unknown):
        row = np.array(_row(*place))
        mean_s = exp(row @ likely - OPTIMISM * sqrt(row @ covariance @ row))
        points.append(ProfilePoint(*place, mean_s * tail_ratio, mean_s))
    return replace(variant, points=tuple(points))


def _row(cores: float, size: int) -> tuple[float, float, float]:
    return 1.0, log(cores), log(size)


def _places(variant: VariantProfile) -> list[tuple[float, int]]:
    return [(each.cores, each.batch_size) for each in variant.points]


def next_points(profile: StageProfile, grid: Grid, planned: Sequence[StagePlan]) -> Grid:
    """The points of the grid that the stage's plans rest on and that the profile lacks.

    A batch size between two of the grid rests on both, and each on the smallest: not all batches are full.
    """
    measured = {each.variant: _places(each) for each in profile.variants}
    wanted: dict[str, dict[float, set[int]]] = {}
    for it in planned:
        sizes = grid[it.variant].get(it.cores, ())
        below = max((size for size in sizes if size <= it.batch_size), default=it.batch_size)
        above = min((size for size in sizes if size >= it.batch_size), default=it.batch_size)
        for size in {min(sizes, default=0), below, above} & set(sizes):
            if (it.cores, size) not in measured[it.variant]:
                wanted.setdefault(it.variant, {}).setdefault(it.cores, set()).add(size)
    return {name: {cores: sorted(sizes) for cores, sizes in each.items()} for name, each in wanted.items()}
