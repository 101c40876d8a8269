"""Every forecaster, also of another installed package: rates in order whatever the load, no hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite, nan

import numpy as np
import pytest

from ipa.forecast.base import Forecaster, Series, prepare
from ipa.forecast.ladder import CLAMP_FACTOR, forecast, make_forecaster
from ipa.forecast.reactive import LastValue
from ipa.forecast.registry import FORECASTERS, FORESIGHT, LADDER
from ipa.model.observation import LoadHistory

# A question as the service asks it.
HORIZON_S, QUANTILE = 20.0, 0.95
# Seconds of load of each case.
LENGTH_S = 900

pytestmark = pytest.mark.parametrize(
    "name", [name for name in FORECASTERS if name not in (LADDER, FORESIGHT)]
)


def make(name: str) -> Forecaster:
    """A new forecaster, fitted to an hour of load."""
    rates = np.random.default_rng(0).poisson(20.0 + 10 * np.sin(np.arange(3600) / 300))
    series = Series(1.0, rates.astype(np.float64), 5.0)
    return make_forecaster(name).fitted(series, HORIZON_S, QUANTILE)


def loads() -> Iterator[LoadHistory]:
    """Steady, noisy, stepping, idle, enormous and broken loads, of one rate a second."""
    count = LENGTH_S
    generator = np.random.default_rng(1)
    for level in (0.0, 1e-9, 0.3, 7.0, 250.0, 1e9):
        yield LoadHistory(1.0, (level,) * count)
        yield LoadHistory(1.0, tuple(map(float, generator.poisson(min(level, 1e6), count))))
    yield LoadHistory(1.0, tuple(5.0 if at < count - 15 else 50.0 for at in range(count)))
    spoiled: list[float | None] = [float(each) for each in generator.poisson(9.0, count)]
    for at, value in zip(range(count // 2, count, 60), (None, nan, inf, -1.0, 1e12, None), strict=False):
        spoiled[at] = value
    yield LoadHistory(1.0, tuple(spoiled))


def answered(name: str) -> Iterator[Series]:
    """The loads as forecasters get them, those that this one can answer for."""
    forecaster = make(name)
    for load in loads():
        series = prepare(load)
        if series.length_s < forecaster.min_history_s(HORIZON_S):
            continue
        objection = getattr(forecaster, "objection", None)
        if objection and objection(series, HORIZON_S, QUANTILE):
            continue
        yield series


def test_it_can_answer_for_some_load(name: str) -> None:
    """The rules of the forecaster leave something to ask."""
    assert any(True for _ in answered(name))
    assert 0 <= make(name).max_gap_ratio <= 1
    assert isfinite(make(name).min_history_s(HORIZON_S))


def test_a_peak_is_two_rates_in_order(name: str) -> None:
    """Point and upper quantile are finite, not negative, and in this order."""
    forecaster = make(name)
    for series in answered(name):
        peak = forecaster.peak(series, HORIZON_S, QUANTILE)
        assert isfinite(peak.point_rps) and isfinite(peak.upper_rps), peak
        assert 0 <= peak.point_rps <= peak.upper_rps, peak


def test_equal_loads_give_equal_peaks(name: str) -> None:
    """A new forecaster, and one that answered before, give the same peak."""
    used = make(name)
    for series in answered(name):
        first = used.peak(series, HORIZON_S, QUANTILE)
        assert first == used.peak(series, HORIZON_S, QUANTILE)
        assert first == make(name).peak(series, HORIZON_S, QUANTILE)


def test_it_leaves_the_load_as_it_is(name: str) -> None:
    """The series it is given is not changed, and need not be writable."""
    forecaster = make(name)
    for series in answered(name):
        series.rates_rps.setflags(write=False)
        before = series.rates_rps.copy()
        forecaster.peak(series, HORIZON_S, QUANTILE)
        assert np.array_equal(before, series.rates_rps)


def test_many_moments_at_once_are_the_same_as_each_by_itself(name: str) -> None:
    """`peaks`, if it has one, gives what `peak` gives for the series until each moment."""
    forecaster = make(name)
    peaks = getattr(forecaster, "peaks", None)
    if peaks is None:
        return
    for series in answered(name):
        counts = np.array([len(series.rates_rps) - back for back in (40, 7, 0)])
        points, uppers = peaks(series, counts, HORIZON_S, QUANTILE)
        for count, point, upper in zip(counts.tolist(), points, uppers, strict=True):
            alone = forecaster.peak(series.between(0, count), HORIZON_S, QUANTILE)
            assert np.allclose((alone.point_rps, alone.upper_rps), (point, upper), rtol=1e-9, atol=1e-9)


def test_the_ladder_with_it_answers_every_load(name: str) -> None:
    """A rung answers or the ladder records its failure; the planned load stays near the observed one."""
    rungs = (make(name), LastValue())
    count = 0
    for load in loads():
        answer = forecast(load, horizon_s=HORIZON_S, quantile=QUANTILE, rungs=rungs)
        series = prepare(load)
        highest = float(series.rates_rps.max())
        assert 0 <= answer.point_rps <= answer.upper_rps
        assert answer.upper_rps <= CLAMP_FACTOR * (highest + series.noise_rps(highest)) * (1 + 1e-9)
        assert not any("raised" in each for each in answer.steps_down), answer.steps_down
        count += answer.rung == rungs[0].name
    assert count, "the ladder trusted it with no load at all"
