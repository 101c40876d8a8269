"""Solve a set problem: solve, split the load, name the binding limits, verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

from ipa.model.errors import SolverError, UsageError
from ipa.model.plan import Termination, cores_of
from ipa.model.resources import in_words
from ipa.optimize.deadline import Deadline
from ipa.optimize.milp import Milp
from ipa.optimize.mixture.set_search import SetAnswer, best_set, missing_part, variant_arrays
from ipa.optimize.mixture.sets import (
    ROUNDING,
    SetPart,
    SetPlan,
    SetProblem,
    SetVariant,
    fill,
    in_whole_percents,
    whole_shares,
)
from ipa.optimize.mixture.verify import verify_set
from ipa.optimize.plans import bound_and_gap
from ipa.optimize.program import tolerance
from ipa.optimize.registry import AUTO, EXACT, SOLVERS
from ipa.optimize.solver_selection import in_process

SET_SOLVERS = (EXACT, "gurobi", "highs")

_NO_SHARES = "no shares in whole percents fit these capacities; ask for the best set in whole percents"


def solve_set(
    problem: SetProblem, solver: str = EXACT, deadline_s: float = 5.0, *, whole_percents: bool = False
) -> SetPlan:
    """The best set for the problem, checked by `verify_set`.

    With `whole_percents` it is the best of the sets whose shares are whole percents, as predictors require:
    each share times the rate is within its variant's capacity. Without, quotas are any numbers (InfAdapter);
    the plan then has the best whole percents for its cores if there are any, and otherwise a note.

    Errors: UsageError (no such solver), LicenceError (Gurobi refused), PluginError, SolverError (an
    invalid answer).
    """
    if solver == AUTO or not SOLVERS.is_known(solver):
        names = [name for name in SOLVERS if name != AUTO]
        raise UsageError(f"there is no solver {solver!r} for sets", hint=f"Use one of: {', '.join(names)}")
    deadline = Deadline(deadline_s)
    asked = in_whole_percents(problem) if whole_percents else problem
    if solver == EXACT:
        answer = best_set(asked, deadline)
        termination = _termination(answer)
    else:
        termination, answer = _by_milp(asked, solver, deadline)
    plan = SetPlan(problem.task, problem.rate_rps, termination, solver, bound=answer.bound)
    if answer.cores:
        plan = _filled(problem, asked, plan, answer.cores)
    elif termination is Termination.INFEASIBLE:
        missing_rps = answer.missing * problem.rate_rps
        words = f"budget: {problem.budget_in_words} leave {missing_rps:g} rps unserved"
        plan = replace(plan, missing_rps=missing_rps, binding=(words,))
    plan = replace(plan, solve_s=deadline.elapsed_s)
    verify_set(problem, plan)
    return plan


def _termination(answer: SetAnswer) -> Termination:
    if answer.missing > 0:
        return Termination.INFEASIBLE
    if answer.proved:
        return Termination.OPTIMAL
    return Termination.FEASIBLE if answer.cores else Termination.NO_SOLUTION_FOUND


def _by_milp(problem: SetProblem, solver: str, deadline: Deadline) -> tuple[Termination, SetAnswer]:
    """The MILP solver's answer; a problem without a usable level is infeasible without asking it."""
    if not variant_arrays(problem):
        return Termination.INFEASIBLE, SetAnswer(missing=1.0)
    solution = in_process(solver)(build_set_milp(problem), deadline)
    if solution.termination is Termination.INFEASIBLE:
        return solution.termination, SetAnswer(missing=missing_part(problem))
    proved = solution.termination is Termination.OPTIMAL
    cores = chosen_cores(problem, solution.values) if solution.values else {}
    return solution.termination, SetAnswer(cores, proved, solution.bound)


def _filled(problem: SetProblem, asked: SetProblem, plan: SetPlan, cores: Mapping[str, float]) -> SetPlan:
    """The plan with its parts. `asked` has the capacities by which the quotas are filled."""
    on = [variant for variant in problem.by_accuracy if variant.name in cores]
    real = [_capacity(variant, cores[variant.name]) for variant in on]
    rounded = [_capacity(asked.variant(variant.name), cores[variant.name]) for variant in on]
    quotas = fill(problem.rate_rps, rounded)
    # A variant without load only costs: solvers leave one on if that is free.
    used = [at for at, quota in enumerate(quotas) if quota > ROUNDING * problem.rate_rps]
    on, real, quotas = [on[at] for at in used], [real[at] for at in used], tuple(quotas[at] for at in used)
    shares = whole_shares(problem.rate_rps, real)
    parts = tuple(
        SetPart(v.name, v.accuracy, cores[v.name], capacity, quota, share, v.loading_s)
        for v, capacity, quota, share in zip(on, real, quotas, shares or [None] * len(on), strict=True)
    )
    mean = sum(part.accuracy * part.quota_rps for part in parts) / problem.rate_rps
    by_share = sum(v.accuracy * share for v, share in zip(on, shares, strict=True)) / 100 if shares else None
    cost = sum(problem.cost(variant, part.cores) for variant, part in zip(on, parts, strict=True))
    loading_s = max(part.loading_s for part in parts)
    weights = problem.weights
    objective = weights.alpha * mean - weights.beta * cost - weights.gamma * loading_s
    known = objective if plan.bound is None else plan.bound
    bound, gap = bound_and_gap(known, objective, plan.termination)
    return replace(
        plan,
        parts=parts,
        mean_accuracy=mean,
        share_accuracy=by_share,
        cost_cores=sum(part.cores for part in parts),
        cost_usd_per_hour=cost if problem.prices.is_money else None,
        loading_s=loading_s,
        objective=objective,
        bound=bound,
        gap=gap,
        binding=tuple(_binding_limits(problem, parts)),
        note="" if shares else _NO_SHARES,
    )


def _capacity(variant: SetVariant | None, cores: float) -> float:
    levels = variant.usable if variant else ()
    for level in levels:
        if level.cores == cores:
            return level.capacity_rps
    raise SolverError(f"{cores_of(cores)} is no level of variant {variant.name if variant else '?'!r}")


def _binding_limits(problem: SetProblem, parts: Sequence[SetPart]) -> Iterator[str]:
    """A sentence for each exhausted limit: the budget, other resources, capacities, least cores.

    The budget is exhausted if its rest is too small for any further level of any variant, another resource if
    its rest is too small for any variant that is off and needs some.
    """
    used = {part.variant: part.cores for part in parts}
    cost_cores = sum(used.values())
    steps = [
        level.cores - used.get(variant.name, 0.0)
        for variant in problem.variants
        for level in variant.usable
        if level.cores > used.get(variant.name, 0.0)
    ]
    spare_cores = problem.budget_cores - cost_cores
    if steps and min(steps) > spare_cores + tolerance(problem.budget_cores):
        yield f"budget: {cost_cores:g} of {problem.budget_cores:g} cores used, no variant's next level fits"
    for name, most in problem.limits.items():
        held = sum(variant.beside.amount(name) for variant in problem.variants if variant.name in used)
        off = [variant.beside.amount(name) for variant in problem.variants if variant.name not in used]
        needs = [amount for amount in off if amount > 0]
        if needs and min(needs) > most - held + tolerance(most):
            yield f"{in_words(name, held)} of {most:g} used, no other variant that needs some fits"
    for part in parts:
        variant = problem.variant(part.variant)
        if part.quota_rps >= part.capacity_rps * (1 - ROUNDING):
            yield f"capacity of {part.variant}: {part.capacity_rps:g} rps on {cores_of(part.cores)}, all used"
        fewer = [
            level.cores
            for level in (variant.levels if variant else ())
            if level.cores < part.cores and level.capacity_rps >= part.quota_rps
        ]
        if variant and fewer and min(fewer) < variant.min_cores:
            yield f"min_cores of {part.variant}: {variant.min_cores:g}, {min(fewer):g} would carry its load"


def build_set_milp(problem: SetProblem) -> Milp:
    """The linear program; columns are the z of each variant by falling accuracy, their y, then t."""
    variants, weights = variant_arrays(problem), problem.weights
    levels = [(variant, at) for variant in variants for at in range(len(variant.cores))]
    longest_s = max((variant.loading_s for variant in variants), default=0.0) or 1.0
    milp = Milp(
        binaries=len(levels),
        costs=[-problem.per_core * float(variant.cores[at]) - variant.price for variant, at in levels]
        + [weights.alpha * variant.accuracy for variant in variants]
        + [-weights.gamma * longest_s],
        uppers=[1.0] * (len(levels) + len(variants) + 1),
    )
    first = 0
    for index, variant in enumerate(variants):
        mine = range(first, first + len(variant.cores))
        first, part, loading = mine.stop, len(levels) + index, len(levels) + len(variants)
        milp.add_row([(column, 1.0) for column in mine], -inf, 1.0)
        carried = [
            (column, -min(1.0, float(carries))) for column, carries in zip(mine, variant.carries, strict=True)
        ]
        milp.add_row([(part, 1.0), *carried], -inf, 0.0)
        if variant.loading_s > 0 and weights.gamma > 0:
            share = variant.loading_s / longest_s
            milp.add_row([(loading, -1.0), *((column, share) for column in mine)], -inf, 0.0)
    milp.add_row([(len(levels) + index, 1.0) for index in range(len(variants))], 1.0, 1.0)
    budget = problem.budget_cores
    milp.add_row([(at, float(v.cores[c]) / budget) for at, (v, c) in enumerate(levels)], -inf, 1.0)
    for number, most in enumerate(problem.limits.values()):
        milp.add_row([(at, float(v.held[number])) for at, (v, _) in enumerate(levels)], -inf, most)
    return milp


def chosen_cores(problem: SetProblem, values: Sequence[float]) -> dict[str, float]:
    """The cores of each variant that is on in a solution of the program; off if z is nearer 0 than 1."""
    chosen: dict[str, float] = {}
    first = 0
    for variant in variant_arrays(problem):
        for at, cores in enumerate(variant.cores):
            if values[first + at] > 0.5:
                chosen[variant.name] = float(cores)
        first += len(variant.cores)
    return chosen
