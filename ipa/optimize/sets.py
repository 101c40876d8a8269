"""The set problem: the cores of each variant of one task, and its part of the load.

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

from ipa.model.plan import Termination, cores_of
from ipa.model.resources import (
    CORES,
    IN_CORES,
    NO_RESOURCES,
    Prices,
    Resources,
    in_words,
    total,
)
from ipa.optimize.plans import differs, exceeds, refuse


@dataclass(frozen=True, slots=True)
class CoreLevel:
    """A number of cores that a variant may run on, and th_m(c): the rate it then carries within the SLO."""

    cores: float
    capacity_rps: float


@dataclass(frozen=True, slots=True)
class SetVariant:
    """A variant and its allowed numbers of cores. Those that break the SLO are absent, or carry 0.

    `loaded` is True if it runs already and need not be loaded; the caller decides if one that runs on other
    cores counts as loaded (InfAdapter replaces its pod, so there it does not). `min_cores` is the least it
    may run on, `beside` its resources other than cores.
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
        kept: list[CoreLevel] = []
        for level in sorted(self.levels, key=lambda level: (level.cores, -level.capacity_rps)):
            if level.cores >= self.min_cores and level.capacity_rps > (kept[-1].capacity_rps if kept else 0):
                kept.append(level)
        return tuple(kept)


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
        """The variants by falling accuracy, equal ones by name: the order in which they are filled."""
        return tuple(sorted(self.variants, key=lambda variant: (-variant.accuracy, variant.name)))

    @property
    def per_core(self) -> float:
        """The weight of one core: β times its price."""
        return self.weights.beta * self.prices.each.get(CORES, 0.0)

    def cost(self, variant: SetVariant, cores: float) -> float:
        """The price of the variant on those cores; the cores themselves without prices."""
        return self.prices.each.get(CORES, 0.0) * cores + self.prices.cost(variant.beside)

    def variant(self, name: str) -> SetVariant | None:
        """The variant of that name, None without one."""
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, slots=True)
class SetPart:
    """One running variant. `share_percent` is the traffic of its predictor, None if quotas are any numbers.

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

    If nothing is feasible `missing_rps` is the part of the rate that no set within the budget carries.
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
    def mean_accuracy(self) -> float:
        """AA, the accuracies weighed by the quotas."""
        return sum(part.quota_rps / self.rate_rps * part.accuracy for part in self.parts)

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

    Its best set is the best of all sets whose shares are whole percents (the traffic of a predictor).
    """
    percent_rps = problem.rate_rps / 100

    def rounded(variant: SetVariant) -> SetVariant:
        levels = (
            CoreLevel(level.cores, percent_capacity(problem.rate_rps, level.capacity_rps) * percent_rps)
            for level in variant.levels
        )
        return replace(variant, levels=tuple(levels))

    return replace(problem, variants=tuple(rounded(variant) for variant in problem.variants))


def verify_set(problem: SetProblem, plan: SetPlan) -> None:
    """Return if the plan is valid by plain arithmetic; SolverError lists wrong numbers and broken limits."""
    has_set = plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = _faults_of_set(problem, plan) if has_set else _faults_of_none(problem, plan)
    refuse(f"the set for task {problem.task!r}", faults)


def _faults_of_none(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    if plan.parts or plan.objective is not None:
        yield f"termination is {plan.termination.value}, yet there is a set or an objective"
    infeasible = plan.termination is Termination.INFEASIBLE
    if infeasible != (plan.missing_rps > 0 and not exceeds(plan.missing_rps, problem.rate_rps)):
        yield f"missing_rps is {plan.missing_rps!r}, yet termination is {plan.termination.value}"


def _faults_of_set(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    if not plan.parts:
        yield f"termination is {plan.termination.value}, yet no variant runs"
        return
    names = [part.variant for part in plan.parts]
    if len(set(names)) < len(names):
        yield f"a variant runs twice: {names}"
    for part in plan.parts:
        yield from _faults_of_part(problem, part)
    yield from differs("the sum of quotas", sum(part.quota_rps for part in plan.parts), problem.rate_rps)
    shares = [part.share_percent for part in plan.parts if part.share_percent is not None]
    if shares and (len(shares) < len(names) or sum(shares) != 100):
        yield f"the shares {shares} of {len(names)} variants do not sum to 100"
    yield from _faults_of_sums(problem, plan)


def _faults_of_part(problem: SetProblem, part: SetPart) -> Iterator[str]:
    variant = problem.variant(part.variant)
    if variant is None:
        yield f"there is no variant {part.variant!r}"
        return
    level = next((level for level in variant.levels if level.cores == part.cores), None)
    if level is None or part.cores < variant.min_cores:
        yield f"{part.variant}: {cores_of(part.cores)} is not allowed"
        return
    loading_s = 0.0 if variant.loaded else variant.readiness_s
    yield from differs(f"{part.variant}: capacity_rps", part.capacity_rps, level.capacity_rps)
    yield from differs(f"{part.variant}: accuracy", part.accuracy, variant.accuracy)
    yield from differs(f"{part.variant}: loading_s", part.loading_s, loading_s)
    if not part.quota_rps > 0 or exceeds(part.quota_rps, level.capacity_rps):
        yield f"{part.variant}: quota {part.quota_rps!r} rps is outside 0..{level.capacity_rps:g}"
    if part.share_percent is not None:
        share_rps = part.share_percent * problem.rate_rps / 100
        if part.share_percent < 0 or exceeds(share_rps, level.capacity_rps):
            yield f"{part.variant}: {part.share_percent} % is {share_rps:g} rps of {level.capacity_rps:g}"


def _faults_of_sums(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    weights = problem.weights
    loading_s = max(part.loading_s for part in plan.parts)
    on = (problem.variant(part.variant) for part in plan.parts)
    beside = total(variant.beside for variant in on if variant is not None)
    held = beside + Resources(cpu_cores=sum(plan.cores.values()))
    cost = problem.prices.cost(held)
    worth = weights.alpha * plan.mean_accuracy - weights.beta * cost - weights.gamma * loading_s
    yield from differs("objective", plan.objective, worth)
    for name, most in {CORES: problem.budget_cores, **problem.limits}.items():
        if exceeds(held.amount(name), most):
            yield f"{in_words(name, held.amount(name))} are above the budget of {most:g}"
    bound = inf if plan.bound is None else plan.bound
    if exceeds(worth, bound):
        yield f"objective {worth!r} is above the solver's own bound {bound!r}"
    elif plan.termination is Termination.OPTIMAL and exceeds(bound, worth):
        yield f"the solver calls {worth!r} optimal, yet its bound is {bound!r}"
