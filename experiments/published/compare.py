"""Base allocation against cores as a decision, in one cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isclose
from typing import Any

from experiments.published.data import HALF_DIGIT, PublishedCell
from experiments.published.mix import cheapest_mix
from ipa.model.pipeline import Objective, Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation

DEADLINE_S = 30.0
# The next plan of a frontier must be more accurate by this much (relative); less is rounding.
MORE = 1e-7
SLACK = 1e-9
# The weight of accuracy where a core weighs one: it decides between plans of equal cores alone.
LESS_THAN_CORES = 1e-6


@dataclass(frozen=True, slots=True)
class Pair:
    """Mean cores a tick with base allocation and with free cores; None where some tick has no plan."""

    base_cores: float | None
    free_cores: float | None

    @property
    def saving_ratio(self) -> float | None:
        """The share of the cores that is saved."""
        if self.base_cores is None or self.free_cores is None:
            return None
        return 1 - self.free_cores / self.base_cores


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is known of a cell. Cores, replicas and PAS are means over the ticks.

    `released` is what the released rule decides here. `tick`: at each tick at least its accuracy. `tail`: the
    same, where the quantile of the time under random arrivals must meet the SLA. `floor`: at each tick at
    least the target. `mean`: the target on the mean over the ticks. `example` shows `tick` at the most
    frequent rate.
    """

    cell: PublishedCell
    rate_rps: float
    target: float
    released_cores: float
    released_pas: float
    tick: Pair
    tick_replicas: Pair
    floor: Pair
    mean: Pair
    tail: Pair
    example: tuple[float, str, str]

    @property
    def mean_saving_ratio(self) -> float | None:
        """The saving of free cores beside the cores of the released rule, at the target on the mean."""
        return Pair(self.released_cores, self.mean.free_cores).saving_ratio


Ask = Callable[..., Plan]


def compare(cell: PublishedCell, pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Comparison:
    """The cell's comparison; a cell without a published PAS has that of the released rule as its target."""
    ticks = Counter(cell.rates_rps)
    ask = partial(planned, pipeline, profiles)
    released = {rate: ask(rate, cell.objective, Allocation.BASE) for rate in ticks}
    released_pas = mean_of(ticks, lambda rate: released[rate].pas)
    released_cores = mean_of(ticks, lambda rate: released[rate].cost_cores)
    if released_pas is None or released_cores is None:
        raise ValueError(f"the released rule has no plan for {cell.pipeline} under {cell.workload}")
    target = released_pas if cell.published is None else cell.published.pas - HALF_DIGIT
    frontiers = {
        allocation: {rate: frontier(ask, rate, cell.objective, allocation) for rate in ticks}
        for allocation in Allocation
    }
    floors = {rate: plan.pas or 0.0 for rate, plan in released.items()}
    at_tick = {name: at_least(made, floors) for name, made in frontiers.items()}
    at_floor = {name: at_least(made, dict.fromkeys(ticks, target)) for name, made in frontiers.items()}
    tailed = {
        allocation: {
            rate: ask(rate, cheapest(cell.objective), allocation, floors[rate] * (1 - SLACK), Compat.TAIL)
            for rate in ticks
        }
        for allocation in Allocation
    }
    mixes = {
        name: cheapest_mix(
            {rate: [_cost(plan) for plan in plans] for rate, plans in made.items()}, ticks, target - SLACK
        )
        for name, made in frontiers.items()
    }
    often = max(ticks, key=lambda rate: (ticks[rate], rate))
    return Comparison(
        cell=cell,
        rate_rps=sum(cell.rates_rps) / len(cell.rates_rps),
        target=target,
        released_cores=released_cores,
        released_pas=released_pas,
        tick=pair_of(ticks, at_tick, _cores),
        tick_replicas=pair_of(ticks, at_tick, _replicas),
        floor=pair_of(ticks, at_floor, _cores),
        mean=Pair(mixes[Allocation.BASE], mixes[Allocation.FREE]),
        tail=pair_of(ticks, tailed, _cores),
        example=(often, _words(at_tick[Allocation.BASE][often]), _words(at_tick[Allocation.FREE][often])),
    )


def planned(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    objective: Objective,
    allocation: Allocation,
    floor: float | None = None,
    compat: Compat = Compat.IPA_ARTIFACT,
) -> Plan:
    """The best plan, checked, by label setting."""
    constrained = replace(
        pipeline,
        objectives={objective.name: objective},
        default_objective=objective.name,
        bounds=replace(pipeline.bounds, accuracy_floor=floor),
    )
    problem = planning_problem(constrained, profiles, rate_rps, compat=compat, allocation=allocation)
    return solve(problem, "exact", DEADLINE_S, explain=False)


def cheapest(objective: Objective) -> Objective:
    """The same settings, where the fewest cores at the accuracy floor are best, then the most accuracy."""
    return replace(objective, alpha=LESS_THAN_CORES, beta=1.0, delta=0.0)


def frontier(ask: Ask, rate_rps: float, objective: Objective, allocation: Allocation) -> list[Plan]:
    """Every plan that is the cheapest of its accuracy, in rising accuracy and cost."""
    plans: list[Plan] = []
    floor = SLACK
    while True:
        plan = ask(rate_rps, cheapest(objective), allocation, floor)
        if plan.pas is None:
            return plans
        if plans and isclose(plan.cost_cores or 0.0, plans[-1].cost_cores or 0.0):
            # Where accuracies differ by little, the weight decides by less than the tolerance of the planner.
            plans.pop()
        plans.append(plan)
        floor = plan.pas * (1 + MORE)


def at_least(
    frontiers: Mapping[float, Sequence[Plan]], floors: Mapping[float, float]
) -> dict[float, Plan | None]:
    """For each rate the cheapest plan of at least that accuracy."""
    return {
        rate: next((plan for plan in plans if (plan.pas or 0.0) >= floors[rate] * (1 - SLACK)), None)
        for rate, plans in frontiers.items()
    }


def mean_of(ticks: Mapping[float, int], value: Callable[[float], float | None]) -> float | None:
    """The mean over the ticks; None where a tick has no value."""
    total = 0.0
    for rate, count in ticks.items():
        one = value(rate)
        if one is None:
            return None
        total += count * one
    return total / sum(ticks.values())


def pair_of(
    ticks: Mapping[float, int],
    plans: Mapping[Allocation, Mapping[float, Plan | None]],
    value: Callable[[Plan | None], float | None],
) -> Pair:
    """A mean for each allocation."""
    base, free = (
        mean_of(ticks, lambda rate, made=plans[name]: value(made[rate]))  # type: ignore[misc]
        for name in (Allocation.BASE, Allocation.FREE)
    )
    return Pair(base, free)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values."""
    pairs = {
        name: {
            "base": getattr(comparison, name).base_cores,
            "free": getattr(comparison, name).free_cores,
            "saving_ratio": getattr(comparison, name).saving_ratio,
        }
        for name in ("tick", "floor", "mean", "tail")
    }
    published = comparison.cell.published
    return {
        "pipeline": comparison.cell.pipeline,
        "workload": comparison.cell.workload,
        "ticks": len(comparison.cell.rates_rps),
        "rate_rps": comparison.rate_rps,
        "published_label": published and published.label,
        "published_rate_rps": published and published.rate_rps,
        "published_cores": published and published.cores,
        "published_pas": published and published.pas,
        "target_pas": comparison.target,
        "released_cores": comparison.released_cores,
        "released_pas": comparison.released_pas,
        **pairs,
        "saving_ratio": comparison.mean_saving_ratio,
        "tick_replicas": {
            "base": comparison.tick_replicas.base_cores,
            "free": comparison.tick_replicas.free_cores,
        },
        "example": dict(zip(("rate_rps", "base", "free"), comparison.example, strict=True)),
    }


def _cores(plan: Plan | None) -> float | None:
    return None if plan is None else plan.cost_cores


def _replicas(plan: Plan | None) -> float | None:
    return None if plan is None else float(sum(stage.replicas for stage in plan.stages))


def _cost(plan: Plan) -> tuple[float, float]:
    assert plan.cost_cores is not None and plan.pas is not None
    return plan.cost_cores, plan.pas


def _words(plan: Plan | None) -> str:
    if plan is None:
        return "–"
    return ", ".join(f"{stage.replicas} × {stage.cores:g}" for stage in plan.stages)
