"""The forecaster protocol, and the prepared load that forecasters take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DomainError
from ipa.model.observation import LoadHistory

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# A plan must carry the rate over a few seconds, not each second's count: a queue absorbs the noise of single
# seconds, whose Poisson peak at 5 rps would be twice the rate.
SMOOTH_S = 5.0
# The percentile of the SLO for which the quantile is set; the least and the greatest that may follow.
SLO_PERCENTILE = 99.0
LEAST_QUANTILE, GREATEST_QUANTILE = 0.5, 0.999


def slo_quantile(quantile: float, percentile: float) -> float:
    """The quantile to forecast for an SLO of that percentile, if for one of 99 it is `quantile`.

    The share of peaks above it grows in proportion to the share of requests that may be late.
    """
    beyond = (1 - quantile) * (100 - percentile) / (100 - SLO_PERCENTILE)
    return min(max(1 - beyond, LEAST_QUANTILE), GREATEST_QUANTILE)


@dataclass(frozen=True, slots=True)
class Series:
    """A load without gaps, oldest first: trailing means over `smooth_s`, one every `step_s`.

    `gap_ratio` is the share of steps since the first rate that were missing and filled in. `seen` tells for
    each step if it was observed; None if all were.
    """

    step_s: float
    rates_rps: Floats
    smooth_s: float
    gap_ratio: float = 0.0
    seen: Flags | None = None

    @property
    def length_s(self) -> float:
        """Length of the series, in seconds."""
        return len(self.rates_rps) * self.step_s

    def steps(self, seconds: float) -> int:
        """The duration in steps, at least one."""
        return max(1, round(seconds / self.step_s))

    def between(self, first: int, last: int) -> Series:
        """The steps from `first` to before `last`, counted from the oldest."""
        rates = self.rates_rps[first:last]
        observed = None if self.seen is None else self.seen[first:last]
        return Series(self.step_s, rates, self.smooth_s, self.gap_ratio, observed)

    def whole(self, ends: Ints, back: int, ahead: int) -> Ints:
        """Elements of `ends` with `back` observed steps before them and `ahead` after them."""
        ends = ends[(ends >= back) & (ends + ahead <= len(self.rates_rps))]
        if self.seen is None:
            return ends
        gaps = np.concatenate(([0], np.cumsum(~self.seen)))
        return np.asarray(ends[gaps[ends + ahead] == gaps[ends - back]])

    def noise_rps(self, rate_rps: float) -> float:
        """Standard deviation of a mean over `smooth_s` of Poisson arrivals at that rate."""
        return math.sqrt(max(rate_rps, 0.0) / self.smooth_s)


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest rate over a horizon: a point and an upper quantile."""

    point_rps: float
    upper_rps: float


class Forecaster(Protocol):
    """One rung of the ladder. Pure: the same series gives the same peak.

    It may have more methods, which are found by `hasattr`. `objection(series, horizon_s, quantile)` is the
    reason why it does not answer for this load, empty if it does. `peaks(series, counts, horizon_s,
    quantile)` are the points and the upper quantiles after each of `counts` steps, two arrays of one length.
    `replay` has the same arguments, of a rung that uses the whole series and is to see those steps alone.
    """

    @property
    def name(self) -> str:
        """Name of the rung in a forecast."""

    @property
    def max_gap_ratio(self) -> float:
        """The largest share of gaps in the load with which the forecaster can be trusted."""

    def min_history_s(self, horizon_s: float) -> float:
        """Seconds of load that it needs to answer."""

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return a forecaster fitted to the series; itself if it learns nothing."""

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The peak over the next `horizon_s`, from at least `min_history_s` of load."""


class Rung:
    """A rung that defines `replay`, or learns and defines `fitted` and `peaks`."""

    __slots__ = ()

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Itself, since it learns nothing."""
        return self

    def peak(self: Forecaster, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The peak after all steps of the series; NaN if the rung was fitted for another question."""
        fitted = self.fitted(series, horizon_s, quantile)
        points, uppers = answers(fitted, series, np.array([len(series.rates_rps)]), horizon_s, quantile)
        return Peak(float(points[0]), float(uppers[0]))


def answers(
    rung: Forecaster,
    series: Series,
    moments: Ints,
    horizon_s: float,
    quantile: float,
    window: int | None = None,
) -> tuple[Floats, Floats]:
    """Points and upper quantiles of the rung after each of `moments` steps, two arrays of that length.

    It sees the last `window` steps before a moment, or all of them.
    """
    name = "peaks" if hasattr(rung, "peaks") else "replay"
    if name == "peaks" or (window is None and hasattr(rung, name)):
        points, uppers = getattr(rung, name)(series, moments, horizon_s, quantile)
        return points, uppers
    firsts = moments * 0 if window is None else moments - window
    given = [
        rung.peak(series.between(first, moment), horizon_s, quantile)
        for first, moment in zip(firsts.tolist(), moments.tolist(), strict=True)
    ]
    return np.array([each.point_rps for each in given]), np.array([each.upper_rps for each in given])


def prepare(load: LoadHistory, smooth_s: float = SMOOTH_S) -> Series:
    """Return the load as a series: gaps filled in linearly, smoothed to means over `smooth_s`.

    Rates that are not finite or negative count as gaps. Gaps before the first rate are dropped (the load was
    not yet observed), those after the last repeat it. Rates that are means over `averaged_s` already are
    smoothed only up to `smooth_s`. DomainError if there is no rate.
    """
    raw = np.array([math.nan if rate is None else rate for rate in load.rates_rps], dtype=np.float64)
    observed = np.isfinite(raw) & (raw >= 0)
    if not observed.any():
        raise DomainError("the load history has no rate", hint="Hold until the load is observed.")
    raw, observed = raw[int(np.argmax(observed)) :], observed[int(np.argmax(observed)) :]
    where = np.arange(len(raw))
    filled = np.interp(where, where[observed], raw[observed])
    already_s = max(load.averaged_s, load.step_s)
    width = 1 + max(0, round((smooth_s - already_s) / load.step_s))
    return Series(
        step_s=load.step_s,
        rates_rps=trailing_mean(filled, width),
        smooth_s=max(smooth_s, already_s),
        gap_ratio=float(1 - observed.mean()),
        seen=None if observed.all() else observed,
    )


def trailing_mean(rates: Floats, width: int) -> Floats:
    """The mean of each value and the `width`-1 values before it, of fewer at the start."""
    sums = np.concatenate(([0.0], np.cumsum(rates)))
    ends = np.arange(1, len(rates) + 1)
    starts = np.maximum(0, ends - width)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return np.maximum(means, 0.0)


def conformal(missed: Floats, quantile: float) -> float:
    """The least value that covers the quantile's share of held-out errors; 0 if there are none.

    Split conformal calibration (Romano et al. 2019).
    """
    if not len(missed):
        return 0.0
    rank = min(1.0, math.ceil((len(missed) + 1) * quantile) / len(missed))
    return float(np.quantile(missed, rank, method="higher"))


def sliding_max(rates: Floats, width: int) -> Floats:
    """The maximum of every run of `width` values; of all values if there are fewer."""
    maxima, known, width = rates, min(1, len(rates)), min(width, len(rates))
    # Combine two runs that overlap or touch: a few passes, while windows would take many.
    while known < width:
        step = min(known, width - known)
        maxima, known = np.maximum(maxima[:-step], maxima[step:]), known + step
    return maxima
