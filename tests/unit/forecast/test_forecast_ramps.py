"""On loads that rise and fall four-fold the upper quantile leads the load, at a bounded price."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ipa.forecast.base import Forecaster, prepare
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast
from ipa.forecast.level import Level
from ipa.forecast.reactive import LastValue
from ipa.model.observation import LoadHistory

WINDOW_S, HORIZON_S, TICK_S, SMOOTH = 120, 10, 5, 5


def ramp(low: float, high: float) -> np.ndarray:
    """Two quiet minutes, up within 30 s, high for 50 s, down within 30 s, quiet again."""
    return np.interp(np.arange(280), [0, 140, 170, 220, 250, 280], [low, low, high, high, low, low])


def replay(
    rates: np.ndarray, seeds: range, averaged: bool, rungs: Sequence[Forecaster] = DEFAULT_RUNGS
) -> tuple[float, float]:
    """Share of ticks whose upper quantile covers the peak, and mean upper quantile over mean peak."""
    uppers, peaks = [], []
    for seed in seeds:
        counts = np.random.default_rng(seed).poisson(rates).astype(float)
        means = np.convolve(counts, np.full(SMOOTH, 1 / SMOOTH))[: len(counts)]
        window = means if averaged else counts
        for now in range(WINDOW_S + SMOOTH, len(counts) - HORIZON_S, TICK_S):
            load = LoadHistory(1.0, tuple(window[now - WINDOW_S : now].tolist()), SMOOTH if averaged else 0.0)
            uppers.append(forecast(load, horizon_s=HORIZON_S, quantile=0.95, rungs=rungs).upper_rps)
            peaks.append(means[now : now + HORIZON_S].max())
    covered = np.array(uppers) >= np.array(peaks)
    return float(covered.mean()), float(np.mean(uppers) / np.mean(peaks))


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    ("low", "high", "price_bound"), [(2.0, 8.0, 1.5), (5.0, 25.0, 1.35), (20.0, 90.0, 1.25)]
)
def test_upper_quantile_leads_a_ramp(low: float, high: float, price_bound: float, averaged: bool) -> None:
    """The price is mostly the arrivals' own noise, so it falls with the rate; its mean is below 1.4."""
    coverage_ratio, price_ratio = replay(ramp(low, high), range(6), averaged)
    assert coverage_ratio >= 0.85
    assert 1.0 < price_ratio <= price_bound


def test_the_last_value_would_not() -> None:
    """The measure can fail: a ladder of the last value alone covers far less."""
    alone, _ = replay(ramp(5.0, 25.0), range(6), averaged=False, rungs=(LastValue(),))
    led, _ = replay(ramp(5.0, 25.0), range(6), averaged=False)
    assert alone < 0.75 < led


def test_a_rise_in_the_first_half_minute_is_carried_on_but_not_far_beyond() -> None:
    """A few means show a trend, which fades: the mean of the horizon is not that of a straight line."""
    rates = 50 + 2.0 * np.arange(50)
    series = prepare(LoadHistory(1.0, tuple(rates.tolist())))
    upper_rps = Level().peak(series.between(0, 30), 20.0, 0.95).upper_rps
    assert series.rates_rps[-1] < upper_rps < 1.2 * series.rates_rps[-1]
