"""Means over seeds and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.report.blocks import Mean, mean_of, means_of, paired, student_t


def test_student_t_is_that_of_the_tables() -> None:
    assert student_t(2) == pytest.approx(4.303, abs=5e-4)
    assert student_t(9) == pytest.approx(2.262, abs=5e-4)


def test_mean_of() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found is not None
    assert found.value == 2
    assert found.half_width == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert mean_of([]) is None
    assert mean_of([float("nan"), 4.0]) == Mean(4.0, None, 1)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(7).normal(5.0, 2.0, (4000, 4))
    held = [found.low <= 5.0 <= found.high for row in samples if (found := mean_of(list(row)))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_paired_takes_out_what_seeds_share() -> None:
    alone = mean_of([10.0, 20.0, 30.0])
    pair = paired([10.0, 20.0, 30.0], [9.0, 19.1, 28.9], relative=False)
    assert alone is not None and alone.half_width is not None
    assert pair is not None and pair.half_width is not None
    assert pair.value == pytest.approx(1.0)
    assert pair.half_width < alone.half_width / 20
    ratio = paired([8.0, 4.0], [10.0, 0.0], relative=True)
    assert ratio == Mean(pytest.approx(-0.2), None, 1)


def test_means_by_name_are_over_the_rows_that_know() -> None:
    found = means_of([{"a": 1, "b": None, "c": 5.0}, {"a": 3, "b": 4.0, "c": None}, {"a": 5, "b": 8.0}])
    assert {name: mean and mean.value for name, mean in found.items()} == {"a": 3.0, "b": 6.0, "c": 5.0}
    halves = [mean and mean.half_width for mean in found.values()]
    assert halves[0] == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)
    assert halves[1] == pytest.approx(12.706 * 8**0.5 / 2**0.5, abs=1e-2)
    assert halves[2] is None
    assert means_of([{"a": None}]) == {"a": None}


def test_a_name_that_a_row_lacks_may_stand_for_a_value() -> None:
    found = means_of([{"x": 2}, {"y": 4}], missing=0)
    assert [mean and mean.value for mean in found.values()] == [1.0, 2.0]
