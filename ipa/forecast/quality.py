"""Forecast errors: the usual measures, and a rung against the last maximum on the recent past."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipa.forecast.base import (
    Floats,
    Forecaster,
    Ints,
    Peak,
    Series,
    is_batched,
    is_replaying,
    sliding_max,
)
from ipa.forecast.reactive import WindowMaximum

# Look back a minute, every five seconds (a tick): recent errors predict the next one best.
LOOK_BACK_S = 60.0
EVERY_S = 5.0
# Fewer forecasts prove nothing.
FEWEST = 6
# The last maximum is never wrong under constant load: errors below these shares of the load do not count.
LEAST_ERROR_RATIO = 0.1
LEAST_LOSS_RATIO = 0.02


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fitted rung, and its error over that of the last maximum (0 if unknown).

    `peak` is its current forecast, if it was asked together with its past; else None.
    """

    rung: Forecaster
    worst_ratio: float
    peak: Peak | None = None


def compare(rung: Forecaster, series: Series, horizon_s: float, quantile: float) -> Comparison:
    """Compare the rung with the last maximum over the last minute, fitted only on earlier load.

    The ratio is the larger of those of the mean error of the point and of the loss of the upper quantile.
    """
    ahead, total = series.steps(horizon_s), len(series.rates_rps)
    first = total - min(series.steps(LOOK_BACK_S), total // 2)
    counts = np.arange(first, total - ahead + 1, series.steps(EVERY_S))
    if len(counts) < FEWEST or first * series.step_s < rung.min_history_s(horizon_s):
        return Comparison(rung.fitted(series, horizon_s, quantile), 0.0)
    fitted = rung.fitted(series.until(first), horizon_s, quantile)
    peaks = sliding_max(series.rates_rps, ahead)[counts]
    # The present is one more moment.
    points, uppers = answers(fitted, series, np.append(counts, total), horizon_s, quantile)
    peak = Peak(float(points[-1]), float(uppers[-1]))
    own = _errors_rps(peaks, points[:-1], uppers[:-1], quantile)
    if not np.isfinite(own).all():
        return Comparison(fitted, 0.0, peak)
    repeated = answers(WindowMaximum(), series, counts, horizon_s, quantile)
    baseline = _errors_rps(peaks, *repeated, quantile)
    scale_rps = float(peaks.mean()) or 1.0
    worst_ratio = max(
        own[0] / max(baseline[0], LEAST_ERROR_RATIO * scale_rps),
        own[1] / max(baseline[1], LEAST_LOSS_RATIO * scale_rps),
    )
    return Comparison(fitted, worst_ratio, peak)


def _errors_rps(peaks: Floats, points: Floats, uppers: Floats, quantile: float) -> tuple[float, float]:
    """The mean error of the points, and the mean loss of the upper quantiles."""
    return float(np.abs(points - peaks).mean()), float(pinball(peaks, uppers, quantile).mean())


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
