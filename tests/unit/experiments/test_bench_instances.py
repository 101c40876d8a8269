"""The problems of the benchmark: repeatable, of the size asked for, and like measured profiles."""

from __future__ import annotations

import itertools

import pytest

from experiments.bench.cell import Cell
from experiments.bench.instances import instance
from experiments.bench.planner import full_scope, quick_scope
from ipa.model.pipeline import AccuracyRule
from ipa.model.plan import Termination
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve

CELLS = [
    Cell(2, 5),
    Cell(3, 4, 2, 4),
    Cell(1, 1, 1, 2, AccuracyRule.SUM),
    Cell(4, 10, 7, 1, compat=Compat.TAIL),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_seed_gives_the_same_problem_of_the_cell(cell: Cell) -> None:
    one = instance(cell, 3)
    assert one == instance(cell, 3)
    assert one != instance(cell, 4)
    assert (len(one.stages), one.objective.accuracy_rule, one.compat) == (
        cell.stages,
        cell.accuracy,
        cell.compat,
    )
    for stage in one.stages:
        assert len({point.variant for point in stage.points}) == cell.variants
        assert len(stage.points) == cell.variants * cell.batches * cell.cores


def test_a_cell_survives_the_way_to_another_process() -> None:
    for cell in CELLS:
        assert Cell.from_json(cell.to_json()) == cell


def test_points_are_like_measured_ones() -> None:
    for seed in range(20):
        for stage in instance(Cell(2, 6, 7, 4), seed).stages:
            by_variant = {
                name: {(point.cores, point.batch_size): point for point in points}
                for name, points in itertools.groupby(stage.points, key=lambda point: point.variant)
            }
            for at in by_variant.values():
                assert at[1.0, 64].latency_mean_s > at[1.0, 1].latency_mean_s
                assert at[1.0, 64].capacity_rps > at[1.0, 1].capacity_rps
                speed_up = at[8.0, 8].capacity_rps / at[1.0, 8].capacity_rps
                assert 1 < speed_up < 8
            first, last = by_variant["v00"][1.0, 1], by_variant["v05"][1.0, 1]
            assert last.latency_mean_s > 2 * first.latency_mean_s
            assert last.accuracy > first.accuracy


def test_most_problems_have_a_plan_and_the_sla_costs_something_in_many() -> None:
    plans = [solve(instance(Cell(3, 5), seed), "exact") for seed in range(20)]
    feasible = [plan for plan in plans if plan.termination is Termination.OPTIMAL]
    tight = [plan for plan in feasible if dict(plan.prices).get("sla", 0.0) > 0]
    assert len(feasible) >= 15
    assert len(tight) >= 5


def test_the_full_run_covers_the_sizes_it_is_judged_by() -> None:
    sizes = {(cell.stages, cell.variants, cell.cores) for cell in full_scope().sizes}
    expected = {(2, 5), (3, 10), (5, 10), (10, 10), (10, 20)}
    assert sizes == {(*size, cores) for size in expected for cores in (1, 4)}
    assert {cell.accuracy for cell in full_scope().sizes} == {AccuracyRule.PRODUCT, AccuracyRule.SUM}
    assert full_scope().sizes_effort.instances >= 50
    assert {cell.compat for cell in (*full_scope().tail, *quick_scope().tail)} == {Compat.TAIL}
