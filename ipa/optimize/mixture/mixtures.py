"""Mixtures: configurations of the pipeline that run side by side, with their shares."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from ipa.model.errors import UsageError
from ipa.model.plan import Plan, Termination
from ipa.model.resources import CORES
from ipa.optimize.problem import PlanningProblem


@dataclass(frozen=True, slots=True)
class MixtureLimits:
    """Limits of a mixture: number of configurations, multiples of `step_percent`, and the least useful gain.

    A mixture is taken only if its worth exceeds that of the best single plan by more than `min_gain`.
    UsageError if the numbers make no sense.
    """

    max_parts: int = 2
    step_percent: int = 1
    min_gain: float = 1e-9

    def __post_init__(self) -> None:
        if not 1 <= self.max_parts <= 3:
            raise UsageError(f"max_parts must be 1, 2 or 3, not {self.max_parts!r}")
        if self.step_percent < 1 or 100 % self.step_percent:
            raise UsageError(f"step_percent must divide 100, not {self.step_percent!r}")
        if not 1e-9 <= self.min_gain < inf:
            raise UsageError(f"min_gain must be finite, 1e-9 at the least, not {self.min_gain!r}")


@dataclass(frozen=True, slots=True)
class MixturePart:
    """One configuration: its share of the requests, and the plan for that share of the rate.

    The plan's objective is the worth of the part: α·share·accuracy − β·cores − δ·Σ batch sizes.
    """

    share_percent: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Mixture:
    """The best mixture found: one part if a single plan is as good, none if nothing is feasible.

    `objective` sums the worth of the parts, `mean_pas` weighs their PAS by their shares. `single` is the best
    single plan and `gain` the mixture's gain over it, None if no single plan is feasible.
    """

    pipeline: str
    rate_rps: float
    termination: Termination
    single: Plan
    parts: tuple[MixturePart, ...] = ()
    objective: float | None = None
    gain: float | None = None
    cost_cores: float | None = None
    mean_pas: float | None = None
    solve_s: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The mixture as plain JSON values."""
        parts = [{"share_percent": part.share_percent, "plan": part.plan.to_json()} for part in self.parts]
        values = asdict(self)
        values.update(termination=self.termination.value, single=self.single.to_json(), parts=parts)
        return values


def part_problem(problem: PlanningProblem, share_percent: int) -> PlanningProblem:
    """The problem of a part: that share of the rate, and of α; all resources of the mixture."""
    share = share_percent / 100
    objective = replace(
        problem.objective, alpha=problem.objective.alpha * share, max_cost_cores=None, transition_per_core=0.0
    )
    bounds = replace(problem.bounds, cores=most_together(problem).get(CORES))
    return replace(problem, rate_rps=problem.rate_rps * share, objective=objective, bounds=bounds, running=())


def most_together(problem: PlanningProblem) -> dict[str, float]:
    """The most that all parts may take together, of each limited resource by name."""
    limits, ceiling = problem.bounds.limits, problem.objective.max_cost_cores
    return limits if ceiling is None else limits | {CORES: min(ceiling, limits.get(CORES, inf))}
