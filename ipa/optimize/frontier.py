"""Pareto frontiers of one problem: accuracy, cost and latency, or worth and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from ipa.model.plan import StageConfig
from ipa.optimize.backends.label_setting import LabelSearch
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import reduce_program, undominated
from ipa.optimize.options import full_program
from ipa.optimize.plans import configs_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Program, ResourceBudget, Totals, Weights, evaluate

# Costs and latencies that differ less, in cores and seconds, are equal: sums in another order do.
DIGITS = 9


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A plan within the limits and its figures; `pas` is the accuracy of a request along the graph.

    `cost_usd_per_hour` is None if the problem has no prices in money.
    """

    cost_cores: float
    pas: float
    latency_s: float
    objective: float
    configs: tuple[StageConfig, ...]
    cost_usd_per_hour: float | None = None

    @property
    def cost(self) -> float:
        """USD an hour; cores without prices."""
        return self.cost_cores if self.cost_usd_per_hour is None else self.cost_usd_per_hour


def accuracy_cost(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """The Pareto-optimal points in accuracy and cost, by rising cost."""
    best: list[FrontierPoint] = []
    for point in sorted(points, key=lambda each: (round(each.cost, 9), -each.pas, each.latency_s)):
        if not best or round(point.pas, 12) > round(best[-1].pas, 12):
            best.append(point)
    return best


def frontier(problem: PlanningProblem, deadline_s: float = 60.0) -> tuple[FrontierPoint, ...]:
    """The Pareto-optimal plans in cost (price, if there are prices), accuracy and latency, by rising cost.

    Empty if infeasible. Exact within the problem's limits, by label setting. Of plans equal in all three one
    is returned. Their number grows fast with the stages: thousands for five stages of eight variants.

    Errors: DeadlineError if the time runs out before all are known.
    """
    given = full_program(problem)
    # Accuracies multiply along the graph whatever the objective; cost and latency always count.
    plain = reduce_program(
        replace(
            given,
            stages=tuple(
                stage.having(factor=stage.accuracy, value=np.zeros(len(stage))) for stage in given.stages
            ),
            uses_product=True,
            weights=Weights(1.0, 0.0, 0.0),
        )
    )
    if not all(len(stage) for stage in plain.stages):
        return ()
    plans, _ = LabelSearch(plain, Deadline(deadline_s)).undominated()
    chosen = list(map(tuple, plans.tolist()))
    totals = [evaluate(plain, each) for each in chosen]
    columns = np.array([[total.cost, -total.pas, total.latency_s] for total in totals]).reshape(-1, 3)
    best = undominated(np.round(columns.T, DIGITS))
    points = [_point(problem, plain, chosen[at], totals[at]) for at in best.tolist()]
    return tuple(sorted(points, key=lambda point: (point.cost, -point.pas, point.latency_s)))


def worth_program(problem: PlanningProblem, limits: Mapping[str, float] | None = None) -> Program:
    """The reduced program whose objective is the worth of the problem's plans.

    No plan may use more than `limits` of resources other than cores, by name. All plans that are
    Pareto-optimal in worth, cores and these resources are kept.
    """
    program = full_program(problem)
    # Budgets, which are criteria, of those resources that any option uses.
    for name, most in (limits or {}).items():
        use = [
            options.replicas * stage.columns.beside[name].take(options.point)
            if name in stage.columns.beside
            else np.zeros(len(options))
            for stage, options in zip(problem.stages, program.stages, strict=True)
        ]
        largest = sum(float(each.max(initial=0.0)) for each in use)
        if largest > 0:
            # The way to a plan is the pipeline's own affair: only what it holds at its end counts.
            program = program.with_budget(ResourceBudget(name, inf, min(most, largest)), use)
    return reduce_program(program.in_cores())


def _point(
    problem: PlanningProblem, program: Program, chosen: tuple[int, ...], totals: Totals
) -> FrontierPoint:
    configs = configs_of(problem, program, chosen)
    plan = describe(problem, configs)
    assert plan is not None and plan.objective is not None, "its points are the problem's"
    objective = plan.objective
    if problem.running:
        stages = zip(program.stages, chosen, strict=True)
        started_cores = sum(float(options.started_cores[at]) for options, at in stages)
        objective -= problem.objective.transition_per_core * started_cores
    return FrontierPoint(
        totals.cost_cores, totals.pas, totals.latency_s, objective, configs, plan.cost_usd_per_hour
    )
