"""Rungs that learn nothing: the last value, the maximum of a window, and Holt-Winters without a season."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Ints, Rung, Series, memory_s, quantiles_of, recent_max, sliding_max


@dataclass(frozen=True, slots=True)
class LastValue(Rung):
    """Repeats the last rate, with the upper quantile of Poisson arrivals. The rung that always answers."""

    name: str = "last"
    max_gap_ratio: float = 1.0

    def min_history_s(self, horizon_s: float) -> float:
        """One rate."""
        return 0.0

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The last rate of the first `counts[i]` steps, for each i."""
        last = series.rates_rps[counts - 1]
        noise = np.sqrt(np.maximum(last, 0.0) / series.smooth_s)
        return last, last + NormalDist().inv_cdf(quantile) * noise


@dataclass(frozen=True, slots=True)
class WindowMaximum(Rung):
    """Repeats the maximum of the last horizon (IPA's and InfAdapter's reactive baseline).

    The upper quantile is that of all maxima over a horizon in `memory_s`, never below the point. With
    `span_s` the point is the maximum of that time instead: the last of IPA's inputs is one over 10 s.
    """

    span_s: float | None = None
    name: str = "window"
    max_gap_ratio: float = 0.5

    def min_history_s(self, horizon_s: float) -> float:
        """Two horizons: one for the maximum and one to compare it with."""
        return 2 * horizon_s

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The maximum of the last horizon, and the quantile of all such maxima, of `counts` steps each."""
        rates, width = series.rates_rps, series.steps(horizon_s)
        span = width if self.span_s is None else series.steps(self.span_s)
        points = recent_max(rates, counts, span)
        most = series.steps(memory_s(horizon_s)) - width + 1
        known = quantiles_of(sliding_max(rates, width), np.maximum(counts - width + 1, 0), quantile, most)
        uppers = np.where(counts >= width, known, np.maximum.accumulate(rates)[counts - 1])
        return points, np.maximum(points, uppers)


# Half-life of the weights of the past; the noise of the slope must not outgrow the trend it shows, so a
# longer horizon looks further back. Chosen on Poisson ramps, steps and sines (test_forecast_ramps).
HALF_LIFE_S = 2.5
HALF_LIFE_RATIO = 0.125
# A trend is followed for about half a minute, then levels out (damped trend, Gardner & McKenzie 1985).
DAMPING_S = 30.0
# The point carries a rise on by at most twice what has risen outside its steepest `smooth_s`. A step rises
# within that time, so it is no trend. The upper quantile has no such limit: more may follow.
CARRIED_RATIO = 2.0
# A past of eight half-lives carries all of the weight but 0.4 %.
HALF_LIVES = 8
# The share of the slope's own uncertainty in the spread of the forecast.
SLOPE_SHARE = 0.7
# Bounds of the calibrated quantile around the normal one: few past errors make it noisy. The floor is above
# the normal quantile since the peak is the highest of several correlated means.
CALIBRATION_FLOOR = 0.4
CALIBRATION_CAP = 1.6
# The mean of the highest of a few means, in standard deviations.
PEAK_EXCESS = 0.8
# The spread of a lower rate cannot be estimated from it.
LEAST_RATE_RPS = 0.2


@dataclass(frozen=True, slots=True)
class Seasonal(Rung):
    """Holt-Winters in its discounted least squares form (Brown 1963): level and slope, damped.

    The spread is Poisson noise and the slope's uncertainty, scaled by the quantile of this forecaster's past
    errors in the window. The point does not carry on the slope of a step: see CARRIED_RATIO.
    """

    name: str = "seasonal"
    max_gap_ratio: float = 0.2

    def min_history_s(self, horizon_s: float) -> float:
        """Eight half-lives for a trend, and two horizons for past errors."""
        return HALF_LIVES * _half_life_s(horizon_s) + 2 * horizon_s

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The highest of level + damped trend over the horizon, and its calibrated quantile."""
        ahead, rates = series.steps(horizon_s), series.rates_rps
        width = max(3, series.steps(HALF_LIVES * _half_life_s(horizon_s)))
        likely, centres, spreads = self._fits(series, ahead, width, _half_life_s(horizon_s) / series.step_s)
        futures = sliding_max(rates, ahead)[width:]
        errors = (futures - centres[: len(futures)]) / spreads[: len(futures)]
        known = counts - ahead - width + 1
        most = series.steps(memory_s(horizon_s)) - ahead - width + 1
        normal = NormalDist().inv_cdf(quantile)
        calibrated = np.clip(
            quantiles_of(errors, known, quantile, most), normal + CALIBRATION_FLOOR, normal + CALIBRATION_CAP
        )
        centre, spread = centres[counts - width], spreads[counts - width]
        points = likely[counts - width]
        points = points + PEAK_EXCESS * np.sqrt(points / series.smooth_s)
        recent = recent_max(rates, counts, series.steps(series.smooth_s))
        uppers = np.maximum(np.maximum(points, centre + calibrated * spread), recent)
        # The forecast of a load that was always zero is zero.
        is_idle = np.maximum.accumulate(rates)[counts - 1] == 0
        return np.where(is_idle, 0.0, points), np.where(is_idle, 0.0, uppers)

    def _fits(
        self, series: Series, ahead: int, width: int, half_life: float
    ) -> tuple[Floats, Floats, Floats]:
        """The likely peak after each window of `width` steps, that with the whole slope, and its spread."""
        rates = series.rates_rps
        windows = np.lib.stride_tricks.sliding_window_view(rates, width)
        level_weights, slope_weights = _weights(width, half_life)
        levels, slopes = windows @ level_weights, windows @ slope_weights
        damped = DAMPING_S * (1 - np.exp(-np.arange(ahead + 1) * series.step_s / DAMPING_S)) / series.step_s
        smooth = series.steps(series.smooth_s)
        most = CARRIED_RATIO * _trend_rises(rates, levels, width, smooth)
        growths = slopes[:, None] * damped
        likely, centres = (
            np.maximum((levels[:, None] + each).max(axis=1), 0.0)
            for each in (np.minimum(growths, most[:, None]), growths)
        )
        slope_noise = _slope_noise(width, half_life, smooth, series.step_s) * damped[-1]
        spreads = np.sqrt(
            np.maximum(centres, LEAST_RATE_RPS) / series.smooth_s
            + (SLOPE_SHARE * slope_noise) ** 2 * np.maximum(levels, LEAST_RATE_RPS)
        )
        return likely, centres, spreads


def _trend_rises(rates: Floats, levels: Floats, width: int, smooth: int) -> Floats:
    """The rise to each level from the least rate of its window, less the steepest rise in `smooth` steps.

    The window begins `smooth` steps before that of the level, so that it also holds a trend if means are
    longer than the level's window. Never below 0.
    """
    before = np.concatenate((np.full(smooth, rates[0]), rates))
    rises = np.concatenate((np.zeros(smooth), rates - before[: len(rates)]))
    lowest, steepest = -sliding_max(-before, width + smooth), sliding_max(rises, width + smooth)
    return np.maximum(levels - lowest - np.maximum(steepest, 0.0), 0.0)


@lru_cache(64)
def _weights(width: int, half_life: float) -> tuple[Floats, Floats]:
    """Weights whose products with a window give its discounted level at the end, and its slope a step."""
    times = np.arange(1.0 - width, 1.0)
    weights = 0.5 ** (-times / half_life)
    weights /= weights.sum()
    mean = float(weights @ times)
    slope: Floats = weights * (times - mean) / float(weights @ (times - mean) ** 2)
    level: Floats = weights - mean * slope
    return level, slope


@lru_cache(64)
def _slope_noise(width: int, half_life: float, smooth: int, step_s: float) -> float:
    """Standard deviation of the slope for Poisson arrivals at 1 rps, as means over `smooth` steps."""
    kernel = np.convolve(_weights(width, half_life)[1], np.full(smooth, 1 / smooth))
    return float(np.sqrt((kernel**2).sum() / step_s))


def _half_life_s(horizon_s: float) -> float:
    return max(HALF_LIFE_S, HALF_LIFE_RATIO * horizon_s)
