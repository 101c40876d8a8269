"""A solver in a process of its own: its errors, its start, and what `auto` does without it."""

from __future__ import annotations

import sys
from random import Random

import pytest

from ipa.adapters.solvers.supervised import Supervised, command_of
from ipa.model.errors import LicenceError, SolverError
from ipa.model.plan import Termination
from ipa.optimize import solver_selection
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import build_milp, whole_ranges
from ipa.optimize.program import Program
from ipa.optimize.solve import solve
from tests.fakes.planner_instances import build_program, random_problem

# Says that it is ready, as the real one does, then never answers.
DEAF = (
    "import pickle, struct, sys, signal; body = pickle.dumps('ready');"
    "sys.stdout.buffer.write(struct.pack('<Q', len(body)) + body); sys.stdout.buffer.flush(); signal.pause()"
)


def deaf(_name: str) -> list[str]:
    return [sys.executable, "-c", DEAF]


def test_its_errors_come_through() -> None:
    from tests.unit.optimize.test_planner_solvers import large_problem, linear

    apart = Supervised("gurobi")
    try:
        apart(linear(build_program(large_problem())), Deadline(60.0))
    except LicenceError as error:
        assert "2400 variables" in str(error)
    else:
        pytest.skip("this machine's Gurobi licence covers large models")
    finally:
        apart.close()


@pytest.fixture
def program_of_four() -> Program:
    return build_program(random_problem(Random(4), stages=(3, 3), variants=(4, 4)))


def test_one_that_cannot_start_is_said(program_of_four: Program) -> None:
    milp = build_milp(program_of_four, whole_ranges(program_of_four))
    with pytest.raises(SolverError, match="did not start"):
        Supervised("highs", lambda _: [sys.executable, "-c", "pass"])(milp, Deadline(5.0))


def test_auto_goes_on_with_label_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_selection, "own_licence", lambda: "own.lic")
    problem = random_problem(Random(4), stages=(3, 3), variants=(4, 4))
    plan = solve(
        problem, deadline_s=1.0, explain=False, solvers=lambda name: Supervised(name, deaf, grace_s=0.05)
    )
    assert (plan.solver, plan.termination) == ("exact", Termination.OPTIMAL)
    assert "gurobi exceeded its limit" in plan.note


def test_a_supervised_plan_is_the_plan() -> None:
    problem = random_problem(Random(4), stages=(3, 3), variants=(4, 4))
    apart = Supervised("highs")
    try:
        plan = solve(problem, "highs", solvers=lambda _: apart)
        assert plan.configs == solve(problem, "exact").configs
    finally:
        apart.close()
    assert command_of("highs")[-1] == "highs"
