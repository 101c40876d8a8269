"""Solves a planning problem for a verified plan."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from ipa.model.errors import DeadlineError
from ipa.model.plan import Plan, Termination
from ipa.model.serving import unbatched_note
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import reduce_program
from ipa.optimize.linear_program import Solvers
from ipa.optimize.plans import plan_of
from ipa.optimize.prefilter import narrow_program
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.registry import AUTO, EXACT, check_solver
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solver_selection import PROVED, answer


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
