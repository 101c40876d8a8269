"""Forecast errors: the usual measures, the past answers of a rung, and backtests on a recorded load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ipa.forecast.base import (
    SMOOTH_S,
    Floats,
    Forecaster,
    Ints,
    Series,
    answers,
    prepare,
    sliding_max,
)
from ipa.model.errors import DomainError, InputError
from ipa.model.observation import LoadHistory


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


# Enough single answers to measure the time of one.
TIMED = 200
# The first ones fill caches.
WARM_UP = 5

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Backtest:
    """The replay of a load: history length, horizon, number of forecasts, and the training span.

    `forecasts` moments are spread evenly over `test_s`, seconds (from, until) of the load; without it over
    the rest after the first `train_ratio`. Rungs learn from `train_s`; without it from that first share.
    """

    window_s: float = 120.0
    horizon_s: float = 20.0
    quantile: float = 0.95
    forecasts: int = 2000
    train_ratio: float = 0.7
    smooth_s: float = SMOOTH_S
    train_s: Span | None = None
    test_s: Span | None = None

    def run(
        self, load: LoadHistory, rungs: Sequence[Forecaster], clock_s: Callable[[], float] = lambda: 0.0
    ) -> dict[str, ForecastScore]:
        """The score of each rung by name, all over the same moments; InputError if the load is too short.

        Moments with a gap in window or horizon, and rungs with too little to learn from, are left out. A rung
        sees `window_s`, or more if it needs more. `clock_s` times fit and answers.
        """
        series = prepare(load, self.smooth_s)
        # prepare drops the gaps before the first rate.
        lost = len(load.rates_rps) - len(series.rates_rps)
        end_s = len(load.rates_rps) * series.step_s
        split_s = self.train_ratio * end_s

        def steps(span: Span) -> list[int]:
            return [max(0, round(at_s / series.step_s) - lost) for at_s in span]

        train = series.between(*steps(self.train_s or (0.0, split_s)))
        begin, end = steps(self.test_s or (split_s, end_s))
        fitted: dict[str, tuple[Forecaster, float]] = {}
        for rung in rungs:
            start_s = clock_s()
            try:
                own = rung.fitted(train, self.horizon_s, self.quantile)
            except DomainError:
                continue
            fitted[rung.name] = own, clock_s() - start_s
        if not fitted:
            return {}
        windows = {
            name: series.steps(max(self.window_s, own.min_history_s(self.horizon_s)))
            for name, (own, _) in fitted.items()
        }
        moments = self._moments(series, begin, end, max(windows.values()))
        ahead = series.steps(self.horizon_s)
        peaks = sliding_max(series.rates_rps, ahead)[moments]
        scores = {}
        for name, (own, fit_s) in fitted.items():
            window = windows[name]

            def ask(moment: int, own: Forecaster = own, window: int = window) -> object:
                return own.peak(series.between(moment - window, moment), self.horizon_s, self.quantile)

            points, uppers = answers(own, series, moments, self.horizon_s, self.quantile, window)
            measured = score(peaks, points, uppers, self.quantile)
            scores[name] = replace(measured, fit_s=fit_s, predict_ms=_mean_ms(ask, moments, clock_s))
        return scores

    def _moments(self, series: Series, begin: int, end: int, width: int) -> Ints:
        """The steps of the tested span after which a forecast is made."""
        ahead = series.steps(self.horizon_s)
        first, last = max(width, begin), min(len(series.rates_rps), end) - ahead
        most = min(self.forecasts, last - first + 1)
        spread: Floats = np.linspace(first, last, most) if last >= first else np.array([])
        moments = series.whole(np.unique(np.round(spread)).astype(np.int64), width, ahead)
        if not len(moments):
            raise InputError(
                f"a load of {series.length_s:g} s has no moment with a whole window of {self.window_s:g} s "
                f"before it and {self.horizon_s:g} s after it to forecast",
                hint="Give a longer trace, a shorter window or a smaller share to learn from.",
            )
        return moments


def _mean_ms(ask: Callable[[int], object], moments: Ints, clock_s: Callable[[], float]) -> float:
    """Mean milliseconds of an answer, each asked for one moment, as a service asks."""
    picked = moments[:: max(1, len(moments) // TIMED)]
    for moment in picked[:WARM_UP]:
        ask(moment)
    start_s = clock_s()
    for moment in picked:
        ask(moment)
    return 1000 * (clock_s() - start_s) / len(picked)
