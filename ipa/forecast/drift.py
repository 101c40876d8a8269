"""Drift detection for trained models: their past forecasts against the load that followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipa.forecast.base import Floats, Forecaster, Series, sliding_max, trailing_mean
from ipa.forecast.quality import answers, pinball


@dataclass(frozen=True, slots=True)
class DriftRule:
    """Rule by which a rung steps down for being worse than the one below it, and returns.

    Evaluated every `every_s` over `look_back_s`; a loss is a mean over `mean_s`. The rung steps down when its
    loss was more than `enter_ratio` times the other's for `enter_s`, and returns when it was at most
    `leave_ratio` times that for `leave_s`. Two bounds and two times, so that noise moves it neither way.
    """

    every_s: float = 10.0
    look_back_s: float = 600.0
    mean_s: float = 180.0
    enter_ratio: float = 1.15
    leave_ratio: float = 1.0
    enter_s: float = 120.0
    leave_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift state of a rung: stepped down or not, and its loss over the next rung's (0: unknown)."""

    is_down: bool = False
    ratio: float = 0.0


RULE = DriftRule()


def history_s(back_s: float, horizon_s: float, rule: DriftRule = RULE) -> float:
    """Seconds of load needed to watch a rung with an input of `back_s` over the whole look-back."""
    return back_s + rule.look_back_s + horizon_s


def standing(own: Floats, below: Floats, rule: DriftRule = RULE) -> Drift:
    """The state of a rung after its losses and those of the rung below, arrays of one length, oldest first.

    The state is recomputed from the whole sequence, so nothing is kept between ticks and a restart loses
    nothing. NaN counts as worst.
    """
    width = round(rule.mean_s / rule.every_s)
    if len(own) < width:
        return Drift()
    worst = float(np.nanmax(np.concatenate((below, [1.0])))) * 2 * rule.enter_ratio
    clean = np.where(np.isfinite(own), own, worst)
    means, others = (trailing_mean(losses, width)[width - 1 :] for losses in (clean, below))
    # Two losses of zero are equal.
    ratios = np.divide(means, others, out=np.where(means > 0, np.inf, 1.0), where=others > 0)
    is_down, run = False, 0
    for ratio in ratios.tolist():
        is_against = ratio <= rule.leave_ratio if is_down else ratio > rule.enter_ratio
        run = run + 1 if is_against else 0
        if run * rule.every_s >= (rule.leave_s if is_down else rule.enter_s):
            is_down, run = not is_down, 0
    return Drift(is_down, float(ratios[-1]))


def watch(
    rung: Forecaster,
    below: Forecaster,
    series: Series,
    horizon_s: float,
    quantile: float,
    rule: DriftRule = RULE,
) -> Drift:
    """The rung's drift state against the one below, as if both had made forecasts over the look-back.

    The loss of a forecast is the sum of the pinball losses of its point (as a median) and its upper quantile.
    The rung below learns only from earlier load.
    """
    ahead, total = series.steps(horizon_s), len(series.rates_rps)
    needed = series.steps(max(rung.min_history_s(horizon_s), below.min_history_s(horizon_s)))
    first = max(needed, total - ahead - series.steps(rule.look_back_s))
    counts = np.arange(total - ahead, first - 1, -series.steps(rule.every_s), dtype=np.int64)[::-1]
    if len(counts) * rule.every_s < rule.mean_s:
        return Drift()
    peaks = sliding_max(series.rates_rps, ahead)[counts]
    rungs = (rung, below.fitted(series.until(int(counts[0])), horizon_s, quantile))
    losses = []
    for each in rungs:
        points, uppers = answers(each, series, counts, horizon_s, quantile)
        losses.append(pinball(peaks, points, 0.5) + pinball(peaks, uppers, quantile))
    return standing(losses[0], losses[1], rule)
