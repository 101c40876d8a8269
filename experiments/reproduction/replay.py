"""The released controller's loop, by planning alone: forecast, plan, keep what runs without a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod

from experiments.reproduction.settings import PublishedRun
from ipa.model.profile import StageProfile
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem

DEADLINE_S = 30.0
# A weight this much larger decides only between plans that a MILP solver's usual gap, 1e-4 of the
# objective, does not tell apart.
TIE = 2e-5
LEAST_RPS = 0.1
# Rates are planned for on this grid, so that each is planned once.
GRID_RPS = 0.05

Totals = tuple[float, float]
Ask = Callable[[float], Totals | None]


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a run: means over its decisions, and the number without a plan."""

    cores: float
    pas: float
    rate_rps: float
    decisions: int
    infeasible: int


def planner(run: PublishedRun, profiles: Mapping[str, StageProfile], *, accurate: bool = False) -> Ask:
    """Asks for the best plan's cores and PAS at a rate (None: there is no plan); each rate is solved once.

    Of equally good plans it is the cheapest, or with `accurate` the most accurate.
    """
    objective = run.objective
    tilted = replace(objective, alpha=objective.alpha * (1 + TIE)) if accurate else objective
    pipeline = replace(run.pipeline, objectives={objective.name: tilted})

    @cache
    def ask(rate_rps: float) -> Totals | None:
        problem = planning_problem(pipeline, profiles, rate_rps, compat=run.compat, allocation=run.allocation)
        plan = solve(problem, "exact", DEADLINE_S, explain=False)
        if plan.cost_cores is None or plan.pas is None:
            return None
        return plan.cost_cores, plan.pas

    return lambda rate_rps: ask(round(max(round(rate_rps / GRID_RPS) * GRID_RPS, LEAST_RPS), 2))


def started(run: PublishedRun, profiles: Mapping[str, StageProfile]) -> Totals:
    """Cores and PAS of what the run started with."""
    return (
        sum(config.total_cores for config in run.starting),
        prod(profiles[config.stage].variant(config.variant).accuracy for config in run.starting),
    )


def walk(ask: Ask, starting: Totals, rates_rps: Sequence[float]) -> Replay:
    """The means under these rates to plan for, a decision each; they carry the run's margin already.

    Until the first plan, and wherever a rate has none, what ran goes on.
    """
    now, totals = starting, []
    infeasible = 0
    for rate_rps in rates_rps:
        chosen = ask(rate_rps)
        infeasible += chosen is None
        now = chosen or now
        totals.append(now)
    count = len(totals)
    cores, pas = (sum(each) / count for each in zip(*totals, strict=True))
    return Replay(cores, pas, sum(rates_rps) / count, count, infeasible)
