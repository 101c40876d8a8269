"""Solves a planning problem for a verified plan."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.errors import Problem as Fault
from ipa.model.plan import Plan, Termination, in_words
from ipa.model.serving import unbatched_note
from ipa.optimize.backends.label_setting import best_at_least
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import reduce_program
from ipa.optimize.linear_program import Solvers
from ipa.optimize.plans import plan_of, verify
from ipa.optimize.prefilter import narrow_program
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.program import ProgramAnswer, evaluate
from ipa.optimize.registry import AUTO, EXACT, check_solver
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solver_selection import CONTRADICTION, PROVED, answer


def solve(
    problem: PlanningProblem,
    solver: str = AUTO,
    deadline_s: float = 5.0,
    *,
    explain: bool = True,
    solvers: Solvers | None = None,
) -> Plan:
    """The best plan for the problem, verified.

    Of plans with equal objectives it is the one with the fewest changes to the running configuration, then
    the lowest cost, then the lowest latency, then the first by names, whichever solver is used. `auto` takes
    Gurobi if the user's own licence covers the model, else label setting. If that does not end within half of
    the time, label setting, or HiGHS, has the other half; the note says which and why. An infeasible problem
    gives a plan that says so, with remedies unless `explain` is false. `solvers` gives MILP solvers by name,
    such as those in a child process that is killed at its limit: `auto` then continues with label setting.

    Errors: UsageError (no such solver), LicenceError (Gurobi was requested and refused), SolverError,
    DeadlineError (a requested solver had to be stopped).
    """
    check_solver(solver)
    deadline = Deadline(deadline_s)
    program = reduce_program(narrow_program(problem, deadline))
    used, solved, notes = answer(program, solver, deadline, solvers)
    solve_s = deadline.elapsed_s
    plan = plan_of(problem, program, used, solved)
    if plan.termination is Termination.INFEASIBLE and explain:
        moves = relaxations(problem, deadline)
        plan = replace(plan, relaxations=tuple(move.text for move in moves))
        if deadline.passed:
            notes.append("the time ran out before all was tried that could make it feasible")
        elif not moves:
            notes.append("no change of a single limit makes it feasible")
    if problem.compat is Compat.IPA_ARTIFACT and plan.stages:
        by_paper = describe(replace(problem, compat=Compat.PAPER), plan.configs)
        assert by_paper is not None, "the plan was described before"
        notes.append(
            "ipa-artifact: queue_delay_s is the released term, never above 0, and latency_s the sum that the "
            "released constraint holds below the SLA; with the wait as the paper charges it: "
            f"{by_paper.latency_s:.4g} s"
        )
    notes += [unbatched_note(stage.name, stage.unbatched) for stage in problem.stages if stage.unbatched]
    return replace(plan, solve_s=solve_s, note="; ".join(notes))


def proved_plan(problem: PlanningProblem, deadline: Deadline) -> Plan:
    """The best plan by label setting, or an infeasible one. DeadlineError if that is not known in time."""
    if deadline.passed:
        raise DeadlineError("the time ran out")
    plan = solve(problem, EXACT, deadline.remaining_s, explain=False)
    if plan.termination not in PROVED:
        raise DeadlineError("the time was too short to know the best plan")
    return plan


def verify_claim(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> None:
    """Check that the plan is valid, and that none is worth more than its bound; without a bound, the first.

    SolverError lists what is not so. DeadlineError: whether there is a better plan is not known in time.
    """
    verify(problem, plan)
    better, claim = None, "no plan is feasible"
    bound = plan.objective if plan.termination is Termination.OPTIMAL else plan.bound
    if plan.termination is Termination.INFEASIBLE:
        better = proved_plan(problem, deadline)
    elif bound is not None:
        claim, least = f"no plan is worth more than {bound:.6g}", bound + CONTRADICTION * max(1.0, abs(bound))
        # Most of what the bound excludes is dropped before its times are computed.
        program = reduce_program(narrow_program(problem, deadline, least))
        if all(len(stage) for stage in program.stages):
            chosen = best_at_least(program, least, deadline)
            if chosen and evaluate(program, chosen).objective >= least:
                better = plan_of(problem, program, EXACT, ProgramAnswer(Termination.FEASIBLE, chosen))
    if better is not None and better.stages:
        words = f"{in_words(better.configs)} meets all limits and is worth {better.objective:.6g}"
        raise SolverError("the bound is wrong", problems=[Fault(f"the claim is that {claim}, but {words}")])


# A solve that used at most this share of its time left nothing untried.
UNHURRIED = 0.5


class SolveCache:
    """Solves, and caches the newest `most` plans: equal problems have equal plans.

    Plans that are not cached come from `beyond`, such as the cache that several pipelines share, if given.
    """

    def __init__(self, most: int, beyond: SolveCache | None = None) -> None:
        self._beyond = beyond
        # Threads append and look through a copy.
        self._cached: deque[tuple[tuple[object, ...], PlanningProblem, Plan]] = deque(maxlen=most)

    def solve(
        self,
        problem: PlanningProblem,
        solver: str = AUTO,
        deadline_s: float = 5.0,
        *,
        explain: bool = True,
        solvers: Solvers | None = None,
    ) -> Plan:
        """The plan, as `ipa.optimize.solve.solve` makes it; `solve_s` is the time of the original solve."""
        # The key puts the problem last, since comparing it takes longest.
        key = (problem.rate_rps, problem.sla_s, problem.running, solver, explain)
        for cached_key, cached_problem, cached in tuple(self._cached):
            if cached_key == key and cached_problem == problem:
                is_own = cached.pipeline == problem.pipeline
                return cached if is_own else replace(cached, pipeline=problem.pipeline)
        solving = solve if self._beyond is None else self._beyond.solve
        plan = solving(problem, solver, deadline_s, explain=explain, solvers=solvers)
        if plan.termination in PROVED and plan.solve_s <= UNHURRIED * deadline_s:
            self._cached.append((key, problem, plan))
        return plan
