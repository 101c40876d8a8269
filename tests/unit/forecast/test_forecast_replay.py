"""Rungs that go through their past at once say what they would say of each beginning of it alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.forecast.base import Series, answers, quantiles_of
from ipa.forecast.reactive import LastValue, Seasonal, WindowMaximum
from tests.amounts import many


@settings(max_examples=many(100), deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.0, 1.0), st.integers(1, 60))
def test_the_quick_quantiles_are_numpys(values: list[float], quantile: float, most: int) -> None:
    counts = np.arange(len(values) + 1)
    mine = quantiles_of(np.array(values), counts, quantile, most)
    windows = [values[max(0, count - most) : count] for count in counts[1:]]
    numpys = [0.0, *(float(np.quantile(window, quantile)) for window in windows)]
    assert mine.tolist() == pytest.approx(numpys, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    "rung",
    [
        Seasonal(),
        WindowMaximum(),
        WindowMaximum(span_s=10.0, name="ten"),
        LastValue(),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_replay_is_the_answers_one_by_one(rung: Seasonal | WindowMaximum | LastValue, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates = rng.poisson(20 + 10 * np.sin(np.arange(200) / 20)).astype(float)
    rates[:70] *= seed > 0  # silence at first
    series = Series(1.0, rates, 5.0)
    counts = np.arange(60, 200, 7)
    points, uppers = rung.replay(series, counts, 20.0, 0.95)
    alone = [rung.peak(series.between(0, int(count)), 20.0, 0.95) for count in counts]
    np.testing.assert_allclose(points, [each.point_rps for each in alone], rtol=1e-12)
    np.testing.assert_allclose(uppers, [each.upper_rps for each in alone], rtol=1e-12)


def test_what_sees_only_a_window_is_asked_one_by_one() -> None:
    series = Series(1.0, np.arange(200.0), 5.0)
    moments = np.array([150, 190])
    for rung in (WindowMaximum(), LastValue()):
        points, _ = answers(rung, series, moments, 20.0, 0.5, window=60)
        assert points.tolist() == [149.0, 189.0]
    _, uppers = answers(WindowMaximum(), series, moments, 20.0, 0.5, window=60)
    assert uppers.tolist() == [149.0, 189.0]
