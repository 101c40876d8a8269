"""Reactive forecasts: the last value, and the maximum of a window."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Ints, Series, Untrained, memory_s, quantiles_of, recent_max, sliding_max


@dataclass(frozen=True, slots=True)
class LastValue(Untrained):
    """Repeats the last rate, with the upper quantile of Poisson arrivals. The rung that always answers."""

    name: str = "last"
    max_gap_ratio: float = 1.0

    def min_history_s(self, horizon_s: float) -> float:
        """One rate."""
        return 0.0

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The last rate of the first `counts` steps each."""
        last = series.rates_rps[counts - 1]
        noise = np.sqrt(np.maximum(last, 0.0) / series.smooth_s)
        return last, last + NormalDist().inv_cdf(quantile) * noise


@dataclass(frozen=True, slots=True)
class WindowMaximum(Untrained):
    """Repeats the maximum of the last horizon (IPA's and InfAdapter's reactive baseline).

    The upper quantile is that of all maxima over a horizon in `memory_s`, never below the point. With
    `span_s` the point is the maximum of that time instead: the last of IPA's inputs is one over 10 s.
    """

    span_s: float | None = None
    name: str = "window"
    max_gap_ratio: float = 0.5

    def min_history_s(self, horizon_s: float) -> float:
        """Two horizons: one for the maximum and one to compare it with."""
        return 2 * horizon_s

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The maximum of the last horizon, and the quantile of all such maxima, of `counts` steps each."""
        rates, width = series.rates_rps, series.steps(horizon_s)
        span = width if self.span_s is None else series.steps(self.span_s)
        points = recent_max(rates, counts, span)
        most = series.steps(memory_s(horizon_s)) - width + 1
        known = quantiles_of(sliding_max(rates, width), np.maximum(counts - width + 1, 0), quantile, most)
        uppers = np.where(counts >= width, known, np.maximum.accumulate(rates)[counts - 1])
        return points, np.maximum(points, uppers)
