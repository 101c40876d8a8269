"""The set problem: the cores of each variant of one task, and its part of the load.

InfAdapter (Salmani et al., EuroMLSys 2023), for a rate λ and a budget of cores:

    max  α·AA − β·RC − γ·LC     AA = Σ_m (λ_m/λ)·a_m,  RC = Σ_m c_m,  LC = max readiness over those to load
    s.t. Σ_m λ_m = λ,  λ_m ≤ th_m(c_m),  RC ≤ budget,  c_m = 0 (off) or an allowed number of cores

Beyond InfAdapter, a variant that is on holds memory and accelerators, which may be limited, and RC may be the
price of all resources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import floor, isfinite
from typing import Any

from ipa.model.errors import InputError
from ipa.model.errors import Problem as Fault
from ipa.model.plan import Termination, cores_of
from ipa.model.resources import CORES, IN_CORES, NO_RESOURCES, Prices, Resources, field_of, in_words


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
    """One task, the rate it must carry, the budget, and its variants. InputError lists all faults.

    `limits` has the most of each limited resource other than cores, by name.
    """

    task: str
    rate_rps: float
    budget_cores: float
    weights: SetWeights
    variants: tuple[SetVariant, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    prices: Prices = IN_CORES

    def __post_init__(self) -> None:
        faults = [Fault(fault) for fault in _faults(self)]
        if faults:
            raise InputError(f"task {self.task!r} cannot be planned", problems=faults)

    @property
    def by_accuracy(self) -> tuple[SetVariant, ...]:
        """The variants by falling accuracy, equal ones by name: the order in which they are filled."""
        return tuple(sorted(self.variants, key=lambda variant: (-variant.accuracy, variant.name)))

    @property
    def budget_in_words(self) -> str:
        """The budget of cores and every other limit, such as "8 cores, 4 GiB of memory"."""
        limits = {CORES: self.budget_cores, **self.limits}
        return ", ".join(in_words(name, most) for name, most in limits.items())

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


def _faults(problem: SetProblem) -> Iterator[str]:
    for name, value in (("rate_rps", problem.rate_rps), ("budget_cores", problem.budget_cores)):
        if not (isfinite(value) and value > 0):
            yield f"{name} must be a finite number above 0, not {value!r}"
    for name in ("alpha", "beta", "gamma"):
        value = getattr(problem.weights, name)
        if not (isfinite(value) and value >= 0):
            yield f"weight {name} must be a finite number, 0 or above, not {value!r}"
    for name, most in problem.limits.items():
        if not (isfinite(most) and most >= 0):
            yield f"the limit of {field_of(name)} must be a finite number, 0 or above, not {most!r}"
    if not problem.variants:
        yield "it has no variants: name one at least"
    for name, count in Counter(variant.name for variant in problem.variants).items():
        if count > 1:
            yield f"variant {name!r} is named {count} times: name each once"
    for variant in problem.variants:
        yield from _faults_of_variant(variant)


def _faults_of_variant(variant: SetVariant) -> Iterator[str]:
    for name in ("accuracy", "readiness_s", "min_cores"):
        value = getattr(variant, name)
        if not (isfinite(value) and value >= 0):
            yield f"variant {variant.name!r}: {name} must be a finite number, 0 or above, not {value!r}"
    for level in variant.levels:
        if not (isfinite(level.cores) and level.cores > 0 and isfinite(level.capacity_rps)):
            yield f"variant {variant.name!r}: {level} needs cores above 0 and a finite capacity"
    for cores, count in Counter(level.cores for level in variant.levels).items():
        if count > 1:
            yield f"variant {variant.name!r} has {count} capacities for {cores_of(cores)}: give one"


@dataclass(frozen=True, slots=True)
class SetPart:
    """One running variant. `share_percent` is the traffic of its predictor, None if the plan has none.

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

    `mean_accuracy` is AA, `cost_cores` Σ_m c_m, `cost_usd_per_hour` RC if prices are in USD, `loading_s` LC;
    `share_accuracy` is AA at the whole percents.
    `binding` lists its binding limits in words. If nothing is feasible `missing_rps` is the part of the rate
    that no set within the budget carries.
    """

    task: str
    rate_rps: float
    termination: Termination
    solver: str
    parts: tuple[SetPart, ...] = ()
    mean_accuracy: float | None = None
    share_accuracy: float | None = None
    cost_cores: float | None = None
    loading_s: float | None = None
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    binding: tuple[str, ...] = ()
    missing_rps: float = 0.0
    solve_s: float = 0.0
    note: str = ""
    cost_usd_per_hour: float | None = None

    @property
    def cores(self) -> dict[str, float]:
        """The cores of each running variant."""
        return {part.variant: part.cores for part in self.parts}

    @property
    def shares(self) -> dict[str, int]:
        """The traffic of each variant in whole percents; empty if whole percents cannot carry the load."""
        return {part.variant: part.share_percent for part in self.parts if part.share_percent is not None}

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        values = {**asdict(self), "termination": self.termination.value}
        if self.cost_usd_per_hour is None:
            del values["cost_usd_per_hour"]
        return values


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
