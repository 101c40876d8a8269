"""Sets of variants and the frontier: filling, shares, what binds, checks, and enumeration within limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from experiments.sets.published import line_levels
from ipa.cli.planning import Question
from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.frontier import FrontierPoint, accuracy_cost, frontier
from ipa.optimize.options import full_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import evaluate
from ipa.optimize.set_solve import (
    CoreLevel,
    SetProblem,
    SetVariant,
    SetWeights,
    fill,
    solve_set,
)
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_brute import size
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import fits, random_problem
from tests.fakes.set_instances import best_by_milp


def levels(*capacities_rps: float) -> tuple[CoreLevel, ...]:
    """Capacities on 1, 2, … cores."""
    return tuple(CoreLevel(float(at), capacity) for at, capacity in enumerate(capacities_rps, start=1))


SMALL = SetVariant("small", 0.70, levels(20.0, 40.0, 60.0, 80.0), readiness_s=6.0)
LARGE = SetVariant("large", 0.80, levels(5.0, 10.0, 15.0, 20.0), readiness_s=9.0)


def task(rate_rps: float, budget: float = 4.0, **more: object) -> SetProblem:
    weights = SetWeights(alpha=1.0, beta=0.001, gamma=0.0)
    values = {"weights": weights, "variants": (SMALL, LARGE), **more}
    return SetProblem("classify", rate_rps, budget, **values)  # type: ignore[arg-type]


def test_the_most_accurate_takes_what_it_carries_and_the_rest_goes_on() -> None:
    plan = solve_set(task(30.0))
    assert plan.termination is Termination.OPTIMAL
    assert plan.cores == {"large": 3.0, "small": 1.0}
    assert [part.quota_rps for part in plan.parts] == pytest.approx([15.0, 15.0])
    whole = solve_set(task(30.0), whole_percents=True)
    assert {part.variant: part.share_percent for part in whole.parts} == {"large": 50, "small": 50}


def test_too_much_load_names_what_is_missing() -> None:
    plan = solve_set(task(100.0))
    assert plan.termination is Termination.INFEASIBLE
    assert plan.missing_rps == pytest.approx(20.0)
    assert solve_set(task(80.0)).objective is not None
    nothing = SetProblem("t", 5.0, 9.0, SetWeights(), (replace(SMALL, levels=()),))
    assert solve_set(nothing).missing_rps == pytest.approx(5.0)


def test_loading_is_paid_once_and_by_the_slowest_to_load_alone() -> None:
    weights = SetWeights(alpha=1.0, beta=0.0, gamma=0.05)
    loaded = (replace(SMALL, loaded=True), LARGE)
    plan = solve_set(task(30.0, budget=3.0, weights=weights, variants=loaded))
    # 0.05 a second: no accuracy is worth the nine seconds of the large one.
    assert plan.cores == {"small": 2.0}
    ready = (replace(SMALL, loaded=True), replace(LARGE, loaded=True))
    assert set(solve_set(task(30.0, budget=3.0, weights=weights, variants=ready)).cores) == {"small", "large"}


def test_whole_percents_are_solved_for_where_rounding_breaks_a_capacity() -> None:
    # 10 of 30 rps are 33.3 %, 20 of 30 are 66.7 %: no whole percents fit capacities of 10 and 20.
    problem = task(30.0, budget=3.0)
    fluid, whole = solve_set(problem), solve_set(problem, whole_percents=True)
    assert {part.variant: part.share_percent for part in whole.parts} == {"large": 16, "small": 84}
    assert whole.cores == {"large": 1.0, "small": 2.0}
    assert whole.objective is not None and fluid.objective is not None and whole.objective < fluid.objective


def test_levels_without_more_capacity_are_not_worth_choosing() -> None:
    variant = SetVariant("v", 0.5, levels(5.0, 4.0, 8.0, 8.0), min_cores=2.0)
    assert [level.cores for level in variant.usable] == [2.0, 3.0]


def test_filling_gives_back_the_whole_rate() -> None:
    assert fill(10.0, [4.0, 7.0, 5.0]) == (4.0, 6.0, 0.0)
    assert sum(fill(0.3, [0.1, 0.2])) == pytest.approx(0.3, abs=1e-15)
    assert fill(10.0, [4.0]) == (4.0,)


def test_without_weights_a_set_is_worth_what_infadapter_counts() -> None:
    plan = solve_set(task(30.0, weights=SetWeights()))
    # One share of accuracy, a twentieth a core, a thousandth a second of the longest loading.
    assert plan.objective == pytest.approx(0.70 - 0.05 * 2 - 0.001 * 6)
    assert plan.cores == {"small": 2.0}


def test_a_deadline_gives_the_best_known_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [replace(LARGE, name=f"v{at}", accuracy=0.7 + at / 100) for at in range(6)]
    problem = task(60.0, budget=14.0, variants=(SMALL, *slow))
    proved = solve_set(problem)
    assert solve_set(problem, 0.0).termination is Termination.NO_SOLUTION_FOUND
    # The first pass is done when the time runs out.
    monkeypatch.setattr(Deadline, "passed", property(lambda _: next(looks) >= len(problem.variants)))
    looks = count()
    plan = solve_set(problem)
    assert plan.termination is Termination.FEASIBLE and plan.cores
    assert plan.bound is not None and proved.objective is not None and plan.bound >= proved.objective - 1e-9


def test_a_set_that_highs_once_got_wrong_is_the_true_best() -> None:
    # With a tolerance of 1e-9 HiGHS 1.16 called a set optimal that is worse by 0.36.
    lines = {"r18": (24.4462, -6, 0.69758, 6.44), "r34": (13.0444, -1, 0.73314, 6.79)}
    lines |= {"r50": (10.3212, -3, 0.7613, 6.82), "r101": (5.0901, 0, 0.77374, 7.77)}
    lines |= {"r152": (3.8145, -2, 0.78312, 8.52)}
    variants = tuple(
        SetVariant(name, accuracy, line_levels(slope, start, range(1, 21)), readiness_s, False, 2.0)
        for name, (slope, start, accuracy, readiness_s) in lines.items()
    )
    problem = SetProblem("resnet", 340.0, 20.0, SetWeights(100.0, 0.0125, 0.001), variants)
    expected = solve_set(problem).objective
    assert expected == pytest.approx(69.97561093, abs=1e-8)
    assert best_by_milp(problem) == pytest.approx(expected, abs=1e-9)


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
    dots = [(2.0, 0.7, 0.6), (1.0, 0.5, 0.4), (2.0, 0.7, 0.2), (3.0, 0.7, 0.1), (2.0, 0.6, 0.1)]
    points = [FrontierPoint(*dot, 0.0, ()) for dot in dots]
    assert accuracy_cost(points) == [points[1], points[2]]
