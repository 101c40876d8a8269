"""A cache of recent plans: an equal problem is not solved again."""

from __future__ import annotations

from collections import deque

from ipa.model.plan import Plan, Termination
from ipa.optimize.chord_branching import Solvers
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import AUTO, solve

# A problem has one best plan, or none, whatever the time; other results improve with more time.
COMPLETE = (Termination.OPTIMAL, Termination.INFEASIBLE)
# A solve that used at most this share of its time left nothing untried.
UNHURRIED = 0.5


class SolveCache:
    """Solves, and caches the newest `most` plans: equal problems have equal plans."""

    def __init__(self, most: int) -> None:
        # Threads append and look through a copy.
        self._kept: deque[tuple[tuple[object, ...], PlanningProblem, Plan]] = deque(maxlen=most)

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
        # The problem itself is compared last: it is long.
        key = (problem.rate_rps, problem.sla_s, problem.running, solver, explain)
        for kept_key, kept_problem, kept in tuple(self._kept):
            if kept_key == key and kept_problem == problem:
                return kept
        plan = solve(problem, solver, deadline_s, explain=explain, solvers=solvers)
        if plan.termination in COMPLETE and plan.solve_s <= UNHURRIED * deadline_s:
            self._kept.append((key, problem, plan))
        return plan
