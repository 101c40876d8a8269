"""Forecast errors: the usual measures, and the answers of a rung in the past."""

from __future__ import annotations

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
