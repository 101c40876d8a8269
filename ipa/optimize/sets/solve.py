"""Solve a set problem: solve, split the load, name the binding limits, verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ipa.model.errors import SolverError, UsageError
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.program import tolerance
from ipa.optimize.registry import AUTO, EXACT, SOLVERS
from ipa.optimize.sets.exact import SetAnswer, best_set
from ipa.optimize.sets.fill import ROUNDING, fill, in_whole_percents, whole_shares
from ipa.optimize.sets.milp import build_set_milp, chosen_cores
from ipa.optimize.sets.plan import SetPart, SetPlan
from ipa.optimize.sets.problem import SetProblem, SetVariant
from ipa.optimize.sets.tables import Capacity, variant_arrays
from ipa.optimize.sets.verify import verify_set
from ipa.optimize.solver_selection import in_process

SET_SOLVERS = (EXACT, "gurobi", "highs")

# Two proofs of the best objective that differ by more than this (relative above 1) contradict each other.
CONTRADICTION = 1e-6
_NO_SHARES = "no shares in whole percents fit these capacities; ask for the best set in whole percents"


def solve_set(
    problem: SetProblem, solver: str = EXACT, deadline_s: float = 5.0, *, whole_percents: bool = False
) -> SetPlan:
    """The best set for the problem, checked by `verify_set`.

    With `whole_percents` it is the best of the sets whose shares are whole percents, as Seldon's predictors
    require: each share times the rate is within its variant's capacity. Without, quotas are any numbers
    (InfAdapter); the plan then has the best whole percents for its cores if there are any, and otherwise a
    note.

    Errors: UsageError (no such solver), LicenceError (Gurobi refused), PluginError, SolverError (an invalid
    answer).
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
        words = f"budget: {problem.budget_cores:g} cores leave {missing_rps:g} rps unserved"
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


def missing_part(problem: SetProblem) -> float:
    """The part of the rate that no set within the budget carries."""
    most = Capacity(variant_arrays(problem), problem.budget_cores).total
    return max(0.0, 1.0 - most)


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
    cost = sum(part.cores for part in parts)
    loading_s = max(part.loading_s for part in parts)
    weights = problem.weights
    objective = weights.alpha * mean - weights.beta * cost - weights.gamma * loading_s
    bound = objective if plan.bound is None else max(plan.bound, objective)
    if plan.termination is Termination.OPTIMAL and bound - objective <= CONTRADICTION * max(
        1.0, abs(objective)
    ):
        bound = objective
    return replace(
        plan,
        parts=parts,
        mean_accuracy=mean,
        share_accuracy=by_share,
        cost_cores=cost,
        loading_s=loading_s,
        objective=objective,
        bound=bound,
        gap=(bound - objective) / max(1.0, abs(objective)),
        binding=tuple(_binding_limits(problem, parts)),
        note="" if shares else _NO_SHARES,
    )


def _capacity(variant: SetVariant | None, cores: float) -> float:
    levels = variant.usable if variant else ()
    for level in levels:
        if level.cores == cores:
            return level.capacity_rps
    raise SolverError(f"{cores:g} cores is no level of variant {variant.name if variant else '?'!r}")


def _binding_limits(problem: SetProblem, parts: Sequence[SetPart]) -> Iterator[str]:
    """A sentence for each exhausted limit: the budget, capacities, least cores.

    The budget is exhausted if its rest is too small for any further level of any variant.
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
    for part in parts:
        variant = problem.variant(part.variant)
        if part.quota_rps >= part.capacity_rps * (1 - ROUNDING):
            yield f"capacity of {part.variant}: {part.capacity_rps:g} rps on {part.cores:g} cores, all used"
        fewer = [
            level.cores
            for level in (variant.levels if variant else ())
            if level.cores < part.cores and level.capacity_rps >= part.quota_rps
        ]
        if variant and fewer and min(fewer) < variant.min_cores:
            yield f"min_cores of {part.variant}: {variant.min_cores:g}, {min(fewer):g} would carry its load"
