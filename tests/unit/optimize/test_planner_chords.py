"""Branch and bound over chords: when a part of the plans is still searched, and when the search ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import sqrt
from random import Random

import pytest

from ipa.model.pipeline import AccuracyRule
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp, MilpSolution, by_milp
from ipa.optimize.problem import Compat
from ipa.optimize.program import EQUAL, Options, Program, evaluate
from tests.fakes.planner_instances import build_program, random_problem

Chosen = tuple[int, ...]


def latency_s(program: Program, chosen: Chosen) -> float:
    mean_s = sum(float(stage.mean_s[option]) for stage, option in zip(program.stages, chosen, strict=True))
    return mean_s + sqrt(sum(map(spread_s2, program.stages, chosen)))


def spread_s2(stage: Options, option: int) -> float:
    return float(stage.spread_s2[option])


@pytest.fixture(scope="module", params=[100.0, 0.5])
def program(request: pytest.FixtureRequest) -> Program:
    """A chain of two stages whose waiting varies, with plans in time and late ones, worth at most alpha."""
    problem = random_problem(Random(25), (2, 2), (2, 3), 2)
    objective = replace(problem.objective, alpha=request.param, beta=0.0, accuracy_rule=AccuracyRule.PRODUCT)
    return build_program(replace(problem, objective=objective, compat=Compat.TAIL))


def extremes(program: Program) -> tuple[Chosen, Chosen]:
    """The latest plan of the program, and the best one in time."""
    every = list(product(*(range(len(stage)) for stage in program.stages)))
    in_time = [chosen for chosen in every if latency_s(program, chosen) <= program.sla_s]
    late = [chosen for chosen in every if chosen not in in_time]
    return (
        min(late, key=lambda chosen: latency_s(program, chosen)),
        max(in_time, key=lambda chosen: evaluate(program, chosen).objective),
    )


def values(program: Program, chosen: Chosen) -> tuple[float, ...]:
    """The columns of a MILP that chooses these options."""
    return tuple(
        float(at == option)
        for stage, option in zip(program.stages, chosen, strict=True)
        for at in range(len(stage))
    )


def scripted(answers: Iterator[MilpSolution], programs: list[Milp], milp: Milp) -> MilpSolution:
    programs.append(milp)
    return next(answers)


def searched(program: Program, above: float) -> int:
    """The number of linear programs solved if their bound is `above` the best plan, relative above 1.

    The first answer is late and cuts its range in two; the second is the best plan in time. Only the bound
    says whether the other half is searched.
    """
    late, best = extremes(program)
    reached = evaluate(program, best).objective
    programs: list[Milp] = []
    answers = iter(
        [
            MilpSolution(
                Termination.OPTIMAL, values(program, late), reached + above * max(1.0, abs(reached))
            ),
            MilpSolution(Termination.OPTIMAL, values(program, best)),
            MilpSolution(Termination.INFEASIBLE),
        ]
    )
    answer = by_milp(lambda milp, _: scripted(answers, programs, milp), program, Deadline(60.0))
    assert (answer.termination, answer.chosen, answer.bound) == (Termination.OPTIMAL, best, reached)
    return len(programs)


def test_the_part_of_the_highest_bound_says_if_the_search_ends(program: Program) -> None:
    """Of the parts that are left one may hold a better plan, and the last in the heap may not."""
    *_, best = extremes(program)
    every = product(*(range(len(stage)) for stage in program.stages))
    late = [chosen for chosen in every if latency_s(program, chosen) > program.sla_s]
    late.sort(key=lambda chosen: sum(map(spread_s2, program.stages, chosen)))
    reached = evaluate(program, best).objective
    programs: list[Milp] = []
    answers = iter(
        [
            MilpSolution(Termination.OPTIMAL, values(program, late[len(late) // 2]), reached + 3.0),
            MilpSolution(Termination.OPTIMAL, values(program, late[1]), reached + 2.0),
            MilpSolution(Termination.OPTIMAL, values(program, late[-2]), reached),
            MilpSolution(Termination.OPTIMAL, values(program, best)),
            MilpSolution(Termination.INFEASIBLE),
        ]
    )
    answer = by_milp(lambda milp, _: scripted(answers, programs, milp), program, Deadline(60.0))
    assert (answer.termination, answer.chosen) == (Termination.OPTIMAL, best)
    assert len(programs) == 5


@pytest.mark.parametrize(("above", "programs"), [(0.0, 2), (0.6 * EQUAL, 2), (1.6 * EQUAL, 3), (0.1, 3)])
def test_a_part_is_searched_only_if_it_may_hold_a_better_plan(
    program: Program, above: float, programs: int
) -> None:
    assert searched(program, above) == programs
