"""The parts of the search do their work: they change no answer, so only their own results tell."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from ipa.model.plan import Termination
from ipa.optimize import solver_selection
from ipa.optimize.backends import label_setting
from ipa.optimize.backends.label_setting import LabelSearch
from ipa.optimize.bounding import LagrangeBounds
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Compat
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, evaluate
from tests.fakes.planner_instances import build_program, random_problem


def programs(count: int, compat: Compat = Compat.PAPER) -> list[Program]:
    """Programs of chains of four or five stages that have a plan."""
    found: list[Program] = []
    seed = 0
    while len(found) < count:
        problem = random_problem(Random(seed), (4, 5), (5, 6))
        ratio = 4.0 if compat is Compat.TAIL else 1.0
        program = build_program(replace(problem, compat=compat, sla_s=ratio * problem.sla_s))
        if all(map(len, program.stages)) and label_setting.solve(program, Deadline(30.0)).chosen:
            found.append(program)
        seed += 1
    return found


def test_a_pass_that_keeps_few_labels_keeps_those_of_the_best_plan() -> None:
    same = 0
    for program in programs(12):
        best = evaluate(program, label_setting.solve(program, Deadline(30.0)).chosen).objective
        found, _ = LabelSearch(program, Deadline(30.0)).run(-np.inf, 4)
        same += bool(found) and evaluate(program, found).objective >= best - EQUAL * max(1.0, abs(best))
    assert same >= 9


def test_the_search_keeps_no_plan_that_another_undercuts() -> None:
    for program in programs(3):
        plans, _ = LabelSearch(program, Deadline(30.0)).undominated()
        totals = [evaluate(program, plan) for plan in plans.tolist()]
        # Value and accuracy are criteria of their own: the latter may still be multiplied.
        rows = np.array(
            [
                [program.alpha * t.term - t.objective, t.cost_cores, t.latency_s, -t.pas, -t.term]
                for t in totals
            ]
        )
        assert len(rows) > 1
        for row in rows:
            below = (rows <= row - 1e-6).all(axis=1)
            assert not below.any()


def test_a_bound_of_an_option_holds_all_plans_with_it_and_is_no_looser_than_that_of_all() -> None:
    for program in programs(6):
        answer = label_setting.solve(program, Deadline(30.0))
        best = evaluate(program, answer.chosen).objective
        bounds = LagrangeBounds(program)
        if not bounds.is_product:
            continue
        root = LabelSearch(program, Deadline(30.0), bounds.prices).root_bound
        spread = max(
            1.0, root - min(float(bounds.option_bounds(at).min()) for at in range(len(program.stages)))
        )
        for at, chosen in enumerate(answer.chosen):
            each = bounds.option_bounds(at)
            assert each[chosen] >= best - EQUAL * max(1.0, abs(best))
            # Tables on another grid, in another order of the stages: about the same bound.
            assert each.max() <= root + 0.02 * spread


def test_the_first_solver_of_auto_has_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def slow(program: Program, deadline: Deadline, *_: object) -> ProgramAnswer:
        given.append(deadline.remaining_s)
        return ProgramAnswer(Termination.NO_SOLUTION_FOUND)

    monkeypatch.setattr(label_setting, "solve", slow)
    monkeypatch.setattr(solver_selection, "_milp", lambda name, solvers: slow)
    monkeypatch.setattr(solver_selection, "own_licence", lambda: "")
    program = programs_of_tail()
    solver_selection.answer(program, solver_selection.AUTO, Deadline(1000.0))
    first, second = given
    assert 450 < first <= 500 < second <= 1000


def programs_of_tail() -> Program:
    """A program whose times vary."""
    problem = random_problem(Random(3), (2, 2), (3, 3))
    program = build_program(replace(problem, compat=Compat.TAIL, sla_s=10 * problem.sla_s))
    assert program.has_spread
    return program
