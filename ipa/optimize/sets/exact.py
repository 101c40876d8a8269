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
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.program import EQUAL, tolerance
from ipa.optimize.sets.fill import ROUNDING
from ipa.optimize.sets.problem import SetProblem
from ipa.optimize.sets.tables import Array, Capacity, LevelTable, SetBound, VariantArrays, variant_arrays

# Fewer labels are not compared: growing them takes less time.
FEW = 24


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

    If the time is up before that is proved, the best found, with a bound.
    """
    variants = variant_arrays(problem)
    capacity = Capacity(variants, problem.budget_cores)
    missing = 1.0 - capacity.total
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
    """Partial sets as columns; `value` leaves out the loading cost, `chosen`: (labels × variants), −1 off."""

    cores: Array
    load: Array
    value: Array
    loading_s: Array
    chosen: NDArray[np.int32]

    def take(self, at: NDArray[np.intp]) -> _Labels:
        return _Labels(self.cores[at], self.load[at], self.value[at], self.loading_s[at], self.chosen[at])

    def beside(self, other: _Labels) -> _Labels:
        names = ("cores", "load", "value", "loading_s", "chosen")
        return _Labels(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))


class _Search:
    def __init__(
        self, problem: SetProblem, variants: list[VariantArrays], capacity: Capacity, deadline: Deadline
    ) -> None:
        self._weights = problem.weights
        self._budget = problem.budget_cores
        self._within = problem.budget_cores + tolerance(problem.budget_cores)
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
            np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1), np.full((1, count), -1, dtype=np.int32)
        )
        self._finish(root, 0)
        # All sets of two are a good start: most labels then never grow.
        for depth in range(count - 1):
            self._finish(self._switched_on(root, depth), depth + 1)
        labels = root
        for depth in range(count - 1):
            if self._deadline.passed:
                raise DeadlineError("the solver's time is up")
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
        parent, level = np.nonzero((load > ROUNDING) & (cores <= self._within))
        worth = self._weights.alpha * variant.accuracy * variant.carries - self._weights.beta * variant.cores
        chosen = labels.chosen[parent]
        chosen[:, depth] = level
        return _Labels(
            cores[parent, level],
            load[parent, level],
            labels.value[parent] + worth[level],
            np.maximum(labels.loading_s[parent], variant.loading_s),
            chosen,
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
        if len(labels.cores) <= FEW:
            return labels
        ahead = labels.value + self._weights.alpha * self._variants[depth].accuracy * labels.load
        rows = [labels.cores, labels.load, -ahead]
        if self._weights.gamma > 0:
            rows.append(self._weights.gamma * labels.loading_s - ahead)
        return labels.take(undominated(np.array(rows), self._deadline))

    def _finish(self, labels: _Labels, depth: int) -> None:
        """Complete the labels by one variant from `depth` on, and keep those that beat the best known."""
        which, level, at = self._flat.least_to_carry(depth, labels.load)
        cores = labels.cores[at] + self._flat.cores[which, level]
        within = np.flatnonzero(cores <= self._within)
        if not within.size:
            return
        which, level, at, cores = which[within], level[within], at[within], cores[within]
        loading_s = np.maximum(labels.loading_s[at], self._flat.loading_s[which])
        worth = labels.value[at] + self._weights.alpha * self._flat.accuracy[which] * labels.load[at]
        worth -= self._weights.beta * self._flat.cores[which, level] + self._weights.gamma * loading_s
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
