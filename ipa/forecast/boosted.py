"""The boosted rung: quantiles of the peak by gradient boosting on minutes of load and the time of day.

Trained rarely, on a trace of hours or days; its upper quantile is calibrated on held-out days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ipa.forecast.base import Floats, Ints, Peak, Series, conformal, sliding_max
from ipa.forecast.features import (
    BACK_S,
    DAY_S,
    FEWEST_DAYS,
    HOUR_S,
    LEAST_RATIO,
    DayProfile,
    day_slots,
    days_of,
    features,
    levels,
    steps_a_day,
)
from ipa.forecast.forest import Forest, TreeGrowth
from ipa.model.errors import DomainError

# One window every adaptation interval of IPA: closer ones are nearly the same.
STRIDE_S = 10.0
# With fewer windows it is worse than the linear rung.
MIN_WINDOWS = 1000
# Spread over the trace; a fortnight has this many.
MAX_WINDOWS = 120_000
# The newest part of the trace calibrates the upper quantile: a day, but never more than a fifth.
CALIBRATION_RATIO = 0.2
# Half of the input window: there would be no longer peaks to compare with.
LONGEST_S = BACK_S / 2
GROWTH = TreeGrowth()


@dataclass(frozen=True, slots=True)
class BoostedModel:
    """A trained model: trees of the log of peak over level, for median and quantile, and a day profile.

    `shift` is added to the upper quantile's log: split conformal calibration (Romano et al. 2019).
    """

    horizon_s: float
    quantile: float
    step_s: float
    smooth_s: float
    shift: float
    point: Forest
    upper: Forest
    profile: DayProfile | None


@dataclass(frozen=True, slots=True)
class Boosted:
    """Gradient boosted quantiles of the peak relative to the level, over ten minutes and the time of day.

    Without a model it trains one on the series; that takes seconds to a minute, so the service gives it one.
    If the model has a day profile, the load must have a time of day.
    """

    model: BoostedModel | None = None
    growth: TreeGrowth = GROWTH
    name: str = "boosted"
    max_gap_ratio: float = 0.1

    def min_history_s(self, horizon_s: float) -> float:
        """Ten minutes; to train, MIN_WINDOWS more windows."""
        return BACK_S if self.model else BACK_S + horizon_s + MIN_WINDOWS * STRIDE_S

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return one with a model for this horizon and quantile; itself if it has one. Errors: as `learn`."""
        if self.model is not None:
            return self
        return replace(self, model=learn(series, horizon_s, quantile, self.growth))

    def objection(self, series: Series, horizon_s: float, quantile: float) -> str:
        """The reason why the model does not fit the question or the load; empty if it does."""
        model = self.model
        if model is None:
            return ""
        asked = (horizon_s, quantile, series.step_s, series.smooth_s)
        if asked != (model.horizon_s, model.quantile, model.step_s, model.smooth_s):
            return (
                f"learned for {model.horizon_s:g} s, quantile {model.quantile:g}, means over "
                f"{model.smooth_s:g} s every {model.step_s:g} s"
            )
        if model.profile is not None and series.end_s is None:
            return "the time of day is not known"
        return ""

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The median and the calibrated quantile of the peak; NaN if there is an objection."""
        fitted = self.fitted(series, horizon_s, quantile)
        points, uppers = fitted.peaks(series, np.array([len(series.rates_rps)]), horizon_s, quantile)
        return Peak(float(points[0]), float(uppers[0]))

    def peaks(self, series: Series, counts: Ints, horizon_s: float, quantile: float) -> tuple[Floats, Floats]:
        """The same after each of `counts` steps."""
        model = self.model
        if model is None or self.objection(series, horizon_s, quantile):
            # A wrong question must not get an answer: NaN makes the ladder step down.
            return np.full(len(counts), math.nan), np.full(len(counts), math.nan)
        day = np.zeros(len(counts)) if model.profile is None else model.profile.at(day_slots(series, counts))
        rows, scales = features(series, counts, series.steps(horizon_s), day)
        points, uppers = (
            np.maximum(scales * (np.exp(logs) - LEAST_RATIO), 0.0)
            for logs in (model.point.predict(rows), model.upper.predict(rows) + model.shift)
        )
        return points, np.maximum(points, uppers)


def learn(series: Series, horizon_s: float, quantile: float, growth: TreeGrowth = GROWTH) -> BoostedModel:
    """Train a model on a load: the point on all of it, the upper quantile on all but the newest part.

    That part calibrates the quantile. Windows with gaps are left out; DomainError if that leaves fewer than
    MIN_WINDOWS, or if the horizon exceeds a share of the input window.
    """
    if horizon_s > LONGEST_S:
        raise DomainError(f"the horizon of {horizon_s:g} s is beyond {LONGEST_S:g} s")
    ahead, back = series.steps(horizon_s), series.steps(BACK_S)
    ends = series.whole(np.arange(back, len(series.rates_rps) - ahead + 1), back, ahead)
    targets = np.log(sliding_max(series.rates_rps, ahead)[ends] / levels(series, ends) + LEAST_RATIO)
    slots = day_slots(series, ends)
    chosen = np.arange(0, len(ends), series.steps(STRIDE_S))
    if len(chosen) > MAX_WINDOWS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_WINDOWS).round().astype(int)]
    if len(chosen) < MIN_WINDOWS:
        raise DomainError(
            f"{len(chosen)} windows of {BACK_S:g} s without gaps to learn from; it needs {MIN_WINDOWS}",
            hint=f"Give a trace of at least {(BACK_S + MIN_WINDOWS * STRIDE_S) / HOUR_S:.1f} h.",
        )
    profile, day = None, np.zeros(len(chosen))
    if days_of(series, ends) >= FEWEST_DAYS:
        profile = DayProfile.of(slots, targets, steps_a_day(series))
        day = profile.without(slots[chosen], targets[chosen], np.ones(len(chosen)))
    rows, _ = features(series, ends[chosen], ahead, day)
    wanted = targets[chosen]
    newest = min(series.steps(DAY_S), round(CALIBRATION_RATIO * len(series.rates_rps)))
    grown_on = ends[chosen] + ahead <= len(series.rates_rps) - newest
    upper = Forest.grown(rows[grown_on], wanted[grown_on], quantile, growth)
    missed = wanted[~grown_on] - upper.predict(rows[~grown_on])
    point = Forest.grown(rows, wanted, 0.5, growth)
    shift = conformal(missed, quantile)
    return BoostedModel(horizon_s, quantile, series.step_s, series.smooth_s, shift, point, upper, profile)
