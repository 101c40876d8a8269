"""The plan is the first of all plans, equally good ones in the fixed order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from math import prod
from random import Random

import pytest

from ipa.optimize.options import full_program
from ipa.optimize.plans import configs_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import fits, random_problem

MOST_PLANS = 20_000


def small(make: Callable[[Random], PlanningProblem], count: int) -> list[PlanningProblem]:
    """Random problems of which every plan can be tried, feasible ones mostly."""
    random, problems = Random(7), []
    while len(problems) < count:
        problem = make(random)
        options = prod(len(stage) for stage in full_program(problem).stages)
        if 2 <= options <= MOST_PLANS:
            problems.append(problem)
    return problems


@cache
def chains(count: int) -> list[PlanningProblem]:
    return small(lambda random: random_problem(random, (2, 3), (2, 3), 2), count)


@cache
def graphs(count: int) -> list[PlanningProblem]:
    return small(lambda random: random_graph_problem(random, 2), count)


def everything(problem: PlanningProblem) -> list[tuple[object, ...]]:
    """The configuration of every plan within the limits, best first, ties in the order of `solve`."""
    program = full_program(problem)
    ranked = []
    for chosen in itertools.product(*(range(len(stage)) for stage in program.stages)):
        if fits(program, chosen):
            totals = evaluate(program, chosen)
            tie = (*(round(x, 9) for x in (totals.changes, totals.cost_cores, totals.latency_s)), chosen)
            ranked.append((round(-totals.objective, 8), tie, chosen))
    return [configs_of(problem, program, chosen) for _, _, chosen in sorted(ranked)]


# Twenty chains and thirty graphs.
INSTANCES = (*range(many(8)), *range(40, 40 + many(12)))


@pytest.mark.parametrize("at", INSTANCES)
def test_the_plan_is_the_first_of_all_plans(at: int) -> None:
    problem = chains(40)[at] if at < 40 else graphs(60)[at - 40]
    assert [solve(problem, "exact").configs] == (everything(problem) or [()])[:1]
