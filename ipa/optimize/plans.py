"""Build plans from chosen options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, StageConfig, StagePlan, Termination
from ipa.optimize.describe import stage_plans_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Program, ProgramAnswer, Totals, evaluate
from ipa.optimize.solver_selection import CONTRADICTION
from ipa.optimize.timing import Chosen
from ipa.queueing.formation import formation_wait_s

NO_BOUND = 1e100


def plan_of(problem: PlanningProblem, program: Program, solver: str, found: ProgramAnswer) -> Plan:
    """The plan of a solver's answer; without configuration if it chose none."""
    plan = Plan(
        pipeline=problem.pipeline,
        rate_rps=problem.rate_rps,
        termination=found.termination,
        solver=solver,
        objective=None,
        bound=_known(found.bound),
        gap=None,
        pas=None,
        cost_cores=None,
        latency_s=None,
        sla_s=problem.sla_s,
        solve_s=0.0,
        stages=(),
        objective_name=problem.objective.name,
        prices=_prices(problem, program, found),
    )
    if not found.chosen:
        return plan
    totals = evaluate(program, found.chosen)
    objective = worth(problem, totals)
    stages = stage_plans(problem, program, found.chosen)
    weighted = problem.objective.goal is Goal.WEIGHTED
    bound, gap = bound_and_gap(found.bound if weighted else objective, objective, found.termination)
    return replace(
        plan,
        objective=objective,
        bound=bound,
        gap=gap,
        pas=totals.pas,
        cost_cores=totals.cost_cores,
        latency_s=totals.latency_s,
        stages=stages,
        cost_usd_per_hour=_usd_per_hour(problem, stages),
    )


def _usd_per_hour(problem: PlanningProblem, stages: Sequence[StagePlan]) -> float | None:
    """The price of the stages' resources; None without prices."""
    if not problem.prices.is_money:
        return None
    return problem.prices.cost(problem.resources([stage.config for stage in stages]))


def worth(problem: PlanningProblem, totals: Totals) -> float:
    """The objective of a plan: the weighted sum, or the first criterion of an order."""
    goal = problem.objective.goal
    if goal is Goal.LEXICOGRAPHIC:
        return totals.term
    return -totals.cost if goal is Goal.CHEAPEST else totals.objective


def stage_plans(problem: PlanningProblem, program: Program, chosen: Sequence[int]) -> tuple[StagePlan, ...]:
    """The configuration of each stage, in order, without stages that the pipeline's own router does."""
    return stage_plans_of(
        problem,
        [
            Chosen(
                index,
                problem.stages[index].points[int(options.point[at])],
                int(options.replicas[at]),
                float(options.items[at]),
            )
            for index, (options, at) in enumerate(zip(program.stages, chosen, strict=True))
            if not problem.stages[index].is_free
        ],
        {},
    )


def configs_of(problem: PlanningProblem, program: Program, chosen: Sequence[int]) -> tuple[StageConfig, ...]:
    """The chosen configuration of each stage, as `stage_plans` without its performance."""
    found = []
    for stage, options, at in zip(problem.stages, program.stages, chosen, strict=True):
        if not stage.is_free:
            point = stage.points[int(options.point[at])]
            key = point.variant, point.batch_size, point.cores
            found.append(StageConfig(stage.name, *key, int(options.replicas[at])))
    return tuple(found)


def bound_and_gap(
    bound: float | None, objective: float, termination: Termination
) -> tuple[float | None, float | None]:
    """The bound, never below the objective reached, and its distance to it (relative above 1)."""
    known = _known(bound)
    if known is None:
        return None, None
    close = CONTRADICTION * max(1.0, abs(objective))
    if known < objective or (termination is Termination.OPTIMAL and known - objective <= close):
        known = objective
    return known, (known - objective) / max(1.0, abs(objective))


def _known(bound: float | None) -> float | None:
    """The bound, None if the solver has none yet (infinity, 1e100 in Gurobi)."""
    return bound if bound is not None and abs(bound) < NO_BOUND else None


def _prices(
    problem: PlanningProblem, program: Program, found: ProgramAnswer
) -> tuple[tuple[str, float], ...]:
    if found.prices is None:
        return ()
    graph = program.graph
    names = ["sla"]
    if len(graph.paths) > 1:
        names = ["sla " + " > ".join(problem.stages[at].name for at in path) for path in graph.paths]
    names += [limit.name for limit in program.limits()]
    return tuple(zip(names, (float(price) for price in found.prices), strict=True))


def released_note(problem: PlanningProblem, plan: Plan) -> str:
    """A note on a plan's latency under the released semantics, with the latency by the paper."""
    waits = {stage.name: stage.batch_timeout_s for stage in problem.stages}
    at = {stage.stage: number for number, stage in enumerate(plan.stages)}
    paper_s = max(
        sum(
            planned.latency_s + formation_wait_s(planned.batch_size, planned.rate_rps, waits[planned.stage])
            for planned in (
                plan.stages[at[problem.stages[index].name]]
                for index in path
                if problem.stages[index].name in at
            )
        )
        for path in problem.graph.paths
    )
    return (
        "ipa-artifact: queue_delay_s is the released term, never above 0, and latency_s the sum that "
        f"the released constraint holds below the SLA; with the wait as the paper charges it: {paper_s:.4g} s"
    )
