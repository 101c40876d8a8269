"""A mixture of rungs, weighted by how good each was lately at the quantile that is planned for.

The weights are those of exponentially weighted experts: after each past forecast the weight of a rung falls
by e^(−rate · pinball loss), losses in units of the load. The pinball loss is convex, so the mixture's is at
most the rungs' mean loss by the weights, and never far above that of the rung which is best in hindsight
(Cesa-Bianchi & Lugosi 2006, chapter 2). A slow rate is best for loads that repeat, a quick one for loads that
change: both are followed, and weighted in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from ipa.forecast.base import Floats, Forecaster, Ints, Peak, Series, answers, sliding_max
from ipa.forecast.quality import pinball

# Past forecasts are judged every five seconds. Over less time than this weights say little, and over more
# they say little about now.
EVERY_S, JUDGED_S = 5.0, 600.0
# Rates of learning with their first weights, and the rate at which those learn; losses are in units of a
# twentieth of the mean peak. Chosen on 14 loads (`python -m experiments.rungs`).
RATES, RATE_WEIGHTS, RATE_OF_RATES = (0.02, 0.3), (0.7, 0.3), 0.05
LOSS_UNIT_RATIO = 0.05
# The first weights, relative to that of a rung which knows the recent load alone. A trained model knows more;
# the last rung is there for loads on which no other can answer.
TRAINED_SHARE, LAST_SHARE = 10.0, 0.1


@dataclass(frozen=True, slots=True)
class Past:
    """The moments at which rungs are judged: steps from the series' beginning, and the peaks after them.

    At a moment, only the peaks of moments at least `lag` earlier are known.
    """

    counts: Ints
    peaks: Floats
    lag: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A rung's present answer, and those at the past moments; NaN if it could not answer."""

    rung: str
    peak: Peak
    points: Floats
    uppers: Floats
    is_trained: bool = False


def past_of(series: Series, horizon_s: float) -> Past:
    """The moments, every EVERY_S, whose horizon has ended."""
    ahead, total, every = series.steps(horizon_s), len(series.rates_rps), series.steps(EVERY_S)
    counts = np.arange(total - ahead, 0, -every)[::-1]
    return Past(counts, sliding_max(series.rates_rps, ahead)[counts], ceil(ahead / every))


def judged(rung: Forecaster, series: Series, past: Past, horizon_s: float, quantile: float) -> Judged:
    """The rung's answers, now and in the past. One that learns is judged on the half it was not fitted to.

    Errors: those of the rung.
    """
    total = len(series.rates_rps)
    learned = rung.fitted(series.between(0, total // 2), horizon_s, quantile)
    least = max(series.steps(rung.min_history_s(horizon_s)), 0 if learned is rung else total // 2)
    known = past.counts >= least
    points, uppers = answers(learned, series, np.append(past.counts[known], total), horizon_s, quantile)
    past_points, past_uppers = np.full((2, len(past.counts)), np.nan)
    past_points[known], past_uppers[known] = points[:-1], uppers[:-1]
    is_trained = learned is rung and hasattr(rung, "peaks")
    peak = Peak(float(points[-1]), float(uppers[-1]))
    return Judged(rung.name, peak, past_points, past_uppers, is_trained)


def weights_of(rungs: Sequence[Judged], past: Past, quantile: float) -> list[float]:
    """The weight of each rung; their sum is 1. The last is trusted least, and a trained model most.

    Where a rung could not answer, it counts as good as the best of the others.
    """
    prior = np.array([TRAINED_SHARE if each.is_trained else 1.0 for each in rungs[:-1]] + [LAST_SHARE])
    uppers = np.array([each.uppers for each in rungs])
    moments = np.isfinite(uppers).any(axis=0)
    uppers, peaks = uppers[:, moments], past.peaks[moments]
    answered = np.isfinite(uppers)
    if not moments.any():
        return list((prior / prior.sum()).tolist())
    scale = max(float(peaks.mean()) * LOSS_UNIT_RATIO, 1e-9)
    losses = np.where(answered, pinball(peaks, np.where(answered, uppers, 0.0), quantile), np.inf) / scale
    losses = np.where(answered, losses, losses.min(axis=0))
    # Before each moment and after the last: the losses that were known by then.
    total = np.cumsum(np.pad(losses, ((0, 0), (1, 0))), axis=1)
    known = total[:, np.maximum(np.arange(len(peaks)) - past.lag, 0)]
    weights, missed = [], []
    for rate in RATES:
        weights.append(_exponential(prior, rate * total[:, -1]))
        then = _exponential(prior[:, None], rate * known) * answered
        mixed = (then * np.where(answered, uppers, 0.0)).sum(axis=0) / then.sum(axis=0)
        missed.append(pinball(peaks, mixed, quantile).sum() / scale)
    shares = _exponential(np.array(RATE_WEIGHTS), RATE_OF_RATES * np.array(missed))
    return list((shares @ np.array(weights)).tolist())


def _exponential(prior: Floats, losses: Floats) -> Floats:
    """The weights after those losses, by column."""
    logs = np.log(prior) - losses
    weights: Floats = np.exp(logs - logs.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0))
