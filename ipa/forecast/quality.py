"""Forecast errors: the usual measures, of the past answers of a rung and of the forecasts planned with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa.forecast.base import (
    Floats,
    Forecaster,
    Ints,
    Series,
    is_batched,
    is_replaying,
)


@dataclass(frozen=True, slots=True)
class ForecastScore:
    """Measures over many forecasts. Ratios: 0 is perfect for `smape_ratio`, 1 for `upper_ratio`.

    `coverage_ratio` is the share of peaks at or below the upper quantile; `upper_ratio` the mean of upper
    quantile over peak, the price of the coverage. `fit_s` is the training time, `predict_ms` that of one
    answer, if measured.
    """

    count: int
    mae_rps: float
    smape_ratio: float
    coverage_ratio: float
    pinball_rps: float
    upper_ratio: float
    fit_s: float = 0.0
    predict_ms: float = 0.0


def score(peaks: Floats, points: Floats, uppers: Floats, quantile: float) -> ForecastScore:
    """The measures of forecasts `points` and `uppers` against the true `peaks`, arrays of one length.

    SMAPE is the mean of 2|f−a|/(f+a) (0 if both are 0); pinball loss is that of Koenker & Bassett 1978.
    """
    errors = np.abs(points - peaks)
    sums = points + peaks
    smape = np.divide(2 * errors, sums, out=np.zeros_like(errors), where=sums > 0)
    busy = peaks > 0
    return ForecastScore(
        count=len(peaks),
        mae_rps=float(errors.mean()),
        smape_ratio=float(smape.mean()),
        coverage_ratio=float((uppers >= peaks).mean()),
        pinball_rps=float(pinball(peaks, uppers, quantile).mean()),
        upper_ratio=float((uppers[busy] / peaks[busy]).mean()) if busy.any() else 1.0,
    )


def pinball(peaks: Floats, forecasts: Floats, quantile: float) -> Floats:
    """The pinball loss of each forecast of that quantile of `peaks`."""
    short = peaks - forecasts
    return np.maximum(quantile * short, (quantile - 1) * short)


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
    if is_batched(rung):
        return rung.peaks(series, moments, horizon_s, quantile)
    if window is None and is_replaying(rung):
        return rung.replay(series, moments, horizon_s, quantile)
    firsts = moments * 0 if window is None else moments - window
    given = [
        rung.peak(series.between(first, moment), horizon_s, quantile)
        for first, moment in zip(firsts.tolist(), moments.tolist(), strict=True)
    ]
    return np.array([each.point_rps for each in given]), np.array([each.upper_rps for each in given])


@dataclass(frozen=True, slots=True)
class ForecastTick:
    """The observed rate and the forecast of a tick, at a time in seconds; None is unknown."""

    at_s: float
    rate_rps: float | None
    point_rps: float | None
    upper_rps: float | None


@dataclass(frozen=True, slots=True)
class Monitor:
    """Accuracy of past forecasts against the highest rate observed within their horizon.

    `covered_ratio` is the share whose upper quantile was not exceeded: about the quantile if the band is
    honest. `error_ratio` is Σ|point − peak| / Σ peak, `bias_ratio` the same with its sign: above 0 for
    forecasts above the load. Peaks are those that ticks observed, so a shorter one between two ticks is not
    counted.
    """

    forecasts: int
    covered_ratio: float
    error_ratio: float
    bias_ratio: float


def monitor(ticks: Sequence[ForecastTick], horizon_s: float) -> Monitor | None:
    """The accuracy over ticks in the order of time; None before the first horizon is over."""
    seen = [(tick.at_s, tick.rate_rps) for tick in ticks if tick.rate_rps is not None]
    times_s = [at_s for at_s, _ in seen]
    count = covered = 0
    peaks = errors = biases = 0.0
    for tick in ticks:
        if tick.point_rps is None or tick.upper_rps is None or tick.at_s + horizon_s > ticks[-1].at_s:
            continue
        after, until = (bisect_right(times_s, at_s) for at_s in (tick.at_s, tick.at_s + horizon_s))
        if after == until:
            continue
        peak = max(rate for _, rate in seen[after:until])
        count += 1
        covered += peak <= tick.upper_rps
        peaks += peak
        errors += abs(tick.point_rps - peak)
        biases += tick.point_rps - peak
    if not count or peaks <= 0:
        return None
    return Monitor(count, covered / count, errors / peaks, biases / peaks)
