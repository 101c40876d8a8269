"""Sets: the cores of each variant of one task, and its part of the load; the best set by label setting.

InfAdapter (Salmani et al., EuroMLSys 2023), for a rate λ and a budget of cores:

    max  α·AA − β·RC − γ·LC     AA = Σ_m (λ_m/λ)·a_m,  RC = Σ_m c_m,  LC = max readiness over those to load
    s.t. Σ_m λ_m = λ,  λ_m ≤ th_m(c_m),  RC ≤ budget,  c_m = 0 (off) or an allowed number of cores

Beyond InfAdapter, a variant that is on holds memory and accelerators, which may be limited, and RC may be the
price of all resources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.plan import Termination, cores_of
from ipa.model.resources import IN_CORES, NO_RESOURCES, Prices, Resources
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.problem import Array, Index
from ipa.optimize.program import EQUAL, tolerance


@dataclass(frozen=True, slots=True)
class CoreLevel:
    """A number of cores that a variant may run on, and th_m(c): its capacity within the SLO."""

    cores: float
    capacity_rps: float


@dataclass(frozen=True, slots=True)
class SetVariant:
    """A variant and its allowed numbers of cores. Those that break the SLO are absent, or carry 0.

    `loaded` is True if the variant runs and need not be loaded; the caller decides if running on other cores
    counts as loaded (InfAdapter replaces the pod, so there it does not). `min_cores` is the least number of
    cores, `beside` its resources other than cores.
    """

    name: str
    accuracy: float
    levels: tuple[CoreLevel, ...]
    readiness_s: float = 0.0
    loaded: bool = False
    min_cores: float = 0.0
    beside: Resources = NO_RESOURCES

    @property
    def loading_s(self) -> float:
        """Its contribution to the loading cost: its readiness time, 0 if it is loaded."""
        return 0.0 if self.loaded else self.readiness_s

    @property
    def usable(self) -> tuple[CoreLevel, ...]:
        """The levels worth choosing, by rising cores: each carries more than every one with fewer cores."""
        levels: list[CoreLevel] = []
        for level in sorted(self.levels, key=lambda level: (level.cores, -level.capacity_rps)):
            if level.cores >= self.min_cores and level.capacity_rps > (
                levels[-1].capacity_rps if levels else 0
            ):
                levels.append(level)
        return tuple(levels)


@dataclass(frozen=True, slots=True)
class SetWeights:
    """The weights: α for the mean accuracy, β for a core (or its price), γ for a second of loading."""

    alpha: float = 1.0
    beta: float = 0.05
    gamma: float = 0.001


@dataclass(frozen=True, slots=True)
class SetProblem:
    """One task, the rate it must carry, the budget, and its variants.

    `limits` has the most of each limited resource other than cores, by name.
    """

    task: str
    rate_rps: float
    budget_cores: float
    weights: SetWeights
    variants: tuple[SetVariant, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    prices: Prices = IN_CORES

    @property
    def by_accuracy(self) -> tuple[SetVariant, ...]:
        """The variants by falling accuracy, equal ones by name: the order in which they get load."""
        return tuple(sorted(self.variants, key=lambda variant: (-variant.accuracy, variant.name)))

    @property
    def per_core(self) -> float:
        """The weight of one core: β times its price."""
        return self.weights.beta * self.prices.cost(Resources(1.0))

    def cost(self, variant: SetVariant, cores: float) -> float:
        """The price of the variant on those cores; without prices the cores themselves."""
        return self.prices.cost(Resources(cores) + variant.beside)

    def variant(self, name: str) -> SetVariant | None:
        """The variant of that name; None if there is none."""
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, slots=True)
class SetPart:
    """One running variant. `share_percent` is its predictor's traffic, None if quotas may be any numbers.

    `quota_rps` is λ_m, `capacity_rps` th_m(c); `loading_s` is its readiness time if it must be loaded, else
    0.
    """

    variant: str
    accuracy: float
    cores: float
    capacity_rps: float
    quota_rps: float
    share_percent: int | None
    loading_s: float


@dataclass(frozen=True, slots=True)
class SetPlan:
    """The best set found for a rate, or the reason for none.

    If nothing is feasible, `missing_rps` is the part of the rate that no set within the budget carries.
    """

    task: str
    rate_rps: float
    termination: Termination
    parts: tuple[SetPart, ...] = ()
    objective: float | None = None
    bound: float | None = None
    missing_rps: float = 0.0
    solve_s: float = 0.0

    @property
    def cores(self) -> dict[str, float]:
        """The cores of each running variant."""
        return {part.variant: part.cores for part in self.parts}


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


def in_whole_percents(problem: SetProblem) -> SetProblem:
    """The problem whose quotas are whole percents: every capacity is rounded down to whole percents.

    Its best set is the best of all sets whose shares are whole percents (the traffic of a predictor).
    """
    percent_rps = problem.rate_rps / 100

    def rounded(level: CoreLevel) -> CoreLevel:
        percents = floor(level.capacity_rps / percent_rps + 100 * ROUNDING)
        return CoreLevel(level.cores, min(100, percents) * percent_rps)

    variants = (replace(it, levels=tuple(map(rounded, it.levels))) for it in problem.variants)
    return replace(problem, variants=tuple(variants))


# Labels kept by the first pass, which only finds a good set, and by the second: all.
WIDTHS = (128, None)
# Prices of a core beside β that the bound tries, as powers of two of the natural scale α/budget.
POWERS = np.concatenate([[0.0], 2.0 ** np.arange(-6, 5)])


def solve_set(problem: SetProblem, deadline_s: float = 5.0, *, whole_percents: bool = False) -> SetPlan:
    """The best set for the problem; among equals the fewest cores, then the least loading time.

    With `whole_percents` shares are whole percents, as predictors require: each share times the rate is
    within its variant's capacity. Without, quotas are any numbers (InfAdapter). If the time runs out, it is
    the best set found, with a bound.
    """
    deadline = Deadline(deadline_s)
    solved = in_whole_percents(problem) if whole_percents else problem
    search = _Search(solved)
    try:
        for width in WIDTHS:
            search.run(width, deadline)
        termination = Termination.OPTIMAL if search.cores else Termination.INFEASIBLE
    except DeadlineError:
        termination = Termination.FEASIBLE if search.cores else Termination.NO_SOLUTION_FOUND
    plan = SetPlan(problem.task, problem.rate_rps, termination)
    if search.cores:
        parts = tuple(_parts(problem, solved, search.cores, whole_percents))
        objective = _worth(problem, parts)
        bound = objective if termination is Termination.OPTIMAL else max(objective, search.bound)
        plan = replace(plan, parts=parts, objective=objective, bound=bound)
    elif termination is Termination.INFEASIBLE:
        plan = replace(plan, missing_rps=missing_part(solved) * problem.rate_rps)
    return replace(plan, solve_s=deadline.elapsed_s)


def _parts(
    problem: SetProblem, solved: SetProblem, cores: Mapping[str, float], whole_percents: bool
) -> Iterator[SetPart]:
    """The variants of the set with their quotas; `solved` has the capacities that quotas fill."""
    on = [variant for variant in problem.by_accuracy if variant.name in cores]
    quotas = fill(problem.rate_rps, [_capacity(solved, each.name, cores[each.name]) for each in on])
    for v, quota in zip(on, quotas, strict=True):
        # A variant without load only costs: solvers leave one on if that is free.
        if quota > ROUNDING * problem.rate_rps:
            share = round(100 * quota / problem.rate_rps) if whole_percents else None
            capacity_rps = _capacity(problem, v.name, cores[v.name])
            yield SetPart(v.name, v.accuracy, cores[v.name], capacity_rps, quota, share, v.loading_s)


def _capacity(problem: SetProblem, name: str, cores: float) -> float:
    variant = problem.variant(name)
    for level in variant.usable if variant else ():
        if level.cores == cores:
            return level.capacity_rps
    raise SolverError(f"{cores_of(cores)} is not an allowed number of cores of variant {name!r}")


def _worth(problem: SetProblem, parts: Sequence[SetPart]) -> float:
    mean = sum(part.accuracy * part.quota_rps for part in parts) / problem.rate_rps
    on = {variant.name: variant for variant in problem.variants}
    cost = sum(problem.cost(on[part.variant], part.cores) for part in parts)
    weights, loading_s = problem.weights, max(part.loading_s for part in parts)
    return weights.alpha * mean - weights.beta * cost - weights.gamma * loading_s


def missing_part(problem: SetProblem) -> float:
    """The part of the rate that no set within the limits carries, 0 if some set carries all."""
    search = _Search(replace(problem, weights=SetWeights(0.0, 0.0, 0.0)), is_complete=False)
    search.run(None, Deadline(inf))
    return 0.0 if search.cores else search.least_left


@dataclass(frozen=True, slots=True)
class VariantArrays:
    """A variant's usable levels as columns, capacities as parts of the rate (1.0 is the whole rate).

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
    """The variants by falling accuracy, without those that have no usable level.

    Levels above the budget, levels beyond the first that carries the whole rate, and variants above another
    limit are left out too.
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
        held = [variant.beside.amount(name) for name in problem.limits]
        if not levels or any(use > most for use, most in zip(held, most_beside(problem), strict=True)):
            continue
        is_in_cores = problem.prices == IN_CORES
        arrays.append(
            VariantArrays(
                variant.name,
                variant.accuracy,
                variant.loading_s,
                np.array([level.cores for level in levels]),
                np.array([level.capacity_rps for level in levels]) / problem.rate_rps,
                np.array(held),
                0.0 if is_in_cores else problem.weights.beta * problem.prices.cost(variant.beside),
            )
        )
    return arrays


def most_beside(problem: SetProblem) -> list[float]:
    """The limits of the resources other than cores, raised by the rounding of a sum."""
    return [most + tolerance(most) for most in problem.limits.values()]


# The rows of a label: its cores, the load left, its value without the loading cost, its longest loading, and
# from HELD on its use of each limited resource other than cores.
TAKEN, LOAD, VALUE, LOADING, HELD = range(5)


@dataclass(frozen=True, slots=True)
class _Labels:
    """Partial sets as columns: their numbers, and the level of each variant, −1 if it is off."""

    rows: Array
    chosen: Index

    def take(self, at: Index) -> _Labels:
        return _Labels(self.rows[:, at], self.chosen[:, at])

    def concatenate(self, other: _Labels) -> _Labels:
        return _Labels(np.hstack([self.rows, other.rows]), np.hstack([self.chosen, other.chosen]))


class _Search:
    """Label setting over the variants: `cores` are those of the best set's, empty if there is none.

    A label is a partial set: the variants before some depth are decided, all that are on are full, and
    some load is left. A variant that carries the rest completes it, on the fewest cores that do; so every
    set worth considering is a label and the variant that completes it. A label is dropped if the bound of
    its completions lies below the best known set, or if another label A of the same depth is as good as
    it, B, in four things: cores, load left r, W and W° below. For what completes B completes A too: A
    fills the same capacities with r_A ≤ r_B, so it goes without the last r_B − r_A that B filled, worth
    at most α·a a unit, a being the accuracy of the best variant to come. So A must be ahead by α·a·(r_B −
    r_A), that is W_A ≥ W_B with W = value + α·a·r. The loading time ends at max(LC, x), x that of the
    completion: A must be ahead with γ·LC charged (small x) and without (W°, large x). If resources other
    than cores are limited, A must hold no more of any than B.

    `least_left` is the least load that a partial set leaves; it is right for a search that keeps labels that
    cannot be completed (not `is_complete`).
    """

    def __init__(self, problem: SetProblem, *, is_complete: bool = True) -> None:
        self._problem, self._weights, self._is_complete = problem, problem.weights, is_complete
        self._variants = variant_arrays(problem)
        self._most = np.array([problem.budget_cores + tolerance(problem.budget_cores), *most_beside(problem)])
        self._bounds = SetBounds(problem, self._variants)
        self._best = (-inf, inf, inf)
        self.cores: dict[str, float] = {}
        self.least_left = 1.0

    @property
    def bound(self) -> float:
        """The upper bound on the worth of the best set."""
        return float(self._bounds.upper(0, self._root())[0])

    def _root(self) -> _Labels:
        rows = np.zeros((HELD + len(self._most) - 1, 1))
        rows[LOAD] = 1.0
        return _Labels(rows, np.full((len(self._variants), 1), -1, dtype=np.intp))

    def run(self, width: int | None, deadline: Deadline) -> None:
        """Search every set that could be the best, or only the `width` most promising at each depth.

        DeadlineError if the time runs out.
        """
        labels = self._root()
        for depth in range(len(self._variants)):
            if deadline.passed:
                raise DeadlineError("the solver's time ran out")
            labels = labels.concatenate(self._switched_on(labels, depth))
            self.least_left = min(self.least_left, float(labels.rows[LOAD].min(initial=1.0)))
            if depth + 1 < len(self._variants):
                labels = self._promising(labels, depth + 1, width)
                labels = labels.take(undominated(self._criteria(labels.rows, depth + 1), deadline))

    def _switched_on(self, labels: _Labels, depth: int) -> _Labels:
        """Each label with the variant at that depth full, and load left; complete sets compete for best."""
        variant, rows = self._variants[depth], labels.rows
        load = rows[LOAD][:, None] - variant.carries
        completes: NDArray[np.bool_] = np.asarray(load <= ROUNDING)
        # Levels carry the more the more cores they have: the first that completes is enough.
        is_useful = ~completes
        is_useful[:, 0] |= completes[:, 0]
        is_useful[:, 1:] |= completes[:, 1:] & ~completes[:, :-1]
        held = rows[HELD:] + variant.held[:, None]
        fits = (rows[TAKEN][:, None] + variant.cores <= self._most[0]) & is_useful
        fits &= np.logical_and.reduce(held <= self._most[1:, None], axis=0)[:, None]
        parent, level = np.nonzero(fits)
        grown = labels.take(parent)
        carried = np.where(completes, rows[LOAD][:, None], variant.carries)[parent, level]
        grown.rows[TAKEN] += variant.cores[level]
        grown.rows[LOAD] -= carried
        grown.rows[VALUE] += self._weights.alpha * variant.accuracy * carried - variant.price
        grown.rows[VALUE] -= self._problem.per_core * variant.cores[level]
        grown.rows[LOADING] = np.maximum(grown.rows[LOADING], variant.loading_s)
        grown.rows[HELD:] += variant.held[:, None]
        grown.chosen[depth] = level
        is_done = completes[parent, level]
        if is_done.any():
            self._keep_best(grown.take(np.flatnonzero(is_done)))
        return grown.take(np.flatnonzero(~is_done))

    def _keep_best(self, done: _Labels) -> None:
        """Keep the best of the complete sets, if it beats the best known."""
        worth = done.rows[VALUE] - self._weights.gamma * done.rows[LOADING]
        cores = np.round(done.rows[TAKEN], 9)
        equal = np.flatnonzero(worth >= worth.max() - EQUAL * max(1.0, abs(worth.max())))
        first = equal[np.lexsort((done.rows[LOADING][equal], cores[equal]))[0]]
        best = (float(worth[first]), float(cores[first]), float(done.rows[LOADING][first]))
        is_equal = abs(best[0] - self._best[0]) <= EQUAL * max(1.0, abs(best[0]))
        if best[1:] < self._best[1:] if is_equal else best[0] > self._best[0]:
            self._best = best
            self.cores = {
                variant.name: float(variant.cores[level])
                for variant, level in zip(self._variants, done.chosen[:, first].tolist(), strict=True)
                if level >= 0
            }

    def _promising(self, labels: _Labels, depth: int, width: int | None) -> _Labels:
        """The labels that variants from `depth` on can complete to a set as good as the best known."""
        if not self._is_complete:
            return labels
        most = sum(float(variant.carries[-1]) for variant in self._variants[depth:])
        labels = labels.take(np.flatnonzero(labels.rows[LOAD] <= most + ROUNDING))
        bound = self._bounds.upper(depth, labels)
        if width is not None and len(bound) > width:
            few = np.argsort(-bound, kind="stable")[:width]
            labels, bound = labels.take(few), bound[few]
        return labels.take(np.flatnonzero(bound >= self._best[0] - EQUAL * max(1.0, abs(self._best[0]))))

    def _criteria(self, rows: Array, depth: int) -> Array:
        """The criteria of each label, a row each, smaller is better."""
        ahead = rows[VALUE] + self._weights.alpha * self._variants[depth].accuracy * rows[LOAD]
        criteria = [rows[TAKEN], rows[LOAD], -ahead, *rows[HELD:]]
        if self._weights.gamma > 0:
            criteria.append(self._weights.gamma * rows[LOADING] - ahead)
        return np.array(criteria)


class SetBounds:
    """The Lagrange bound: the most that completions of a partial set can be worth.

    With a price μ for a part of the load served and ν for a core of the budget, variants separate: Σ_m max(0,
    max_c (α·a_m + μ)·th_m(c)/λ − β·cost_m(c) − ν·c) − μ·(load left) + ν·(cores left); loading cost and the
    other limits are left out. Any μ and any ν ≥ 0 bound from above; the values tried are those at which some
    level breaks even.
    """

    def __init__(self, problem: SetProblem, variants: list[VariantArrays]) -> None:
        alpha, per_core = problem.weights.alpha, problem.per_core
        accuracies = np.array([variant.accuracy for variant in variants])
        ratios = np.array([float((variant.cores / variant.carries).min()) for variant in variants])
        nu = POWERS * (alpha * accuracies.max(initial=0.0) + per_core) / problem.budget_cores
        mu = np.multiply.outer(per_core + nu, ratios) - alpha * accuracies
        self._gamma, self._budget = problem.weights.gamma, problem.budget_cores
        self._mu, self._nu = mu.ravel(), np.repeat(nu, len(variants))
        rows = [np.zeros(self._mu.size)]
        for variant in reversed(variants):
            pays = np.maximum(alpha * variant.accuracy + self._mu, 0.0)[:, None] * variant.carries
            pays -= (per_core + self._nu)[:, None] * variant.cores
            rows.append(rows[-1] + np.maximum(pays.max(axis=1) - variant.price, 0.0))
        self._rows = rows[::-1]

    def upper(self, depth: int, labels: _Labels) -> Array:
        """The most that each label can be worth with variants from `depth` on: the least of all bounds."""
        cores, load, value, loading_s = labels.rows[:HELD]
        terms = (
            self._rows[depth][:, None] - self._mu[:, None] * load + self._nu[:, None] * (self._budget - cores)
        )
        bound: Array = terms.min(axis=0, initial=inf) + value - self._gamma * loading_s
        return bound
