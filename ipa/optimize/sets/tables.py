"""The problem as arrays, and tables over the undecided variants: capacity, a bound on worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.program import tolerance
from ipa.optimize.sets.fill import ROUNDING
from ipa.optimize.sets.problem import SetProblem

Array = NDArray[np.float64]

# Prices of a core beside β that the bound tries, as powers of two of the natural scale α/budget.
POWERS = np.concatenate([[0.0], 2.0 ** np.arange(-6, 5)])
# Sums of cores this close are the same number.
DIGITS = 9


@dataclass(frozen=True, slots=True)
class VariantArrays:
    """A variant's usable levels as columns, capacities as parts of the rate (1.0 is all of it)."""

    name: str
    accuracy: float
    loading_s: float
    cores: Array
    carries: Array


def variant_arrays(problem: SetProblem) -> list[VariantArrays]:
    """The variants by falling accuracy, those without a usable level left out.

    Levels above the budget, and those beyond the first that carries the whole rate, are left out too.
    """
    arrays = []
    for variant in problem.by_accuracy:
        levels = [
            level
            for level in variant.usable
            if level.cores <= problem.budget_cores + tolerance(problem.budget_cores)
        ]
        enough = [at for at, level in enumerate(levels) if level.capacity_rps >= problem.rate_rps]
        levels = levels[: enough[0] + 1] if enough else levels
        if levels:
            cores = np.array([level.cores for level in levels])
            carries = np.array([level.capacity_rps for level in levels]) / problem.rate_rps
            arrays.append(VariantArrays(variant.name, variant.accuracy, variant.loading_s, cores, carries))
    return arrays


class LevelTable:
    """All levels in one table (variants × levels), to find the least that carry many loads at once."""

    def __init__(self, variants: list[VariantArrays]) -> None:
        self.accuracy = np.array([variant.accuracy for variant in variants])
        self.loading_s = np.array([variant.loading_s for variant in variants])
        self._sizes = np.array([len(variant.cores) for variant in variants])
        self.cores = np.zeros((len(variants), int(self._sizes.max())))
        for row, variant in zip(self.cores, variants, strict=True):
            row[: len(variant.cores)] = variant.cores
        # Each variant's capacities lie between twice its index and one above: one sorted array for all.
        self._offset = 2.0 * np.arange(len(variants))
        self._sorted = np.concatenate(
            [np.minimum(v.carries, 1.0) + at for v, at in zip(variants, self._offset, strict=True)]
        )
        self._first = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])

    def least_to_carry(
        self, depth: int, load: Array
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """(variant, its first level that carries the load, index of the load) for each existing pair."""
        wanted = load - ROUNDING + self._offset[depth:, None]
        level = np.searchsorted(self._sorted, wanted) - self._first[depth:, None]
        which, at = np.nonzero(level < self._sizes[depth:, None])
        return which + depth, level[which, at], at


class Capacity:
    """The most that the variants from each depth on carry, by the cores they may use."""

    def __init__(self, variants: list[VariantArrays], budget: float) -> None:
        cores, carries = np.zeros(1), np.zeros(1)
        self._steps = [(cores, carries)]
        for variant in reversed(variants):
            cores = np.round(np.add.outer(np.append(0.0, variant.cores), cores).ravel(), DIGITS)
            carries = np.add.outer(np.append(0.0, variant.carries), carries).ravel()
            within = np.flatnonzero(cores <= budget + tolerance(budget))
            order = within[np.lexsort((-carries[within], cores[within]))]
            cores, carries = cores[order], carries[order]
            better = np.append(True, carries[1:] > np.maximum.accumulate(carries)[:-1])
            cores, carries = cores[better], carries[better]
            self._steps.append((cores, carries))
        self._steps.reverse()

    @property
    def total(self) -> float:
        """The most that all variants carry within the budget, as a part of the rate."""
        return float(self._steps[0][1][-1])

    def most(self, depth: int, cores: Array) -> Array:
        """The capacity of variants from `depth` on with those cores, as parts of the rate."""
        steps, carries = self._steps[depth]
        at = np.searchsorted(steps, cores + 10.0**-DIGITS, side="right") - 1
        most: Array = np.where(at >= 0, carries[np.maximum(at, 0)], -1.0)
        return most


class SetBound:
    """The Lagrange bound: the most that completions of a partial set can add.

    With a price μ for a part of the load served and ν for a core of the budget, variants fall apart: Σ_m
    max(0, max_c (α·a_m + μ)·th_m(c)/λ − (β + ν)·c) − μ·(load left) + ν·(cores left), loading cost left out.
    Any μ and any ν ≥ 0 bound from above; those are tried at which some level just pays.
    """

    def __init__(self, problem: SetProblem, variants: list[VariantArrays]) -> None:
        alpha, beta = problem.weights.alpha, problem.weights.beta
        accuracies = np.array([variant.accuracy for variant in variants])
        ratios = np.array([float((variant.cores / variant.carries).min()) for variant in variants])
        nu = POWERS * (alpha * accuracies.max() + beta) / problem.budget_cores
        mu = np.multiply.outer(beta + nu, ratios) - alpha * accuracies
        self._mu, self._nu = mu.ravel(), np.repeat(nu, len(variants))
        rows = [np.zeros(self._mu.size)]
        for variant in reversed(variants):
            pays = np.maximum(alpha * variant.accuracy + self._mu, 0.0)[:, None] * variant.carries
            pays -= (beta + self._nu)[:, None] * variant.cores
            rows.append(rows[-1] + np.maximum(pays.max(axis=1), 0.0))
        self._rows = rows[::-1]

    def upper(self, depth: int, load: Array, cores: Array) -> Array:
        """The most that variants from `depth` on add, for load (as part of the rate) and cores left."""
        terms = self._rows[depth][:, None] - self._mu[:, None] * load + self._nu[:, None] * cores
        bound: Array = terms.min(axis=0)
        return bound
