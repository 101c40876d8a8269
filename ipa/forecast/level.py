"""A rung that tells a change of the load from the chance in it: a bank of Kalman filters over its rates.

Requests that come at random make the counts of an even load scatter by the root of their number. So each
filter takes a rate for its level, with a slope that fades, plus that scatter, and differs from the others in
how fast level and slope may change. Their weights are their likelihoods, of which older ones are forgotten:
an even load is followed by the slow ones, whose forecast is narrow, and a rough one by the quick ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Ints, Rung, Series

# The bank: how much a level may change, as a share of it, in the root of a second, how much its slope may a
# second, and the first weights. A load is taken for an even one until it shows otherwise.
LEVEL_NOISE = np.array([0.003, 0.01, 0.03, 0.01, 0.03, 0.1, 0.1, 0.01, 0.01])
SLOPE_NOISE = np.array([0.0, 0.0, 0.0, 0.002, 0.01, 0.0, 0.03, 0.0, 0.0])
# The scatter of rates beyond that of chance, as a share of the level.
SCATTER = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.7])
PRIOR = np.log(np.array([4.0, 3.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.3, 0.2]) / 11.5)
# Likelihoods are forgotten with this time constant; slopes fade with the other.
FORGET_S, FADE_S = 30.0, 20.0
# The slopes' first deviation, a second, as a share of the level.
FIRST_SLOPE = 0.02
# A rate this many deviations away is a step. The mean in which it shows began before it, so the new level may
# lie above that mean, by three times the surprise.
SURPRISE, DOUBT_RATIO = 3.5, 3.0
# No rate says more against a filter than one this many deviations away.
FARTHEST = 6.25
# The scatter of a lower rate cannot be estimated from it.
LEAST_RPS = 0.3
# The mean and the deviation of the highest of a few means of an even load, in deviations of one.
PEAK_MEAN, PEAK_DEVIATION = 1.03, 0.7
# Rates further back weigh nothing.
MOST_STEPS = 120


@dataclass(frozen=True, slots=True)
class Level(Rung):
    """The highest mean of the horizon for the filters' levels, carried on by their slopes."""

    name: str = "level"
    max_gap_ratio: float = 0.5

    def min_history_s(self, horizon_s: float) -> float:
        """Half a minute, after which the weights say something."""
        return FORGET_S

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The mean of the highest rate of the horizon, and its quantile, after `counts` steps each.

        Both are the filters' own, weighted, as the ladder weights its rungs.
        """
        every, total = series.steps(series.smooth_s), len(series.rates_rps)
        places = np.arange(total - 1, -1, -every)[:MOST_STEPS][::-1]
        rows = np.maximum(np.searchsorted(places, counts - 1, side="right") - 1, 0)
        states = _filtered(series.rates_rps[places], every * series.step_s)
        level, slope, level_var, both_var, slope_var, weights = states[:, rows]
        scale = np.maximum(level, LEAST_RPS)
        normal, points, uppers = NormalDist().inv_cdf(quantile), [], []
        for ahead_s in (0.0, horizon_s):
            carried_s = FADE_S * (1 - exp(-ahead_s / FADE_S))
            mean = np.maximum(level + slope * carried_s, 0.0)
            variance = level_var + 2 * carried_s * both_var + carried_s**2 * slope_var
            variance += (LEVEL_NOISE * scale) ** 2 * ahead_s
            variance += (SLOPE_NOISE * scale * carried_s) ** 2 * ahead_s / 3
            scatter = np.sqrt(mean / series.smooth_s + (SCATTER * mean) ** 2)
            peaks = mean + PEAK_MEAN * scatter
            spreads = np.sqrt(variance + (PEAK_DEVIATION * scatter) ** 2)
            points.append((weights * peaks).sum(axis=1))
            uppers.append((weights * (peaks + normal * spreads)).sum(axis=1))
        point = np.maximum(*points)
        return point, np.maximum(point, np.maximum(*uppers))


def _filtered(rates: Floats, step_s: float) -> Floats:
    """The filters after each rate, means over `step_s`: level, slope, their three (co)variances, and weight.

    Of shape (6, rates, filters).
    """
    sloped, fade, forget = SLOPE_NOISE > 0, exp(-step_s / FADE_S), exp(-step_s / FORGET_S)
    first = max(float(rates[0]), LEAST_RPS)
    level, slope = np.full(len(PRIOR), rates[0]), np.zeros(len(PRIOR))
    level_var, both_var = np.full(len(PRIOR), first / step_s), np.zeros(len(PRIOR))
    slope_var, log_weight = np.where(sloped, (FIRST_SLOPE * first) ** 2, 0.0), PRIOR
    rows = [(level, slope, level_var, both_var, slope_var, log_weight)]
    for rate in rates[1:]:
        scale = np.maximum(level, LEAST_RPS)
        slope_noise = (SLOPE_NOISE * scale) ** 2
        level, slope = np.maximum(level + slope * step_s, 0.0), slope * fade
        level_var = level_var + 2 * step_s * both_var + step_s**2 * slope_var
        level_var = level_var + (LEVEL_NOISE * scale) ** 2 * step_s + slope_noise * step_s**3 / 3
        both_var = fade * (both_var + step_s * slope_var) + slope_noise * step_s**2 / 2
        slope_var = fade**2 * slope_var + slope_noise * step_s
        error, scale = rate - level, np.maximum(level, LEAST_RPS)
        expected = level_var + scale / step_s + (SCATTER * scale) ** 2
        surprise = error**2 / expected
        against = np.log(expected) + np.minimum(surprise, FARTHEST**2)
        log_weight = forget * log_weight + (1 - forget) * PRIOR - 0.5 * against
        is_step = surprise > SURPRISE**2
        stepped = np.where(is_step, error**2, 0.0)
        level_var, expected = level_var + stepped, expected + stepped
        level_gain, slope_gain = level_var / expected, both_var / expected
        level, slope = np.maximum(level + level_gain * error, 0.0), slope + slope_gain * error
        slope_var = slope_var - slope_gain * both_var
        both_var, level_var = (1 - level_gain) * both_var, (1 - level_gain) * level_var
        is_rise = is_step & (error > 0)
        level_var = np.where(is_rise, np.maximum(level_var, (DOUBT_RATIO * error) ** 2), level_var)
        rows.append((level, slope, level_var, both_var, slope_var, log_weight))
    states = np.array(rows).swapaxes(0, 1)
    weights = np.exp(states[5] - states[5].max(axis=1, keepdims=True))
    states[5] = weights / weights.sum(axis=1, keepdims=True)
    return states
