"""The plan of a solver's answer, and its verification by plain arithmetic.

Verification starts from the operating points and shares only the formulas with the solvers' inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, isclose, isfinite

from ipa.model.errors import Problem as Fault
from ipa.model.errors import SolverError
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig, StagePlan, Termination
from ipa.model.resources import Resources, in_words
from ipa.model.rolling import peak_of
from ipa.optimize.describe import describe, items_of, no_plan
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Program, ProgramAnswer, evaluate
from ipa.optimize.solver_selection import CONTRADICTION

# Gurobi's infinity, of a bound that it does not have yet.
NO_BOUND = 1e100
# Relative above 1: sums of a few dozen floats agree to far less.
AGREE = 1e-7
# The figures of a stage.
STAGE_NUMBERS = (
    *("cores", "rate_rps", "capacity_rps", "latency_s", "queue_delay_s", "utilisation_ratio", "accuracy"),
    *("items", "mean_s", "excess_s", "slowdown_ratio"),
)


def plan_of(problem: PlanningProblem, program: Program, solver: str, answer: ProgramAnswer) -> Plan:
    """The plan of a solver's answer, verified; without configurations if the solver chose none.

    Errors: SolverError (the plan is invalid).
    """
    bound = answer.bound if answer.bound is not None and abs(answer.bound) < NO_BOUND else None
    if not answer.chosen:
        return replace(
            no_plan(problem.pipeline, problem.rate_rps, problem.sla_s, solver, problem.objective.name),
            termination=answer.termination,
            bound=bound,
        )
    totals = evaluate(program, answer.chosen)
    objective, gap = totals.objective, None
    if bound is not None:
        close = CONTRADICTION * max(1.0, abs(objective))
        is_met = answer.termination is Termination.OPTIMAL and bound - objective <= close
        # A bound is never below the objective that was reached.
        bound = objective if is_met else max(bound, objective)
        gap = (bound - objective) / max(1.0, abs(objective))
    right = describe(problem, configs_of(problem, program, answer.chosen))
    assert right is not None, "its points are the problem's"
    plan = replace(
        right,
        termination=answer.termination,
        solver=solver,
        objective=objective,
        bound=bound,
        gap=gap,
        pas=totals.pas,
        cost_cores=totals.cost_cores,
        latency_s=totals.latency_s,
    )
    verify(problem, plan, right)
    return plan


def configs_of(problem: PlanningProblem, program: Program, chosen: Sequence[int]) -> tuple[StageConfig, ...]:
    """The chosen configuration of each stage, in order, without stages of the pipeline's own router."""
    configs = []
    for stage, options, at in zip(problem.stages, program.stages, chosen, strict=True):
        if not stage.is_free:
            point = stage.points[int(options.point[at])]
            key = point.variant, point.batch_size, point.cores
            configs.append(StageConfig(stage.name, *key, int(options.replicas[at])))
    return tuple(configs)


def verify(problem: PlanningProblem, plan: Plan, right: Plan | None = None) -> None:
    """Check that the plan is valid; SolverError lists every wrong number and broken limit.

    `right` is the expected description, if known.
    """
    if plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE):
        faults = list(_faults_of_plan(problem, plan, right))
    else:
        words = f"termination is {plan.termination.value}, yet there is a configuration or an objective"
        faults = [words] if plan.stages or plan.objective is not None else []
    if faults:
        answer = f"the answer of {plan.solver} for pipeline {problem.pipeline!r}"
        raise SolverError(f"{answer} is invalid", problems=map(Fault, faults))


def _faults_of_plan(problem: PlanningProblem, plan: Plan, right: Plan | None) -> Iterator[str]:
    planned = [stage for stage in problem.stages if not stage.is_free]
    names = [stage.name for stage in planned]
    if [stage.stage for stage in plan.stages] != names:
        yield f"its stages are {[stage.stage for stage in plan.stages]}, not {names}"
        return
    for stage, given in zip(planned, plan.stages, strict=True):
        place = stage.columns.place.get((given.variant, given.batch_size, given.cores))
        if place is None:
            yield f"{given.config} is not among the stage's operating points"
            return
        if type(given.replicas) is not int or given.replicas < 1:
            yield f"{given.config}: {given.replicas!r} replicas is not a whole number above 0"
            return
        if given.share_percent != WHOLE_PERCENT:
            yield f"{given.config} has {given.share_percent} % of the requests"
            return
        if not problem.allows(stage, stage.points[place]):
            yield f"{given.config}: the objective, the bounds or a pin does not allow that point"
    _, faults = items_of(problem, {given.stage: given.variant for given in plan.stages})
    yield from faults
    right = right or describe(problem, plan.configs)
    assert right is not None, "its points were found"
    for stage, given, expected in zip(planned, plan.stages, right.stages, strict=True):
        carried_rps = given.replicas * expected.capacity_rps
        if carried_rps < expected.rate_rps * (1 - AGREE):
            yield f"{given.config} carries {carried_rps:g} of {expected.rate_rps:g} items a second"
        least, most = problem.replica_limits(stage)
        if given.replicas < least or (most is not None and given.replicas > most):
            yield f"{given.config} has replicas outside {least}..{most}"
        for name in STAGE_NUMBERS:
            yield from differs(f"{given.stage}.{name}", getattr(given, name), getattr(expected, name))
    yield from _faults_of_sums(problem, plan, right)


def _faults_of_sums(problem: PlanningProblem, plan: Plan, right: Plan) -> Iterator[str]:
    """The wrong sums and the broken limits; `right` has the recomputed sums, without a change's cost."""
    objective, bounds = problem.objective, problem.bounds
    held = right.resources
    peak, started_cores = _peak(problem, right.stages) if problem.running else (held, 0.0)
    worth = (right.objective or 0.0) - objective.transition_per_core * started_cores
    yield from differs("objective", plan.objective, worth)
    for name in ("pas", "cost_cores", "latency_s", "sla_s"):
        yield from differs(name, getattr(plan, name), getattr(right, name))
    if right.cost_usd_per_hour is not None:
        yield from differs("cost_usd_per_hour", plan.cost_usd_per_hour, right.cost_usd_per_hour)
    cores, pas, latency_s = right.cost_cores or 0.0, right.pas or 0.0, right.latency_s or 0.0
    if exceeds(latency_s, problem.sla_s):
        yield f"latency {latency_s:g} s is above the SLA of {problem.sla_s:g} s"
    now = problem.resources(problem.running)
    for name, limit in bounds.limits.items():
        if exceeds(held.amount(name), limit):
            yield f"{in_words(name, held.amount(name))} are above the bound of {limit:g}"
    for name, limit in (bounds.change_limits if problem.running else bounds.limits).items():
        most = max(limit, now.amount(name))
        if exceeds(peak.amount(name), most):
            words = in_words(name, peak.amount(name))
            yield f"{words} of old and new replicas together are above the bound of {most:g}"
    if objective.max_cost_cores is not None and exceeds(cores, objective.max_cost_cores):
        yield f"{cores:g} cores are above the cost ceiling of {objective.max_cost_cores:g}"
    if bounds.accuracy_floor is not None and exceeds(bounds.accuracy_floor, pas):
        yield f"PAS {pas:g} is below the floor of {bounds.accuracy_floor:g}"
    if plan.bound is not None:
        yield from differs("gap", plan.gap, (plan.bound - worth) / max(1.0, abs(worth)))
        if exceeds(worth, plan.bound):
            yield f"objective {worth!r} is above the solver's own bound {plan.bound!r}"


def _peak(problem: PlanningProblem, stages: Sequence[StagePlan]) -> tuple[Resources, float]:
    """The resources of old and new replicas together, and the cores of replicas that start."""
    peak, started = Resources(cpu_cores=problem.fixed_cores), 0.0
    before = {config.stage: config for config in problem.running}
    by_name = {stage.name: stage for stage in problem.stages}
    for planned in stages:
        new, old = planned.config, before.get(planned.stage)
        new_cores = problem.with_overhead(new).cores
        new_each = Resources(cpu_cores=new_cores) + planned.beside
        if old is None:
            peak += new_each * new.replicas
            continue
        beside = problem.beside(by_name[planned.stage], old.variant)
        old_each = Resources(cpu_cores=problem.with_overhead(old).cores) + beside
        peak += peak_of(old, old_each, new, new_each, problem.rolling)
        keeps = problem.rolling.keeps_replicas(old, new)
        fresh = max(0, new.replicas - old.replicas) if keeps else new.replicas
        started += fresh * new_cores
    return peak, started


def differs(name: str, given: float | None, expected: float) -> Iterator[str]:
    """The fault if a number differs from its recomputed value; none if they agree."""
    if given is None or not isfinite(given) or not isclose(given, expected, rel_tol=AGREE, abs_tol=AGREE):
        yield f"{name} is {expected!r} by arithmetic, not {given!r}"


def exceeds(value: float, limit: float) -> bool:
    """True if the value exceeds the limit by more than rounding."""
    return value > limit + AGREE * max(1.0, abs(limit)) if limit < inf else False
