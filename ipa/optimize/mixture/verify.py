"""Verification of sets by plain arithmetic; it shares nothing with their solver."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ipa.model.plan import Termination, cores_of
from ipa.model.resources import CORES, Resources, in_words, total
from ipa.optimize.mixture.sets import SetPart, SetPlan, SetProblem
from ipa.optimize.verify import differs, exceeds, refuse


def verify_set(problem: SetProblem, plan: SetPlan) -> None:
    """Return if the plan is valid; SolverError lists every wrong number and broken limit."""
    has_set = plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = _faults_of_set(problem, plan) if has_set else _faults_of_none(problem, plan)
    refuse(f"the answer of {plan.solver} for task {problem.task!r}", faults)


def _faults_of_none(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    if plan.parts or plan.objective is not None:
        yield f"termination is {plan.termination.value}, yet there is a set or an objective"
    infeasible = plan.termination is Termination.INFEASIBLE
    if infeasible != (plan.missing_rps > 0 and not exceeds(plan.missing_rps, problem.rate_rps)):
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
    yield from differs("the sum of quotas", sum(part.quota_rps for part in plan.parts), problem.rate_rps)
    yield from _faults_of_shares(plan)
    yield from _faults_of_sums(problem, plan)


def _faults_of_part(problem: SetProblem, part: SetPart) -> Iterator[str]:
    variant = problem.variant(part.variant)
    if variant is None:
        yield f"there is no variant {part.variant!r}"
        return
    level = next((level for level in variant.levels if level.cores == part.cores), None)
    if level is None or part.cores < variant.min_cores:
        yield f"{part.variant}: {cores_of(part.cores)} is not allowed"
        return
    loading_s = 0.0 if variant.loaded else variant.readiness_s
    yield from differs(f"{part.variant}: capacity_rps", part.capacity_rps, level.capacity_rps)
    yield from differs(f"{part.variant}: accuracy", part.accuracy, variant.accuracy)
    yield from differs(f"{part.variant}: loading_s", part.loading_s, loading_s)
    if not part.quota_rps > 0 or exceeds(part.quota_rps, level.capacity_rps):
        yield f"{part.variant}: quota {part.quota_rps!r} rps is outside 0..{level.capacity_rps:g}"
    if part.share_percent is not None:
        share_rps = part.share_percent * problem.rate_rps / 100
        if part.share_percent < 0 or exceeds(share_rps, level.capacity_rps):
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
    yield from differs("share_accuracy", plan.share_accuracy, by_share)


def _faults_of_sums(problem: SetProblem, plan: SetPlan) -> Iterator[str]:
    weights = problem.weights
    mean = sum(part.quota_rps / problem.rate_rps * part.accuracy for part in plan.parts)
    cost_cores = sum(part.cores for part in plan.parts)
    loading_s = max(part.loading_s for part in plan.parts)
    on = (problem.variant(part.variant) for part in plan.parts)
    held = Resources(cpu_cores=cost_cores) + total(variant.beside for variant in on if variant is not None)
    cost = problem.prices.cost(held)
    worth = weights.alpha * mean - weights.beta * cost - weights.gamma * loading_s
    yield from differs("mean_accuracy", plan.mean_accuracy, mean)
    yield from differs("cost_cores", plan.cost_cores, cost_cores)
    yield from differs("loading_s", plan.loading_s, loading_s)
    yield from differs("objective", plan.objective, worth)
    if problem.prices.is_money:
        yield from differs("cost_usd_per_hour", plan.cost_usd_per_hour, cost)
    for name, most in {CORES: problem.budget_cores, **problem.limits}.items():
        if exceeds(held.amount(name), most):
            yield f"{in_words(name, held.amount(name))} are above the budget of {most:g}"
    bound = inf if plan.bound is None else plan.bound
    if exceeds(worth, bound):
        yield f"objective {worth!r} is above the solver's own bound {bound!r}"
    elif plan.termination is Termination.OPTIMAL and exceeds(bound, worth):
        yield f"the solver calls {worth!r} optimal, yet its bound is {bound!r}"
