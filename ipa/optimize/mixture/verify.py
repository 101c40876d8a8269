"""Verification of mixtures and sets by plain arithmetic; it shares nothing with their solvers."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ipa.model.plan import Termination, cores_of
from ipa.model.resources import CORES, Resources, in_words, total
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits, most_together, part_problem
from ipa.optimize.mixture.sets import SetPart, SetPlan, SetProblem
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.verify import AGREE, differs, exceeds, refuse, verify


def verify_mixture(problem: PlanningProblem, limits: MixtureLimits, mixture: Mixture) -> None:
    """Return if the mixture is valid; SolverError lists its faults, or those of a part."""
    has_parts = mixture.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = list(_faults_of_parts(problem, limits, mixture)) if has_parts else []
    if not has_parts and (mixture.parts or mixture.objective is not None):
        faults.append(f"termination is {mixture.termination.value}, yet there are parts or an objective")
    refuse(f"the mixture for pipeline {problem.pipeline!r}", faults)


def _faults_of_parts(problem: PlanningProblem, limits: MixtureLimits, mixture: Mixture) -> Iterator[str]:
    shares = [part.share_percent for part in mixture.parts]
    if not 1 <= len(shares) <= limits.max_parts or sum(shares) != 100 or min(shares, default=0) < 1:
        yield f"the shares {shares} are not 1 to {limits.max_parts} whole percents that sum to 100"
        return
    if any(share % limits.step_percent for share in shares):
        yield f"the shares {shares} are not multiples of {limits.step_percent}"
    for part in mixture.parts:
        verify(part_problem(problem, part.share_percent), part.plan)
    plans = [part.plan for part in mixture.parts]
    objective = sum(plan.objective or 0.0 for plan in plans)
    cost_cores = sum(plan.cost_cores or 0.0 for plan in plans)
    mean_pas = sum(part.share_percent / 100 * (part.plan.pas or 0.0) for part in mixture.parts)
    yield from differs("objective", mixture.objective, objective)
    yield from differs("cost_cores", mixture.cost_cores, cost_cores)
    yield from differs("mean_pas", mixture.mean_pas, mean_pas)
    held = total(problem.resources(plan.configs) for plan in plans)
    for name, most in most_together(problem).items():
        if exceeds(held.amount(name), most):
            yield f"{in_words(name, held.amount(name))} are above the bound of {most:g}"
    single = mixture.single.objective
    if single is None:
        if mixture.gain is not None:
            yield f"gain is {mixture.gain!r}, yet no single plan is feasible"
        return
    yield from differs("gain", mixture.gain, objective - single)
    if len(plans) > 1 and not objective - single > limits.min_gain * (1 - AGREE):
        yield f"the mixture gains {objective - single!r}, not more than {limits.min_gain!r}"


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
