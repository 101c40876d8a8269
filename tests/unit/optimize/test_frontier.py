"""The frontier of cost, accuracy and latency: against enumeration, within the limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ipa.cli.planning import Question
from ipa.model.errors import DeadlineError
from ipa.optimize.describe import describe
from ipa.optimize.frontier import FrontierPoint, accuracy_cost, frontier
from ipa.optimize.options import full_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_brute import size
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import fits, random_problem


def enumerated(problem: PlanningProblem) -> set[tuple[float, float, float]]:
    """Cost, in money where there are prices, PAS and latency of all plans that none betters in the three."""
    program = full_program(problem)
    plans = {
        (round(totals.cost, 8), round(totals.pas, 10), round(totals.latency_s, 8))
        for chosen in itertools.product(*(range(len(stage)) for stage in program.stages))
        if fits(program, chosen)
        for totals in [evaluate(program, chosen)]
    }
    best: set[tuple[float, float, float]] = set()
    for plan in sorted(plans, key=lambda each: (each[0], -each[1], each[2])):
        if not any(other[1] >= plan[1] and other[2] <= plan[2] for other in best):
            best.add(plan)
    return best


def rounded(points: Iterable[FrontierPoint]) -> set[tuple[float, float, float]]:
    return {(round(it.cost, 8), round(it.pas, 10), round(it.latency_s, 8)) for it in points}


def small_problems() -> list[PlanningProblem]:
    chains = [random_problem(Random(seed), (1, 3), (1, 3), 2) for seed in range(many(16))]
    graphs = [random_graph_problem(Random(seed)) for seed in range(many(24))]
    return [*chains, *(problem for problem in graphs if size(problem) < 1_500)]


@pytest.mark.parametrize("part", range(8))
def test_it_is_what_enumeration_leaves(part: int) -> None:
    for number, problem in enumerate(small_problems()[part::8]):
        assert rounded(frontier(problem)) == enumerated(problem), (part, number)


@pytest.mark.parametrize("rate_rps", [8.0, 30.0])
def test_the_frontier_is_in_money_where_there_are_prices(rate_rps: float) -> None:
    home = Path(__file__).parents[2] / "fixtures" / "accelerated"
    place = home / "pipelines", home / "profiles"
    problem = Question("vision", pipelines_dir=place[0], profiles_dir=place[1]).at_rate(rate_rps).problem()
    # Few enough to compare all.
    problem = replace(problem, bounds=replace(problem.bounds, max_replicas=2))
    points = frontier(problem)
    assert [p.cost_usd_per_hour for p in points] == pytest.approx(
        [problem.prices.cost(problem.resources(p.configs)) for p in points]
    )
    assert rounded(points) == enumerated(problem)
    # A plan with a GPU has fewer cores and costs more.
    assert [p.cost_cores for p in points] != sorted(p.cost_cores for p in points)


def test_points_are_plans_within_the_limits_and_the_best_is_among_those_near() -> None:
    feasible = 0
    for seed in range(30):
        problem = random_problem(Random(seed), (2, 3), (2, 4), 3)
        points = frontier(problem)
        costs = [point.cost_cores for point in points]
        assert costs == sorted(costs)
        for point in points[:40]:
            done = describe(problem, point.configs)
            assert done is not None
            assert done.pas == pytest.approx(point.pas)
            assert done.objective == pytest.approx(point.objective)
            assert done.latency_s == pytest.approx(point.latency_s)
            assert point.latency_s <= problem.sla_s * (1 + 1e-9)
        best = solve(problem, "exact", explain=False).objective
        assert (best is None) == (not points)
        if best is not None:
            feasible += 1
            assert max(point.objective for point in points) <= best + 1e-9
    assert 5 < feasible < 30


def test_without_time_it_says_so() -> None:
    problem = random_problem(Random(2), (3, 3), (4, 4), 3)
    with pytest.raises(DeadlineError):
        frontier(problem, 0.0)


def test_the_frontier_of_accuracy_and_cost_has_the_quickest_of_equals() -> None:
    dots = [(2.0, 0.7, 0.6), (1.0, 0.5, 0.4), (2.0, 0.7, 0.2), (3.0, 0.7, 0.1), (3.0, 0.4, 0.1)]
    points = [FrontierPoint(*dot, 0.0, ()) for dot in dots]
    assert accuracy_cost(points) == [points[1], points[2]]
