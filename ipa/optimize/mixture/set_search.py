"""Label setting over the variants by falling accuracy: exact, in NumPy, without a solver.

A label is a partial set: the variants before some depth are decided, all that are on are full, and some load
is left. One more variant, on the fewest cores that carry that load, completes it; so every set worth
considering is a label and the variant that completes it. A label is dropped if the variants to come cannot
carry its load, if the bound of its completions lies below the best known set, or if another label A of the
same depth is as good as it, B, in four things: cores, load left r, W and W° below. For what completes B
completes A too: A fills the same capacities with r_A ≤ r_B, so it goes without the last r_B − r_A that B
filled, worth at most α·a a unit, a being the accuracy of the best variant to come. So A must be ahead by
α·a·(r_B − r_A), that is W_A ≥ W_B with W = value + α·a·r. The loading time ends at max(LC, x), x that of the
completion: A must be ahead with γ·LC charged (small x) and without (W°, large x).
If resources other than cores are limited, A must hold no more of any than B.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.model.resources import IN_CORES
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.mixture.sets import ROUNDING, SetProblem
from ipa.optimize.program import EQUAL, tolerance


@dataclass(frozen=True, slots=True)
class SetAnswer:
    """The cores of each variant that is on; empty if no set was found.

    `missing` is the part of the rate that no set within the budget carries, 0 if some set carries all.
    `proved` is True if the set is the best; else the best is worth `bound` at most.
    """

    cores: dict[str, float] = field(default_factory=dict)
    proved: bool = True
    bound: float | None = None
    missing: float = 0.0


def best_set(problem: SetProblem, deadline: Deadline) -> SetAnswer:
    """The best set; of equally good ones that of the fewest cores, then the shortest loading.

    If the time runs out before that is proved, the best found, with a bound.
    """
    variants = variant_arrays(problem)
    capacity = Capacity(variants, problem.budget_cores)
    missing = missing_part(problem, variants, capacity)
    if missing > ROUNDING:
        return SetAnswer(missing=missing)
    search = _Search(problem, variants, capacity, deadline)
    try:
        search.run()
    except DeadlineError:
        return SetAnswer(search.best_cores, False, search.root_bound)
    return SetAnswer(search.best_cores)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Partial sets as columns; `value` leaves out the loading cost.

    `chosen`: (labels × variants), −1 off; `held`: (labels × limited resources other than cores).
    """

    cores: Array
    load: Array
    value: Array
    loading_s: Array
    chosen: NDArray[np.int32]
    held: Array

    def take(self, at: NDArray[np.intp]) -> _Labels:
        return _Labels(
            self.cores.take(at),
            self.load.take(at),
            self.value.take(at),
            self.loading_s.take(at),
            self.chosen.take(at, axis=0),
            self.held.take(at, axis=0),
        )

    def beside(self, other: _Labels) -> _Labels:
        names = ("cores", "load", "value", "loading_s", "chosen", "held")
        return _Labels(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))


class _Search:
    def __init__(
        self, problem: SetProblem, variants: list[VariantArrays], capacity: Capacity, deadline: Deadline
    ) -> None:
        self._weights, self._per_core = problem.weights, problem.per_core
        self._budget = problem.budget_cores
        self._within = problem.budget_cores + tolerance(problem.budget_cores)
        self._most = most_beside(problem)
        self._variants = variants
        self._capacity = capacity
        self._deadline = deadline
        self._flat = LevelTable(variants)
        self._bound = SetBound(problem, variants)
        self._best = (-inf, inf, inf)
        self.best_cores: dict[str, float] = {}

    @property
    def root_bound(self) -> float:
        """The upper bound on the worth of the best set."""
        return float(self._bound.upper(0, np.ones(1), np.array([self._budget]))[0])

    def run(self) -> None:
        """Search every set that could be the best."""
        count = len(self._variants)
        root = _Labels(
            np.zeros(1),
            np.ones(1),
            np.zeros(1),
            np.zeros(1),
            np.full((1, count), -1, dtype=np.int32),
            np.zeros((1, len(self._most))),
        )
        self._finish(root, 0)
        # All sets of two are a good start: most labels then never grow.
        for depth in range(count - 1):
            self._finish(self._switched_on(root, depth), depth + 1)
        labels = root
        for depth in range(count - 1):
            if self._deadline.passed:
                raise DeadlineError("the solver's time ran out")
            grown = self._promising(self._switched_on(labels, depth), depth + 1)
            if depth > 0:
                self._finish(grown, depth + 1)
            both = self._promising(labels, depth + 1).beside(grown)
            labels = self._without_dominated(both, depth + 1)

    def _switched_on(self, labels: _Labels, depth: int) -> _Labels:
        """Each label with the variant at that depth on and full, and load left after it."""
        variant = self._variants[depth]
        load = labels.load[:, None] - variant.carries
        cores = labels.cores[:, None] + variant.cores
        fits = (load > ROUNDING) & (cores <= self._within)
        if self._most.size:
            fits &= (labels.held + variant.held <= self._most).all(axis=1, keepdims=True)
        parent, level = np.nonzero(fits)
        worth = self._weights.alpha * variant.accuracy * variant.carries - self._per_core * variant.cores
        chosen = labels.chosen.take(parent, axis=0)
        chosen[:, depth] = level
        return _Labels(
            cores[parent, level],
            load[parent, level],
            labels.value.take(parent) + worth.take(level) - variant.price,
            np.maximum(labels.loading_s.take(parent), variant.loading_s),
            chosen,
            labels.held.take(parent, axis=0) + variant.held,
        )

    def _promising(self, labels: _Labels, depth: int) -> _Labels:
        """The labels that variants from `depth` on can complete to something as good as the best known."""
        left = self._budget - labels.cores
        fits = np.flatnonzero(self._capacity.most(depth, left) >= labels.load - ROUNDING)
        labels, left = labels.take(fits), left[fits]
        charged = labels.value - self._weights.gamma * labels.loading_s
        bound = charged + self._bound.upper(depth, labels.load, left)
        return labels.take(np.flatnonzero(bound >= self._best[0] - EQUAL * max(1.0, abs(self._best[0]))))

    def _without_dominated(self, labels: _Labels, depth: int) -> _Labels:
        ahead = labels.value + self._weights.alpha * self._variants[depth].accuracy * labels.load
        rows = [labels.cores, labels.load, -ahead, *labels.held.T]
        if self._weights.gamma > 0:
            rows.append(self._weights.gamma * labels.loading_s - ahead)
        return labels.take(undominated(np.array(rows), self._deadline))

    def _finish(self, labels: _Labels, depth: int) -> None:
        """Complete the labels by one variant from `depth` on, and keep those that beat the best known."""
        which, level, at = self._flat.least_to_carry(depth, labels.load)
        cores = labels.cores[at] + self._flat.cores[which, level]
        fits = cores <= self._within
        if self._most.size:
            fits &= (labels.held[at] + self._flat.held[which] <= self._most).all(axis=1)
        within = np.flatnonzero(fits)
        if not within.size:
            return
        which, level, at = which.take(within), level.take(within), at.take(within)
        cores = cores.take(within)
        loading_s = np.maximum(labels.loading_s.take(at), self._flat.loading_s.take(which))
        worth = labels.value[at] + self._weights.alpha * self._flat.accuracy[which] * labels.load[at]
        worth -= self._per_core * self._flat.cores[which, level] + self._weights.gamma * loading_s
        worth -= self._flat.price.take(which)
        top = worth.max()
        equal = np.flatnonzero(worth >= top - EQUAL * max(1.0, abs(top)))
        first = equal[np.lexsort((loading_s[equal], np.round(cores[equal], 9)))[0]]
        found = (float(worth[first]), float(cores[first]), float(loading_s[first]))
        if self._beats(found):
            self._best = found
            chosen = labels.chosen[at[first]].copy()
            chosen[which[first]] = level[first]
            self.best_cores = {
                variant.name: float(variant.cores[level])
                for variant, level in zip(self._variants, chosen, strict=True)
                if level >= 0
            }

    def _beats(self, found: tuple[float, float, float]) -> bool:
        margin = EQUAL * max(1.0, abs(found[0]))
        if abs(found[0] - self._best[0]) > margin:
            return found[0] > self._best[0]
        return (round(found[1], 9), found[2]) < (round(self._best[1], 9), self._best[2])


Array = NDArray[np.float64]

# Prices of a core beside β that the bound tries, as powers of two of the natural scale α/budget.
POWERS = np.concatenate([[0.0], 2.0 ** np.arange(-6, 5)])
# Sums of cores this close are the same number.
DIGITS = 9


@dataclass(frozen=True, slots=True)
class VariantArrays:
    """A variant's usable levels as columns, capacities as parts of the rate (1.0 is all of it).

    Of its resources other than cores `held` is the use of each limited one, `price` β times the price of all.
    """

    name: str
    accuracy: float
    loading_s: float
    cores: Array
    carries: Array
    held: Array
    price: float


def variant_arrays(problem: SetProblem) -> list[VariantArrays]:
    """The variants by falling accuracy, those without a usable level left out.

    Levels above the budget, those beyond the first that carries the whole rate, and variants above another
    limit are left out too.
    """
    arrays = []
    most, is_in_cores = most_beside(problem), problem.prices == IN_CORES
    for variant in problem.by_accuracy:
        levels = [
            level
            for level in variant.usable
            if level.cores <= problem.budget_cores + tolerance(problem.budget_cores)
        ]
        enough = [at for at, level in enumerate(levels) if level.capacity_rps >= problem.rate_rps]
        levels = levels[: enough[0] + 1] if enough else levels
        held = np.array([variant.beside.amount(name) for name in problem.limits])
        if levels and not (most.size and (held > most).any()):
            cores = np.array([level.cores for level in levels])
            carries = np.array([level.capacity_rps for level in levels]) / problem.rate_rps
            price = 0.0 if is_in_cores else problem.weights.beta * problem.prices.cost(variant.beside)
            arrays.append(
                VariantArrays(variant.name, variant.accuracy, variant.loading_s, cores, carries, held, price)
            )
    return arrays


def most_beside(problem: SetProblem) -> Array:
    """The limits of the resources other than cores, with the rounding of a sum."""
    return np.array([most + tolerance(most) for most in problem.limits.values()])


class LevelTable:
    """All levels in one table (variants × levels), to find the least that carry many loads at once."""

    def __init__(self, variants: list[VariantArrays]) -> None:
        self.accuracy = np.array([variant.accuracy for variant in variants])
        self.loading_s = np.array([variant.loading_s for variant in variants])
        self._sizes = np.array([len(variant.cores) for variant in variants])
        self.held = np.array([variant.held for variant in variants])
        self.price = np.array([variant.price for variant in variants])
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


def missing_part(
    problem: SetProblem, variants: list[VariantArrays] | None = None, capacity: Capacity | None = None
) -> float:
    """The part of the rate that no set within the limits carries; arguments if already computed."""
    variants = variant_arrays(problem) if variants is None else variants
    if not problem.limits:
        capacity = capacity or Capacity(variants, problem.budget_cores)
        return max(0.0, 1.0 - capacity.total)
    most_cores = problem.budget_cores + tolerance(problem.budget_cores)
    limits = np.array([most_cores, *most_beside(problem), inf])[:, None]
    # Partial sets: cores, the other limited resources, minus the carried part of the rate.
    sets = np.zeros((len(limits), 1))
    for variant in variants:
        ones = np.ones(len(variant.cores))
        levels = np.vstack([variant.cores, *(each * ones for each in variant.held), -variant.carries])
        grown = (sets[:, :, None] + levels[:, None, :]).reshape(len(limits), -1)
        sets = np.hstack([sets, grown[:, (grown <= limits).all(axis=0)]])
        sets = sets[:, undominated(np.round(sets, DIGITS))]
    return max(0.0, 1.0 + float(sets[-1].min()))


class SetBound:
    """The Lagrange bound: the most that completions of a partial set can add.

    With a price μ for a part of the load served and ν for a core of the budget, variants fall apart: Σ_m
    max(0, max_c (α·a_m + μ)·th_m(c)/λ − β·cost_m(c) − ν·c) − μ·(load left) + ν·(cores left); loading cost and
    the other limits are left out. Any μ and any ν ≥ 0 bound from above; those are tried at which some level
    just pays.
    """

    def __init__(self, problem: SetProblem, variants: list[VariantArrays]) -> None:
        alpha, per_core = problem.weights.alpha, problem.per_core
        accuracies = np.array([variant.accuracy for variant in variants])
        ratios = np.array([float((variant.cores / variant.carries).min()) for variant in variants])
        nu = POWERS * (alpha * accuracies.max() + per_core) / problem.budget_cores
        mu = np.multiply.outer(per_core + nu, ratios) - alpha * accuracies
        self._mu, self._nu = mu.ravel(), np.repeat(nu, len(variants))
        rows = [np.zeros(self._mu.size)]
        for variant in reversed(variants):
            pays = np.maximum(alpha * variant.accuracy + self._mu, 0.0)[:, None] * variant.carries
            pays -= (per_core + self._nu)[:, None] * variant.cores
            rows.append(rows[-1] + np.maximum(pays.max(axis=1) - variant.price, 0.0))
        self._rows = rows[::-1]

    def upper(self, depth: int, load: Array, cores: Array) -> Array:
        """The most that variants from `depth` on add, for load (as part of the rate) and cores left."""
        terms = self._rows[depth][:, None] - self._mu[:, None] * load + self._nu[:, None] * cores
        bound: Array = terms.min(axis=0)
        return bound
