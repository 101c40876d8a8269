"""The split of the load among a set of running variants.

**Filling the most accurate first is best for fixed cores.** Let a_1 ≥ a_2 ≥ … and u_m the capacities, Σ u_m ≥
λ. Take any feasible quotas and let i < j with λ_i < u_i and λ_j > 0. Moving ε = min(u_i − λ_i, λ_j) from j to
i keeps every row and changes Σ a_m λ_m by (a_i − a_j)·ε ≥ 0; RC and LC depend on the cores alone. Each move
fills i or empties j, so finitely many end where no such pair is left: every variant before the last one used
is full. That is the greedy filling, and no move made it worse. ∎ The same moves in whole percents prove it
for whole percents, with ⌊100·u_m/λ⌋ as capacities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import floor

from ipa.optimize.sets.problem import CoreLevel, SetProblem, SetVariant

# A quota may pass a capacity, and the load stay unserved, by rounding alone: this share of the rate.
ROUNDING = 1e-9


def fill(rate_rps: float, capacities_rps: Sequence[float]) -> tuple[float, ...]:
    """The quotas for capacities in falling order of accuracy; they sum to the rate if that is possible."""
    left = rate_rps
    quotas = []
    for capacity_rps in capacities_rps:
        quota = min(capacity_rps, left)
        left -= quota
        if left <= ROUNDING * rate_rps:
            quota, left = quota + left, 0.0
        quotas.append(quota)
    return tuple(quotas)


def percent_capacity(rate_rps: float, capacity_rps: float) -> int:
    """The most whole percents of the rate that the capacity holds, at most 100."""
    return min(100, floor(100 * capacity_rps / rate_rps + 100 * ROUNDING))


def whole_shares(rate_rps: float, capacities_rps: Sequence[float]) -> tuple[int, ...] | None:
    """The best shares in whole percents that sum to 100 and pass no capacity; None if there are none.

    Each variant, the most accurate first, takes ⌊100·u_m/λ⌋ or the rest. If rounding the quotas by largest
    remainder passes no capacity this is that rounding: the full variants are then rounded down, as here.
    """
    left = 100
    shares = []
    for capacity_rps in capacities_rps:
        share = min(percent_capacity(rate_rps, capacity_rps), left)
        left -= share
        shares.append(share)
    return tuple(shares) if left == 0 else None


def in_whole_percents(problem: SetProblem) -> SetProblem:
    """The problem whose quotas are whole percents: every capacity is rounded down to such.

    Its best set is the best of all sets whose shares are whole percents (traffic of a Seldon predictor).
    """
    percent_rps = problem.rate_rps / 100

    def rounded(variant: SetVariant) -> SetVariant:
        levels = (
            CoreLevel(level.cores, percent_capacity(problem.rate_rps, level.capacity_rps) * percent_rps)
            for level in variant.levels
        )
        return replace(variant, levels=tuple(levels))

    return replace(problem, variants=tuple(rounded(variant) for variant in problem.variants))
