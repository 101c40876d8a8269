"""Rungs that go through their past at once say what they would say of each beginning of it alone."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.forecast.base import Series, answers
from ipa.forecast.level import Level
from ipa.forecast.reactive import LastValue, WindowMaximum


@pytest.mark.parametrize(
    "rung",
    [
        Level(),
        WindowMaximum(),
        WindowMaximum(span_s=10.0, name="ten"),
        LastValue(),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_replay_is_the_answers_one_by_one(rung: Level | WindowMaximum | LastValue, seed: int) -> None:
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


def test_a_window_takes_its_quantile_from_two_minutes() -> None:
    rates = np.full(300, 5.0)
    rates[150] = 50.0
    series = Series(1.0, rates, 5.0)
    for until, upper in ((200, 50.0), (290, 5.0)):
        peak = WindowMaximum().peak(series.between(0, until), 20.0, 0.999)
        assert peak.point_rps == 5.0
        assert peak.upper_rps == pytest.approx(upper, rel=0.01)
