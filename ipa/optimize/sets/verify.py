"""Verification of sets by plain arithmetic; it shares nothing with the solvers."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose, isfinite

from ipa.model.errors import Problem as Fault
from ipa.model.errors import SolverError
from ipa.model.plan import Termination
from ipa.optimize.sets.plan import SetPart, SetPlan
from ipa.optimize.sets.problem import SetProblem

# Relative above 1: sums of a dozen floats agree to far less.
AGREE = 1e-7


def verify_set(problem: SetProblem, plan: SetPlan) -> None:
    """Return if the plan is valid; SolverError lists every wrong number and broken limit."""
    has_set = plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = list(_faults_of_set(problem, plan) if has_set else _faults_of_none(problem, plan))
    if faults:
        raise SolverError(
            f"the answer of {plan.solver} for task {problem.task!r} does not hold",
            problems=[Fault(fault) for fault in faults],
        )


def _faults_of_none(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    if plan.parts or plan.objective is not None:
        yield f"termination is {plan.termination.value}, yet there is a set or an objective"
    infeasible = plan.termination is Termination.INFEASIBLE
    if infeasible != (0 < plan.missing_rps <= problem.rate_rps * (1 + AGREE)):
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
    yield from _differs("the sum of quotas", sum(part.quota_rps for part in plan.parts), problem.rate_rps)
    yield from _faults_of_shares(plan)
    yield from _faults_of_sums(problem, plan)


def _faults_of_part(problem: SetProblem, part: SetPart) -> Iterator[str]:
    variant = problem.variant(part.variant)
    if variant is None:
        yield f"there is no variant {part.variant!r}"
        return
    level = next((level for level in variant.levels if level.cores == part.cores), None)
    if level is None or part.cores < variant.min_cores:
        yield f"{part.variant}: {part.cores:g} cores is not allowed"
        return
    loading_s = 0.0 if variant.loaded else variant.readiness_s
    yield from _differs(f"{part.variant}: capacity_rps", part.capacity_rps, level.capacity_rps)
    yield from _differs(f"{part.variant}: accuracy", part.accuracy, variant.accuracy)
    yield from _differs(f"{part.variant}: loading_s", part.loading_s, loading_s)
    if not part.quota_rps > 0 or _exceeds(part.quota_rps, level.capacity_rps):
        yield f"{part.variant}: quota {part.quota_rps!r} rps is outside 0..{level.capacity_rps:g}"
    if part.share_percent is not None:
        share_rps = part.share_percent * problem.rate_rps / 100
        if part.share_percent < 0 or _exceeds(share_rps, level.capacity_rps):
            yield f"{part.variant}: {part.share_percent} % is {share_rps:g} rps of {level.capacity_rps:g}"


def _faults_of_shares(plan: SetPlan) -> Iterator[str]:
    shares = [part.share_percent for part in plan.parts]
    given = [share for share in shares if share is not None]
    if not given:
        if plan.share_accuracy is not None:
            yield "share_accuracy is given without shares"
        return
    if len(given) < len(shares) or any(not isinstance(share, int) for share in given) or sum(given) != 100:
        yield f"the shares {shares} are not whole percents that sum to 100"
        return
    by_share = sum(part.accuracy * (part.share_percent or 0) / 100 for part in plan.parts)
    yield from _differs("share_accuracy", plan.share_accuracy, by_share)


def _faults_of_sums(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    weights = problem.weights
    mean = sum(part.quota_rps / problem.rate_rps * part.accuracy for part in plan.parts)
    cost_cores = sum(part.cores for part in plan.parts)
    loading_s = max(part.loading_s for part in plan.parts)
    worth = weights.alpha * mean - weights.beta * cost_cores - weights.gamma * loading_s
    yield from _differs("mean_accuracy", plan.mean_accuracy, mean)
    yield from _differs("cost_cores", plan.cost_cores, cost_cores)
    yield from _differs("loading_s", plan.loading_s, loading_s)
    yield from _differs("objective", plan.objective, worth)
    if _exceeds(cost_cores, problem.budget_cores):
        yield f"{cost_cores:g} cores are above the budget of {problem.budget_cores:g}"
    if plan.bound is None or _exceeds(worth, plan.bound):
        yield f"objective {worth!r} is above the solver's own bound {plan.bound!r}"
    elif plan.termination is Termination.OPTIMAL and _exceeds(plan.bound, worth):
        yield f"the solver calls {worth!r} optimal, yet its bound is {plan.bound!r}"


def _differs(name: str, given: float | None, expected: float) -> Iterator[str]:
    if given is None or not isfinite(given) or not isclose(given, expected, rel_tol=AGREE, abs_tol=AGREE):
        yield f"{name} is {expected!r} by arithmetic, not {given!r}"


def _exceeds(value: float, limit: float) -> bool:
    return value > limit + AGREE * max(1.0, abs(limit))
