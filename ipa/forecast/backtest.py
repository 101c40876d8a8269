"""Backtests of forecasters on a recorded load: each rung's forecasts against the later peaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ipa.forecast.base import SMOOTH_S, Floats, Forecaster, Ints, Series, prepare, sliding_max
from ipa.forecast.quality import ForecastScore, answers, score
from ipa.model.errors import DomainError, InputError
from ipa.model.observation import LoadHistory

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
        first, last = (max(0, at - lost) for at in self._steps(series, self.train_s, len(load.rates_rps)))
        train = series.between(first, last)
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
        moments = self._moments(series, lost, max(windows.values()))
        ahead = series.steps(self.horizon_s)
        peaks = sliding_max(series.rates_rps, ahead)[moments]
        scores = {}
        for name, (own, fit_s) in fitted.items():
            asked = _Asked(own, series, self.horizon_s, self.quantile, windows[name])
            points, uppers = answers(own, series, moments, self.horizon_s, self.quantile, windows[name])
            measured = score(peaks, points, uppers, self.quantile)
            scores[name] = replace(measured, fit_s=fit_s, predict_ms=asked.mean_ms(moments, clock_s))
        return scores

    def _steps(self, series: Series, span: Span | None, total: int) -> tuple[int, int]:
        """The first step of the span and the one after its last; without a span, of the training share."""
        if span is None:
            return 0, round(total * self.train_ratio)
        first, last = (round(at_s / series.step_s) for at_s in span)
        return first, last

    def _moments(self, series: Series, lost: int, width: int) -> Ints:
        """The steps after which a forecast is made."""
        total, ahead = len(series.rates_rps), series.steps(self.horizon_s)
        first, last = width, total - ahead
        if self.test_s is not None:
            begin, end = self._steps(series, self.test_s, total)
            first, last = max(first, begin - lost), min(last, end - lost - ahead)
        else:
            first = max(first, self._steps(series, None, total)[1])
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A rung that is asked for one moment at a time, as a service asks it."""

    rung: Forecaster
    series: Series
    horizon_s: float
    quantile: float
    window: int

    def mean_ms(self, moments: Ints, clock_s: Callable[[], float]) -> float:
        """Mean milliseconds of an answer."""
        picked = moments[:: max(1, len(moments) // TIMED)]
        for moment in picked[:WARM_UP]:
            self._ask(moment)
        start_s = clock_s()
        for moment in picked:
            self._ask(moment)
        return 1000 * (clock_s() - start_s) / len(picked)

    def _ask(self, moment: int) -> None:
        self.rung.peak(self.series.between(moment - self.window, moment), self.horizon_s, self.quantile)
