"""A rung that tells a change of the load from the chance in it: windows, weighted by what they foresaw.

Requests that come at random make the counts of an even load scatter by the root of their number, so the mean
of a long window is the best forecast of an even load, and that of a short one, or its trend, of a load that
changes. At any time one of the windows is right, and now and then another one. The weights are the
probabilities of each, given how likely the rates were by it (a hidden Markov model; in the words of experts,
Herbster & Warmuth, *Tracking the best expert*, 1998). How often each was taken up is learned too, so a load
that was even for long is taken for even again soon after a surprise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Ints, Rung, Series

# The windows, in means over `smooth_s`: first those whose mean is the forecast, then those with a trend; the
# scatter of their rates beyond that of chance, as a share of the level; and how often each is right at first.
LENGTHS = np.array([1, 2, 4, 8, 16, 32, 64, 120, 8, 32, 8, 32, 2, 3, 4, 6, 8, 12, 16, 32])
SHORTEST_TREND = 12
HAS_TREND = np.arange(len(LENGTHS)) >= SHORTEST_TREND
SCATTER = np.array([0.0] * 8 + [0.3, 0.3, 0.7, 0.7] + [0.0] * 8)
PRIOR = np.array([3, 3, 5, 10, 15, 20, 30, 40, *[1.5] * 8, *[3] * 4]) / 150
# Another window is right after a mean with this probability. What is known at first weighs as many changes.
HAZARD, PRIOR_CHANGES = 0.05, 6.0
# The probabilities that a mean shows a break with all that was before, and that the load has then settled at
# the last mean; else the last two are the beginning of a trend.
BREAK, SETTLED = 0.02, 0.7
# No mean says more against a window than one this many deviations away.
FARTHEST = 6.25
# Trends fade with this time constant.
FADE_S = 20.0
# The root of a count with this added has the same variance at any mean, 1/4 (Anscombe 1948).
ANSCOMBE = 0.375
# The scatter of a lower rate cannot be estimated from it.
LEAST_RPS = 0.3
# The mean and the deviation of the highest of twenty means over 5 s, one each second, of an even load, in
# deviations of one.
PEAK_MEAN, PEAK_DEVIATION = 1.53, 0.7


@dataclass(frozen=True, slots=True)
class Level(Rung):
    """The highest mean of the horizon for the windows' levels, carried on by their trends."""

    name: str = "level"
    max_gap_ratio: float = 0.5

    def min_history_s(self, horizon_s: float) -> float:
        """Half a minute, after which the weights say something."""
        return 30.0

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The mean of the highest rate of the horizon, and its quantile, after `counts` steps each.

        Both are the windows' own, weighted, as the ladder weights its rungs.
        """
        every, answers = series.steps(series.smooth_s), np.empty((2, len(counts)))
        for phase in np.unique(counts % every):
            asked = counts % every == phase
            ends = np.arange(phase or every, counts[asked].max() + 1, every)
            rows = np.searchsorted(ends, counts[asked])
            answers[:, asked] = _answers(series, ends, rows, horizon_s, quantile)
        return answers[0], answers[1]


def _answers(
    series: Series, ends: Ints, rows: Ints, horizon_s: float, quantile: float
) -> tuple[Floats, Floats]:
    """The points and quantiles after some of the means that end after `ends` steps, given by their `rows`."""
    means, step_s = series.rates_rps[ends - 1], series.steps(series.smooth_s) * series.step_s
    windows = _windows(means, step_s)
    weights = _weights(means, windows, step_s)[rows]
    windows = windows[:, rows]
    normal, points, uppers = NormalDist().inv_cdf(quantile), [], []
    for ahead_s in (0.0, horizon_s):
        trend_steps = FADE_S * (1 - exp(-ahead_s / FADE_S)) / step_s
        mean, variance = _carried(windows, trend_steps, ahead_s / step_s)
        scatter = np.sqrt(mean / series.smooth_s + (SCATTER * mean) ** 2)
        peaks = mean + PEAK_MEAN * scatter
        spreads = np.sqrt(variance + (PEAK_DEVIATION * scatter) ** 2)
        points.append((weights * peaks).sum(axis=1))
        uppers.append((weights * (peaks + normal * spreads)).sum(axis=1))
    point = np.maximum(*points)
    return point, np.maximum(point, np.maximum(*uppers))


def _windows(means: Floats, step_s: float) -> Floats:
    """The windows after each mean, by least squares: level, trend a step, their (co)variances, and drift.

    Of shape (6, means, windows). The drift is the variance of the level that a step adds: a window is as long
    as suits it.
    """
    ends = np.arange(len(means))
    sums = np.concatenate(([0.0], np.cumsum(means)))
    moments = np.concatenate(([0.0], np.cumsum(means * ends)))
    lengths = np.minimum(LENGTHS, ends[:, None] + 1)
    starts = ends[:, None] + 1 - lengths
    total = sums[ends + 1][:, None] - sums[starts]
    average, has_trend = total / lengths, HAS_TREND & (lengths > 1)
    squares = np.where(has_trend, lengths * (lengths**2 - 1) / 12, 1.0)
    tilted = moments[ends + 1][:, None] - moments[starts] - (ends[:, None] - (lengths - 1) / 2) * total
    trend = np.where(has_trend, tilted / squares, 0.0)
    level = np.maximum(average + trend * (lengths - 1) / 2, 0.0)
    noise = np.maximum(average, LEAST_RPS) / step_s + (SCATTER * average) ** 2
    trended = noise / (lengths * (lengths + 1))
    level_var = np.where(has_trend, trended * (4 * lengths - 2), noise / lengths)
    both_var = np.where(has_trend, trended * 6, 0.0)
    return np.stack(
        (level, trend, level_var, both_var, np.where(has_trend, noise / squares, 0.0), noise / lengths**2)
    )


def _carried(windows: Floats, trend_steps: float, steps: float) -> tuple[Floats, Floats]:
    """The level after some steps, of which the trend is carried on for `trend_steps`, and its variance."""
    level, trend, level_var, both_var, trend_var, drift = windows
    variance = level_var + 2 * trend_steps * both_var + trend_steps**2 * trend_var + steps * drift
    return np.maximum(level + trend_steps * trend, 0.0), variance


def _weights(means: Floats, windows: Floats, step_s: float) -> Floats:
    """The probability of each window after each mean, of shape (means, windows)."""
    expected, variance = _carried(windows[:, :-1], 1.0, 1.0)
    # Roots of counts scatter alike at any rate, and those of few counts no more upwards than downwards.
    expected = np.maximum(expected, LEAST_RPS)
    counts, thought = means[1:, None] * step_s + ANSCOMBE, expected * step_s + ANSCOMBE
    beyond = 1 + (variance + (SCATTER * expected) ** 2) * step_s / expected
    surprise = np.minimum(4 * (np.sqrt(counts) - np.sqrt(thought)) ** 2 / beyond, FARTHEST**2)
    # As densities of the rate.
    logs = -0.5 * (np.log(beyond * counts / step_s**2) + surprise)
    # After a break the rate may be anything of that order, and the last two means are all that is known.
    order = np.maximum(np.maximum(means[1:], means[:-1]), LEAST_RPS)
    anything = -np.log(order) - 0.5 * ((means[1:] - means[:-1]) / order) ** 2
    most = np.maximum(logs.max(axis=1), anything)
    likelihoods, breaks = np.exp(logs - most[:, None]), BREAK * np.exp(anything - most)
    weights, taken = PRIOR, PRIOR * PRIOR_CHANGES
    rows = [weights]
    for likelihood, broken in zip(likelihoods, breaks, strict=True):
        entering = HAZARD * taken / taken.sum()
        before = (1 - HAZARD) * weights + entering
        weights = before * likelihood
        taken = taken + weights * entering / before / (weights.sum() + broken)
        weights[SHORTEST_TREND] += broken
        settled = SETTLED * weights[SHORTEST_TREND]
        weights[0], weights[SHORTEST_TREND] = weights[0] + settled, weights[SHORTEST_TREND] - settled
        weights = weights / weights.sum()
        rows.append(weights)
    return np.array(rows)
