"""After a step the point settles at the new level: a rise within two means is no trend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ipa.forecast import level
from ipa.forecast.arrivals import request_times
from ipa.forecast.base import Forecaster, prepare
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast
from ipa.forecast.level import Level
from ipa.model.observation import LoadHistory
from ipa.simulate.realtime import BURST_EVERY_S, BURST_FROM_S, BURST_S, moving_load

HORIZON_S, QUANTILE, TICK_S, STEP_AT_S = 20, 0.95, 2, 250
SEEDS = range(8)


def worst(
    counts: np.ndarray, first: int, last: int, rungs: Sequence[Forecaster] = DEFAULT_RUNGS
) -> tuple[float, float]:
    """The highest point and upper quantile of ticks in that time.

    Each over the highest rate of the minute before it and the horizon after it.
    """
    means = prepare(LoadHistory(1.0, tuple(counts))).rates_rps
    points, uppers = [], []
    for now in range(first, last, TICK_S):
        load = LoadHistory(1.0, tuple(counts[:now].tolist()))
        answer = forecast(load, horizon_s=HORIZON_S, quantile=QUANTILE, rungs=rungs)
        peak = max(means[now - 60 : now].max(), means[now : now + HORIZON_S].max())
        points.append(answer.point_rps / peak)
        uppers.append(answer.upper_rps / peak)
    return max(points), max(uppers)


def after_steps(low: float, high: float, rungs: Sequence[Forecaster] = DEFAULT_RUNGS) -> tuple[float, float]:
    """The mean of `worst` over the minute after a step, over SEEDS."""
    rates = np.where(np.arange(STEP_AT_S + 100) < STEP_AT_S, low, high)
    drawn = [np.random.default_rng(seed).poisson(rates).astype(float) for seed in SEEDS]
    ratios = [worst(counts, STEP_AT_S + TICK_S, STEP_AT_S + 60, rungs) for counts in drawn]
    point, upper = np.mean(ratios, axis=0).tolist()
    return point, upper


@pytest.mark.parametrize(("low", "high"), [(2, 8), (5, 25), (20, 90)])
def test_a_step_is_not_carried_on(low: float, high: float) -> None:
    """The upper quantile may be: a step that a mean shows in part may be several times as high."""
    point_ratio, upper_ratio = after_steps(low, high)
    assert point_ratio <= 1.55
    assert upper_ratio <= 2.2


def test_a_slope_that_is_always_believed_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure can fail: the slope of a step forecasts twice the load."""
    monkeypatch.setattr(level, "SETTLED", 0.0)
    point_ratio, upper_ratio = after_steps(5, 25)
    assert point_ratio > 2.0 and upper_ratio > 2.2


@pytest.mark.parametrize(("high", "low", "most_ratio"), [(300, 100, 1.5), (100, 50, 1.5), (90, 20, 1.7)])
def test_a_step_down_is_believed_within_twenty_seconds(high: float, low: float, most_ratio: float) -> None:
    """The upper quantile over the new load; that of an even load of 20 rps is 1.33."""
    now = STEP_AT_S + HORIZON_S
    rates = np.where(np.arange(now) < STEP_AT_S, high, low)
    ratios = []
    for seed in SEEDS:
        counts = np.random.default_rng(seed).poisson(rates).astype(float)
        load = LoadHistory(1.0, tuple(counts.tolist()))
        ratios.append(forecast(load, horizon_s=HORIZON_S, quantile=QUANTILE).upper_rps / low)
    assert 1.0 < np.mean(ratios) <= most_ratio


def test_bursts_of_the_demo_are_not_carried_on() -> None:
    """The second burst of `ipa demo`, the mean over seeds."""
    begin = BURST_FROM_S + BURST_EVERY_S
    seconds = begin + BURST_S + HORIZON_S
    ratios = []
    for seed in range(6):
        times_s = request_times(moving_load(2.0, 18.0, seconds, seed), seed=(seed, 0))
        counts = np.bincount(times_s.astype(int), minlength=seconds).astype(float)
        ratios.append(worst(counts, begin, begin + BURST_S))
    point_ratio, _ = np.mean(ratios, axis=0).tolist()
    assert point_ratio <= 1.25


@pytest.mark.parametrize(("smooth", "carried_ratio"), [(5, 0.7), (30, 0.3)])
def test_a_steady_rise_is_carried_on_and_a_step_of_long_means_is_not(
    smooth: int, carried_ratio: float
) -> None:
    """A damped trend rises by 63 % of a straight one, and four means show it less than 24."""
    slope_rps, height_rps = 0.5, 30.0
    ramp = 10 + slope_rps * np.maximum(np.arange(300) - 180, 0)
    step = np.where(np.arange(300) < 300 - 2 * smooth, 10.0, 10.0 + height_rps)
    risen, stepped = (
        np.convolve(np.concatenate((np.full(smooth, raw[0]), raw)), np.full(smooth, 1 / smooth))[
            smooth:-smooth
        ]
        for raw in (ramp, step)
    )
    ahead, settled = (
        Level().peak(prepare(LoadHistory(1.0, tuple(means.tolist()), averaged_s=smooth)), HORIZON_S, QUANTILE)
        for means in (risen, stepped)
    )
    assert ahead.point_rps > risen[-1] + carried_ratio * slope_rps * HORIZON_S
    assert settled.point_rps < stepped[-1] + 0.2 * height_rps


@pytest.mark.parametrize("step_s", [0.5, 2.0, 5.0])
def test_a_rise_is_carried_on_as_far_in_steps_of_any_length(step_s: float) -> None:
    def ahead(step_s: float) -> float:
        rates = 10 + 0.5 * np.arange(0, 300, step_s)
        series = prepare(LoadHistory(step_s, tuple(rates.tolist())))
        return Level().peak(series, HORIZON_S, QUANTILE).point_rps

    assert ahead(step_s) == pytest.approx(ahead(1.0), rel=0.03)
