"""InfAdapter's capacities: lines and tables of measured rates."""

from __future__ import annotations

from experiments.sets.published import line_levels, table_levels


def test_a_line_is_planned_with_a_margin() -> None:
    levels = line_levels(10.0, -13.7, range(1, 4), coefficient=0.5, whole_intercept=True)
    assert [(level.cores, level.capacity_rps) for level in levels] == [(2, 3.5), (3, 8.5)]


def test_cores_whose_tail_breaks_the_slo_are_left_out() -> None:
    levels = table_levels({1.0: 4.0, 2.0: 10.0, 4.0: 20.0}, {1.0: None, 2.0: 0.8, 4.0: 0.7}, 0.75)
    assert [(level.cores, level.capacity_rps) for level in levels] == [(4.0, 16.0)]
