"""Verification of plans by plain arithmetic.

It goes back to the operating points and shares only the formulas with the solvers' inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, isclose, isfinite

from ipa.model.errors import Problem as Fault
from ipa.model.errors import SolverError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.model.resources import CORES, Resources, beside_of, in_words, total
from ipa.model.rolling import peak_of
from ipa.optimize.accuracy import accuracy_of
from ipa.optimize.problem import PlanningProblem, StageProblem
from ipa.optimize.timing import Chosen, Times, times_of
from ipa.queueing.formation import utilisation_ratio
from ipa.queueing.tail import path_quantile_s

# Relative above 1: sums of a few dozen floats agree to far less.
AGREE = 1e-7


def verify(problem: PlanningProblem, plan: Plan) -> None:
    """Return if the plan is valid; SolverError lists every wrong number and broken limit."""
    has_plan = plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = _faults_of_plan(problem, plan) if has_plan else _faults_of_none(plan)
    refuse(f"the answer of {plan.solver} for pipeline {problem.pipeline!r}", faults)


def refuse(what: str, faults: Iterable[str]) -> None:
    """Return if there are no faults, else raise a SolverError that lists them."""
    problems = [Fault(fault) for fault in faults]
    if problems:
        raise SolverError(f"{what} does not hold", problems=problems)


def _faults_of_none(plan: Plan) -> Iterator[str]:
    if plan.stages or plan.objective is not None:
        yield f"termination is {plan.termination.value}, yet there is a configuration or an objective"


def _faults_of_plan(problem: PlanningProblem, plan: Plan) -> Iterator[str]:
    planned = [stage for stage in problem.stages if not stage.is_free]
    names = [stage.name for stage in planned]
    if [stage.stage for stage in plan.stages] != names:
        yield f"its stages are {[stage.stage for stage in plan.stages]}, not {names}"
        return
    points: dict[str, OperatingPoint] = {}
    for stage, given in zip(planned, plan.stages, strict=True):
        point = point_of(stage, given)
        if point is None:
            yield f"{given.config} is not among the stage's operating points"
            return
        if not _is_whole(given.replicas):
            yield f"{given.config}: {given.replicas!r} replicas is not a whole number"
            return
        points[stage.name] = point
        if not problem.allows(stage, point):
            yield f"{given.config}: the objective, the bounds or a pin does not allow that point"
    variants = {name: point.variant for name, point in points.items()}
    items, faults = items_of(problem, variants)
    yield from faults
    by_name = {given.stage: given for given in plan.stages}
    chosen = [
        Chosen(index, points[stage.name], by_name[stage.name].replicas, items[stage.name])
        for index, stage in enumerate(problem.stages)
        if stage.name in points
    ]
    for given, each, times in zip(plan.stages, chosen, times_of(problem, chosen), strict=True):
        yield from _faults_of_stage(problem, given, each, times)
    yield from _faults_of_sums(problem, plan, points)


def point_of(stage: StageProblem, planned: StagePlan) -> OperatingPoint | None:
    """The operating point that the plan names, None without such a point."""
    at = stage.columns.place.get((planned.variant, planned.batch_size, planned.cores))
    return None if at is None else stage.points[at]


def items_of(problem: PlanningProblem, variants: Mapping[str, str]) -> tuple[dict[str, float], list[str]]:
    """The items of a request at each stage with those variants, and the stages whose parents disagree."""
    items: dict[str, float] = {}
    faults = []
    for stage in problem.stages:
        sent = [items[edge.parent] * edge.items(variants.get(edge.parent, "")) for edge in stage.after]
        items[stage.name] = sent[0] if sent else 1.0
        if any(not isclose(each, sent[0], rel_tol=AGREE) for each in sent):
            faults.append(f"stage {stage.name!r} gets {sent} items from those before it, which must be equal")
    return items, faults


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _faults_of_stage(
    problem: PlanningProblem, stage: StagePlan, chosen: Chosen, times: Times
) -> Iterator[str]:
    index, point, items = chosen.index, chosen.point, chosen.items
    rate_rps = problem.rate_rps * problem.graph.reach[index] * items
    service_s, wait_s, mean_s, excess_s, capacity_rps = times
    expected = {
        "rate_rps": rate_rps,
        "capacity_rps": capacity_rps,
        "latency_s": service_s,
        "queue_delay_s": wait_s,
        "mean_s": mean_s,
        "excess_s": excess_s,
        "items": items,
        "utilisation_ratio": utilisation_ratio(rate_rps, capacity_rps, stage.replicas),
        "accuracy": point.accuracy,
    }
    for name, value in expected.items():
        yield from differs(f"{stage.stage}: {name}", getattr(stage, name), value)
    if stage.replicas * capacity_rps < rate_rps * (1 - AGREE):
        yield f"{stage.config} carries {stage.replicas * capacity_rps:g} of {rate_rps:g} items a second"
    least, most = problem.replica_limits(problem.stages[index])
    if stage.replicas < least or (most is not None and stage.replicas > most):
        yield f"{stage.config} has replicas outside {least}..{most}"


def _faults_of_sums(
    problem: PlanningProblem, plan: Plan, points: Mapping[str, OperatingPoint]
) -> Iterator[str]:
    objective, bounds = problem.objective, problem.bounds
    given = {stage.stage: stage for stage in plan.stages}
    latency_s = plan_latency_s(problem, plan.stages)
    overhead = bounds.overhead
    cores = overhead.fixed_cores + sum(
        stage.replicas * (points[stage.stage].cores + overhead.each(stage.stage)) for stage in plan.stages
    )
    pas, term = accuracy_of(problem, {name: point.variant for name, point in points.items()})
    held = Resources(cpu_cores=cores)
    if {*bounds.limits, *problem.prices.each} != {CORES}:
        held += total(beside_of(points[stage.stage]) * stage.replicas for stage in plan.stages)
    peak, started_cores = _peak(problem, given, points) if problem.running else (held, 0.0)
    cost = problem.prices.cost(held)
    worth = (
        objective.alpha * term
        - objective.beta * cost
        - objective.delta * sum(point.batch_size for point in points.values())
        - objective.transition_per_core * started_cores
    )
    worth = {Goal.WEIGHTED: worth, Goal.LEXICOGRAPHIC: term, Goal.CHEAPEST: -cost}[objective.goal]
    yield from differs("objective", plan.objective, worth)
    yield from differs("pas", plan.pas, pas)
    yield from differs("cost_cores", plan.cost_cores, cores)
    if problem.prices.is_money:
        yield from differs("cost_usd_per_hour", plan.cost_usd_per_hour, cost)
    yield from differs("latency_s", plan.latency_s, latency_s)
    yield from differs("sla_s", plan.sla_s, problem.sla_s)
    if exceeds(latency_s, problem.sla_s):
        yield f"latency {latency_s:g} s is above the SLA of {problem.sla_s:g} s"
    now = problem.resources(problem.running) if problem.running else Resources(cpu_cores=overhead.fixed_cores)
    for name, limit in bounds.limits.items():
        if exceeds(held.amount(name), limit):
            yield f"{in_words(name, held.amount(name))} are above the bound of {limit:g}"
    for name, limit in (bounds.change_limits if problem.running else bounds.limits).items():
        most = max(limit, now.amount(name))
        if exceeds(peak.amount(name), most):
            words = in_words(name, peak.amount(name))
            yield f"{words} of old and new together are above the bound of {most:g}"
    if objective.max_cost_cores is not None and exceeds(cores, objective.max_cost_cores):
        yield f"{cores:g} cores are above the cost ceiling of {objective.max_cost_cores:g}"
    if bounds.accuracy_floor is not None and exceeds(bounds.accuracy_floor, pas):
        yield f"PAS {pas:g} is below the floor of {bounds.accuracy_floor:g}"
    if plan.bound is not None and exceeds(worth, plan.bound):
        yield f"objective {worth!r} is above the solver's own bound {plan.bound!r}"


def plan_latency_s(problem: PlanningProblem, stages: Sequence[StagePlan]) -> float:
    """The latency of the slowest path: Σ means plus the root of Σ squared excesses."""
    given = {stage.stage: stage for stage in stages}
    paths = ([problem.stages[at].name for at in path] for path in problem.graph.paths)
    passed = ([given[name] for name in path if name in given] for path in paths)
    return max(
        float(path_quantile_s([stage.mean_s for stage in path], [stage.excess_s for stage in path]))
        for path in passed
    )


def _peak(
    problem: PlanningProblem, given: Mapping[str, StagePlan], points: Mapping[str, OperatingPoint]
) -> tuple[Resources, float]:
    """The resources of old and new replicas together, and the cores of replicas that start."""
    peak, started = Resources(cpu_cores=problem.fixed_cores), 0.0
    before = {config.stage: config for config in problem.running}
    for stage in problem.stages:
        if stage.name not in given:
            continue
        new, old = given[stage.name].config, before.get(stage.name)
        new_cores = problem.held(new).cores
        new_each = Resources(cpu_cores=new_cores) + beside_of(points[stage.name])
        if old is None:
            peak += new_each * new.replicas
            continue
        old_each = Resources(cpu_cores=problem.held(old).cores) + problem.beside(stage, old.variant)
        peak += peak_of(old, old_each, new, new_each, problem.rolling)
        keeps = problem.rolling.keeps_replicas(old, new)
        fresh = max(0, new.replicas - old.replicas) if keeps else new.replicas
        started += fresh * new_cores
    return peak, started


def differs(name: str, given: float | None, expected: float) -> Iterator[str]:
    """The fault of a number that is not what arithmetic gives, none if it is."""
    if given is None or not isfinite(given) or not isclose(given, expected, rel_tol=AGREE, abs_tol=AGREE):
        yield f"{name} is {expected!r} by arithmetic, not {given!r}"


def exceeds(value: float, limit: float) -> bool:
    """True if the value is above the limit beyond rounding."""
    return value > limit + AGREE * max(1.0, abs(limit)) if limit < inf else False
