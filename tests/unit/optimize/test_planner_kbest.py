"""The k best plans against every plan there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from math import isclose, prod
from random import Random

import pytest

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Bounds, Goal, Objective
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.kbest import MOST_TIES, k_best, plans_of, ranking
from ipa.optimize.options import full_program
from ipa.optimize.plans import stage_plans
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.program import Program, Totals, evaluate, fits
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import random_problem

MOST_PLANS = 20_000
Every = list[tuple[tuple[float, ...], tuple[object, ...], tuple[str, ...]]]


def small(make: Callable[[Random], PlanningProblem], count: int) -> list[PlanningProblem]:
    """Random problems of which every plan can be tried, feasible ones mostly."""
    random, found = Random(7), []
    while len(found) < count:
        problem = make(random)
        options = prod(len(stage) for stage in full_program(problem).stages)
        if 2 <= options <= MOST_PLANS:
            found.append(problem)
    return found


@cache
def chains(count: int) -> list[PlanningProblem]:
    return small(lambda random: random_problem(random, (2, 3), (2, 3), 2), count)


@cache
def graphs(count: int) -> list[PlanningProblem]:
    return small(lambda random: random_graph_problem(random, 2), count)


def key(problem: PlanningProblem, totals: Totals) -> tuple[float, ...]:
    """What is compared, all to be small."""
    match problem.objective.goal:
        case Goal.LEXICOGRAPHIC:
            return -totals.term, totals.cost_cores, totals.batch
        case Goal.CHEAPEST:
            return totals.cost_cores, -totals.term, totals.batch
        case _:
            return (-totals.objective,)


def everything(problem: PlanningProblem) -> Every:
    """Every plan within the limits, best first, as (what is compared, configuration, variants)."""
    program = full_program(problem)
    found = []
    for chosen in itertools.product(*(range(len(stage)) for stage in program.stages)):
        if fits(program, chosen):
            totals = evaluate(program, chosen)
            tie = (*(round(x, 9) for x in (totals.changes, totals.cost_cores, totals.latency_s)), chosen)
            found.append((tuple(round(x, 8) for x in key(problem, totals)), tie, chosen))
    return [(rank, *names(problem, program, chosen)) for rank, _, chosen in sorted(found)]


def names(
    problem: PlanningProblem, program: Program, chosen: tuple[int, ...]
) -> tuple[tuple[object, ...], tuple[str, ...]]:
    plans = stage_plans(problem, program, chosen)
    return tuple(stage.config for stage in plans), tuple(stage.variant for stage in plans)


# Twenty chains and thirty graphs.
INSTANCES = (*range(many(8)), *range(40, 40 + many(12)))


@pytest.mark.parametrize("at", INSTANCES)
def test_the_k_best_are_the_first_of_all_plans(at: int) -> None:
    problem = chains(40)[at] if at < 40 else graphs(60)[at - 40]
    expected = everything(problem)
    found = k_best(problem, 12)
    assert [plan.configs for plan in found] == [configs for _, configs, _ in expected[:12]]
    assert len({plan.configs for plan in found}) == len(found)


@pytest.mark.parametrize("at", INSTANCES)
def test_the_best_of_each_combination_of_variants_in_order(at: int) -> None:
    problem = chains(40)[at] if at < 40 else graphs(60)[at - 40]
    expected: dict[tuple[str, ...], tuple[float, ...]] = {}
    for rank, _, variants in everything(problem):
        expected.setdefault(variants, rank)
    ranked = list(islice(ranking(problem, Deadline(60), by_variant=True), 8))
    found = plans_of(problem, ranked, 0.0)
    combinations = [tuple(stage.variant for stage in plan.stages) for plan in found]
    assert len(set(combinations)) == len(combinations) == min(8, len(expected))
    reached = [key(problem, evaluate(each.program, each.chosen)) for each in ranked]
    for mine, theirs in zip(reached, sorted(expected.values()), strict=False):
        assert all(isclose(a, b, abs_tol=1e-7) for a, b in zip(mine, theirs, strict=True))
    for mine, combination in zip(reached, combinations, strict=True):
        assert all(isclose(a, b, abs_tol=1e-7) for a, b in zip(mine, expected[combination], strict=True))


def test_the_first_is_the_plan_and_the_others_say_how_far_they_are_from_it() -> None:
    problem = next(each for each in chains(10) if len(everything(each)) > 3)
    best, *others = k_best(problem, 3)
    plan = solve(problem, "exact")
    assert best.configs == plan.configs and best.termination is Termination.OPTIMAL and best.gap == 0
    for other in others:
        assert other.termination is Termination.FEASIBLE
        assert other.bound == best.objective
        assert other.objective is not None and best.objective is not None and other.gap is not None
        assert other.gap * max(1.0, abs(other.objective)) == pytest.approx(best.objective - other.objective)


def test_all_plans_and_no_more_where_there_are_fewer_than_k() -> None:
    problem = min((each for each in chains(40) if everything(each)), key=lambda each: len(everything(each)))
    expected = everything(problem)
    assert len(k_best(problem, len(expected) + 5)) == len(expected)
    assert k_best(problem, 0) == ()


def test_nothing_where_nothing_is_feasible() -> None:
    problem = replace(chains(1)[0], sla_s=1e-9, compat=Compat.PAPER)
    assert k_best(problem, 3) == ()


def test_equally_good_plans_come_in_the_fixed_order() -> None:
    """No weight at all: every plan is as good as every other."""
    worthless = Objective(alpha=0.0, beta=0.0, delta=0.0)
    problem = next(
        problem
        for each in chains(40)
        if 3 < len(everything(problem := replace(each, objective=worthless, bounds=Bounds()))) <= MOST_TIES
    )
    expected = everything(problem)
    assert [plan.configs for plan in k_best(problem, MOST_TIES)] == [configs for _, configs, _ in expected]


def test_no_time_is_an_error_not_an_answer() -> None:
    problem = next(each for each in chains(10) if everything(each))
    with pytest.raises(DeadlineError):
        k_best(problem, 3, deadline_s=0.0)
