"""Every rung on a recorded load: what it would have said, and what then came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa.forecast.base import SMOOTH_S, Floats, Forecaster, Peak, Series, prepare
from ipa.forecast.quality import Score, score
from ipa.model.errors import InputError
from ipa.model.observation import LoadHistory


@dataclass(frozen=True, slots=True)
class Backtest:
    """How a load is replayed: what a forecaster sees and is asked, how often, and what it learns from.

    `forecasts` moments are spread evenly over what follows the first `train_ratio` of the load.
    """

    window_s: float = 120.0
    horizon_s: float = 20.0
    quantile: float = 0.95
    forecasts: int = 2000
    train_ratio: float = 0.7
    smooth_s: float = SMOOTH_S

    def run(self, load: LoadHistory, rungs: Sequence[Forecaster]) -> dict[str, Score]:
        """The score of each rung by name, all over the same moments; InputError where the load is too short.

        Moments whose window or horizon has a gap are left out.
        """
        series = prepare(load, self.smooth_s)
        # prepare leaves out the gaps before the first rate.
        gaps = np.array([rate is None for rate in load.rates_rps[-len(series.rates_rps) :]])
        moments = self._moments(series, gaps)
        ahead = series.steps(self.horizon_s)
        peaks = np.array([series.rates_rps[moment : moment + ahead].max() for moment in moments])
        train = series.until(round(len(series.rates_rps) * self.train_ratio))
        scores = {}
        for rung in rungs:
            fitted = rung.fitted(train, self.horizon_s, self.quantile)
            answers = [self._answer(fitted, series, moment) for moment in moments]
            points = np.array([answer.point_rps for answer in answers])
            uppers = np.array([answer.upper_rps for answer in answers])
            scores[rung.name] = score(peaks, points, uppers, self.quantile)
        return scores

    def _answer(self, rung: Forecaster, series: Series, moment: int) -> Peak:
        window = series.rates_rps[moment - series.steps(self.window_s) : moment]
        seen = Series(series.step_s, window, series.smooth_s)
        return rung.peak(seen, self.horizon_s, self.quantile)

    def _moments(self, series: Series, gaps: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[int]:
        """The steps after which a forecast is made."""
        width, ahead = series.steps(self.window_s), series.steps(self.horizon_s)
        first = max(width, round(len(gaps) * self.train_ratio))
        last = len(gaps) - ahead
        until = np.concatenate(([0], np.cumsum(gaps)))
        spread: Floats = np.linspace(first, last, self.forecasts) if last >= first else np.array([])
        moments = [
            moment
            for moment in sorted({round(at) for at in spread})
            if until[moment + ahead] == until[moment - width]
        ]
        if not moments:
            raise InputError(
                f"a load of {series.length_s:g} s has no moment with a whole window of {self.window_s:g} s "
                f"before it and {self.horizon_s:g} s after it to forecast",
                hint="Give a longer trace, a shorter window or a smaller share to learn from.",
            )
        return moments
