"""The contract of a MILP solver: the same objective as our exact search, honest ends, and in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isclose

import numpy as np

from ipa.model.pipeline import Bounds, Objective, Sla
from ipa.model.plan import Plan, Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import build_milp, whole_ranges
from ipa.optimize.milp import Milp
from ipa.optimize.options import full_program
from ipa.optimize.plugin_solver import solution_faults
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.registry import EXACT, SOLVERS
from ipa.optimize.solve import solve
from ipa.optimize.solver_selection import in_process
from ipa.policies.planning import planning_problem
from ipa.testing.examples import PIPELINE, PROFILES

# Objectives that differ by less (relative above 1) are equal.
SAME = 1e-6


class SolverContract:
    """The contract that the planner relies on. Set `solver` to a solver's name or to module:attribute."""

    solver: str
    # Seconds for each problem; they have two stages and some dozens of options.
    deadline_s = 30.0
    problems_count = 25

    def problems(self) -> Iterator[PlanningProblem]:
        """Random problems: rates, SLAs, weights, budgets and latency formulas, some of them infeasible."""
        generator = np.random.default_rng(0)
        for number in range(self.problems_count):
            pipeline = replace(
                PIPELINE,
                sla=Sla(float(generator.uniform(0.05, 1.0))),
                objectives={"default": Objective(beta=float(generator.uniform(0, 0.1)))},
                bounds=Bounds(cores=int(generator.integers(2, 16)), max_replicas=8, batch_sizes=(1, 2, 4, 8)),
            )
            rate_rps = float(generator.uniform(0.5, 60))
            compat = Compat.PAPER if number % 2 else Compat.TAIL
            yield planning_problem(pipeline, PROFILES, rate_rps, compat=compat)

    def milps(self) -> Iterator[Milp]:
        """The linear programs of the problems."""
        for problem in self.problems():
            program = full_program(problem)
            if all(len(stage) for stage in program.stages):
                yield build_milp(program, whole_ranges(program))

    def plan(self, problem: PlanningProblem) -> Plan:
        """The solver's plan, checked by the planner."""
        return solve(problem, SOLVERS.admit(self.solver), self.deadline_s)

    def test_it_finds_what_the_exact_search_finds(self) -> None:
        """Each plan is optimal with the same objective, or infeasible as the exact search says too."""
        ends = set()
        for problem in self.problems():
            found, known = self.plan(problem), solve(problem, EXACT, self.deadline_s)
            assert found.termination is known.termination
            ends.add(found.termination)
            if known.objective is not None and found.objective is not None:
                assert isclose(found.objective, known.objective, rel_tol=SAME, abs_tol=SAME)
        assert ends == {Termination.OPTIMAL, Termination.INFEASIBLE}

    def test_its_solutions_keep_every_row(self) -> None:
        """A solution has a number for each column, 0 or 1 where it must, and breaks no row."""
        maximise = in_process(SOLVERS.admit(self.solver))
        for milp in self.milps():
            solution = maximise(milp, Deadline(self.deadline_s))
            assert list(solution_faults(milp, solution)) == []
            if solution.termination is Termination.OPTIMAL and solution.bound is not None:
                reached = float(np.dot(milp.costs, solution.values))
                assert solution.bound >= reached - SAME * max(1.0, abs(reached))

    def test_equal_programs_give_equal_plans(self) -> None:
        """The same problem solved again gives the same plan but for the time it took."""
        for problem in list(self.problems())[:5]:
            first, again = (replace(self.plan(problem), solve_s=0.0) for _ in range(2))
            assert first == again

    def test_it_says_when_the_time_was_too_short(self) -> None:
        """Without any time it ends at once, and does not call a program infeasible that is not."""
        maximise = in_process(SOLVERS.admit(self.solver))
        for milp in self.milps():
            known = maximise(milp, Deadline(self.deadline_s))
            late = maximise(milp, Deadline(1e-9))
            assert list(solution_faults(milp, late)) == []
            if known.termination is Termination.OPTIMAL:
                assert late.termination is not Termination.INFEASIBLE
