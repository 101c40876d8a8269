"""The fewest cores at which the accuracy of a whole run, on the mean of its ticks, reaches a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil

# A frontier: (cores, accuracy) of each plan that is cheapest at its accuracy, both rising.
Frontier = Sequence[tuple[float, float]]
ROUNDING = 1e-9


def upper_hull(frontier: Frontier) -> list[tuple[float, float]]:
    """The plans between which one more core buys ever less accuracy."""
    hull: list[tuple[float, float]] = []
    for cores, accuracy in frontier:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (cores, accuracy)):
            hull.pop()
        hull.append((cores, accuracy))
    return hull


def cheapest_mix(
    frontiers: Mapping[float, Frontier], ticks: Mapping[float, int], target: float
) -> float | None:
    """The mean cores a tick of a mix whose mean accuracy reaches the target; None where none does.

    `frontiers` by rate, `ticks` how many ticks have that rate. Steps along the hulls are taken in the order
    of what they buy per core, whole ticks each: at most one step more than the least there is.
    """
    hulls = {rate: upper_hull(frontiers[rate]) for rate in ticks}
    if not all(hulls.values()):
        return None
    count = sum(ticks.values())
    cores = sum(ticks[rate] * hull[0][0] for rate, hull in hulls.items())
    lacking = target * count - sum(ticks[rate] * hull[0][1] for rate, hull in hulls.items())
    steps = [(one, two, ticks[rate]) for rate, hull in hulls.items() for one, two in pairwise(hull)]
    for one, two, most in sorted(steps, key=lambda step: -_slope(step[0], step[1])):
        if lacking <= ROUNDING:
            break
        taken = min(most, ceil(lacking / (two[1] - one[1]) - ROUNDING))
        cores += taken * (two[0] - one[0])
        lacking -= taken * (two[1] - one[1])
    return cores / count if lacking <= ROUNDING else None


def _slope(one: tuple[float, float], two: tuple[float, float]) -> float:
    return (two[1] - one[1]) / (two[0] - one[0])
