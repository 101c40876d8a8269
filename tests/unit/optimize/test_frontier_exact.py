"""The frontier against every plan there is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ipa.cli.planning import Question
from ipa.optimize.frontier import FrontierPoint, accuracy_cost, frontier
from ipa.optimize.options import full_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate
from ipa.optimize.solve import solve
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import fits, random_problem

MOST_PLANS = 5000
Figures = tuple[float, float, float]


@pytest.fixture(autouse=True)
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def every_undominated(problem: PlanningProblem) -> list[Figures]:
    """Cost, accuracy and latency of all plans that none betters, each once, by a plain comparison of all."""
    program = full_program(problem)
    chosen = itertools.product(*(range(len(stage)) for stage in program.stages))
    totals = [evaluate(program, each) for each in chosen if fits(program, each)]
    rows = sorted({(round(t.cost, 8), round(-t.pas, 8), round(t.latency_s, 8)) for t in totals})
    table = np.array(rows).reshape(-1, 3)
    kept = [row for row in rows if not (np.all(table <= row, axis=1) & np.any(table < row, axis=1)).any()]
    return sorted((cost, -minus_pas, latency_s) for cost, minus_pas, latency_s in kept)


def test_the_frontier_is_all_plans_that_none_betters() -> None:
    problem = Question("digits").asked(12.0).problem()
    found = sorted((p.cost_cores, p.pas, p.latency_s) for p in frontier(problem))
    assert len(found) > 10
    assert np.array(found) == pytest.approx(np.array(every_undominated(problem)), abs=1e-7)


@pytest.mark.parametrize("seed", range(24))
def test_the_frontier_of_random_problems(seed: int) -> None:
    random = Random(seed)
    while True:
        problem = random_graph_problem(random, 2) if seed % 2 else random_problem(random, (2, 3), (2, 3), 2)
        sizes = [len(stage) for stage in full_program(problem).stages]
        if 1 < np.prod(sizes) <= MOST_PLANS and solve(problem, "exact", explain=False).stages:
            break
    found = sorted((p.cost, p.pas, p.latency_s) for p in frontier(problem))
    assert np.array(found) == pytest.approx(np.array(every_undominated(problem)), abs=1e-7)


@pytest.mark.parametrize("rate_rps", [8.0, 30.0])
def test_the_frontier_is_in_money_where_there_are_prices(rate_rps: float) -> None:
    home = Path(__file__).parents[2] / "fixtures" / "accelerated"
    place = home / "pipelines", home / "profiles"
    problem = Question("vision", pipelines_dir=place[0], profiles_dir=place[1]).asked(rate_rps).problem()
    # Few enough to compare all.
    problem = replace(problem, bounds=replace(problem.bounds, max_replicas=2))
    points = frontier(problem)
    assert [p.cost_usd_per_hour for p in points] == pytest.approx(
        [problem.prices.cost(problem.resources(p.configs)) for p in points]
    )
    found = sorted((p.cost, p.pas, p.latency_s) for p in points)
    assert np.array(found) == pytest.approx(np.array(every_undominated(problem)), abs=1e-7)
    # A plan with a GPU has fewer cores and costs more.
    assert [p.cost_cores for p in points] != sorted(p.cost_cores for p in points)


def test_the_frontier_of_accuracy_and_cost_has_the_quickest_of_equals() -> None:
    dots = [(2.0, 0.7, 0.6), (1.0, 0.5, 0.4), (2.0, 0.7, 0.2), (3.0, 0.7, 0.1), (3.0, 0.4, 0.1)]
    points = [FrontierPoint(*dot, 0.0, ()) for dot in dots]
    assert accuracy_cost(points) == [points[1], points[2]]
