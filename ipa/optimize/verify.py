"""Plain arithmetic that every plan must stand before anyone sees it.

It goes back to the operating points and shares only the formulas with what the solvers were given.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose, isfinite

from ipa.model.errors import Problem as Fault
from ipa.model.errors import SolverError
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize.accuracy import accuracy_of_chain, variant_terms
from ipa.optimize.problem import Compat, Problem, StageProblem
from ipa.queueing.capacity import utilisation_ratio
from ipa.queueing.chain import chain_latency_s
from ipa.queueing.formation import batches_in_sequence, formation_wait_s, released_wait_s

# Relative above 1: sums of a few dozen floats agree to far less.
AGREE = 1e-7


def verify(problem: Problem, plan: Plan) -> None:
    """Return where the plan holds; SolverError lists every number and row of it that does not."""
    has_plan = plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = list(_faults_of_plan(problem, plan) if has_plan else _faults_of_none(plan))
    if faults:
        raise SolverError(
            f"the answer of {plan.solver} for pipeline {problem.pipeline!r} does not hold",
            problems=[Fault(fault) for fault in faults],
        )


def _faults_of_none(plan: Plan) -> Iterator[str]:
    if plan.stages or plan.objective is not None:
        yield f"termination is {plan.termination.value}, yet there is a configuration or an objective"


def _faults_of_plan(problem: Problem, plan: Plan) -> Iterator[str]:
    names = [stage.name for stage in problem.stages]
    if [stage.stage for stage in plan.stages] != names:
        yield f"its stages are {[stage.stage for stage in plan.stages]}, not {names}"
        return
    points: list[OperatingPoint] = []
    for index, stage in enumerate(plan.stages):
        point = _point(problem.stages[index], stage)
        if point is None:
            yield f"{stage.config} is not among the stage's operating points"
            return
        if not _is_whole(stage.replicas):
            yield f"{stage.config}: {stage.replicas!r} replicas is not a whole number"
            return
        points.append(point)
        if not problem.allows(point):
            yield f"{stage.config}: that batch size is not allowed"
        yield from _faults_of_stage(problem, index, stage, point)
    yield from _faults_of_sums(problem, plan, points)


def _point(stage: StageProblem, planned: StagePlan) -> OperatingPoint | None:
    wanted = (planned.variant, planned.batch_size, planned.cores)
    return next((p for p in stage.points if (p.variant, p.batch_size, p.cores) == wanted), None)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _faults_of_stage(problem: Problem, index: int, stage: StagePlan, point: OperatingPoint) -> Iterator[str]:
    items = problem.items[index]
    rate_rps = problem.rate_rps * items
    sequence = batches_in_sequence(items, point.batch_size, stage.replicas)
    expected = {
        "rate_rps": rate_rps,
        "capacity_rps": point.capacity_rps,
        "latency_s": point.latency_s * sequence,
        "queue_delay_s": _wait_s(problem, index, point, rate_rps),
        "utilisation_ratio": utilisation_ratio(rate_rps, point.capacity_rps, stage.replicas),
        "accuracy": point.accuracy,
    }
    for name, value in expected.items():
        yield from _differs(f"{stage.stage}: {name}", getattr(stage, name), value)
    if stage.replicas * point.capacity_rps < rate_rps * (1 - AGREE):
        yield f"{stage.config} carries {stage.replicas * point.capacity_rps:g} of {rate_rps:g} items a second"
    least, most = max(1, problem.bounds.min_replicas), problem.max_replicas
    if stage.replicas < least or (most is not None and stage.replicas > most):
        yield f"{stage.config} has replicas outside {least}..{most}"


def _wait_s(problem: Problem, index: int, point: OperatingPoint, rate_rps: float) -> float:
    stage = problem.stages[index]
    if problem.compat is Compat.IPA_ARTIFACT:
        variants = len({p.variant for p in stage.points})
        return released_wait_s(variants, problem.batch_sizes, rate_rps)
    return formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s)


def _faults_of_sums(problem: Problem, plan: Plan, points: list[OperatingPoint]) -> Iterator[str]:
    objective, bounds = problem.objective, problem.bounds
    latency_s = chain_latency_s((stage.latency_s, stage.queue_delay_s) for stage in plan.stages)
    cores = sum(stage.replicas * point.cores for stage, point in zip(plan.stages, points, strict=True))
    pas = 1.0
    for point in points:
        pas *= point.accuracy
    terms = [
        variant_terms(stage, objective)[point.variant]
        for stage, point in zip(problem.stages, points, strict=True)
    ]
    worth = (
        objective.alpha * accuracy_of_chain(terms, objective.accuracy_rule)
        - objective.beta * cores
        - objective.delta * sum(point.batch_size for point in points)
    )
    yield from _differs("objective", plan.objective, worth)
    yield from _differs("pas", plan.pas, pas)
    yield from _differs("cost_cores", plan.cost_cores, cores)
    yield from _differs("latency_s", plan.latency_s, latency_s)
    yield from _differs("sla_s", plan.sla_s, problem.sla_s)
    if _exceeds(latency_s, problem.sla_s):
        yield f"latency {latency_s:g} s is above the SLA of {problem.sla_s:g} s"
    if bounds.cores is not None and _exceeds(cores, bounds.cores):
        yield f"{cores:g} cores are above the bound of {bounds.cores:g}"
    if bounds.accuracy_floor is not None and _exceeds(bounds.accuracy_floor, pas):
        yield f"PAS {pas:g} is below the floor of {bounds.accuracy_floor:g}"
    if plan.bound is not None and _exceeds(worth, plan.bound):
        yield f"objective {worth!r} is above the solver's own bound {plan.bound!r}"


def _differs(name: str, given: float | None, expected: float) -> Iterator[str]:
    if given is None or not isfinite(given) or not isclose(given, expected, rel_tol=AGREE, abs_tol=AGREE):
        yield f"{name} is {expected!r} by arithmetic, not {given!r}"


def _exceeds(value: float, limit: float) -> bool:
    return value > limit + AGREE * max(1.0, abs(limit))
