"""Rungs that learn nothing: the last value, and the maximum of a window."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Ints, Rung, Series, sliding_max

# The memory of a window: two minutes, or some horizons if those are longer.
PAST_S, PAST_HORIZONS = 120.0, 3.0


@dataclass(frozen=True, slots=True)
class LastValue(Rung):
    """Repeats the last rate, with the upper quantile of Poisson arrivals. The rung that always answers."""

    name: str = "last"
    max_gap_ratio: float = 1.0

    def min_history_s(self, horizon_s: float) -> float:
        """One rate."""
        return 0.0

    def replay(
        self, series: Series, counts: Ints, horizon_s: float, quantile: float
    ) -> tuple[Floats, Floats]:
        """The last rate of the first `counts[i]` steps, for each i."""
        last = series.rates_rps[counts - 1]
        noise = np.sqrt(np.maximum(last, 0.0) / series.smooth_s)
        return last, last + NormalDist().inv_cdf(quantile) * noise


@dataclass(frozen=True, slots=True)
class WindowMaximum(Rung):
    """Repeats the maximum of the last horizon (IPA's and InfAdapter's reactive baseline).

    The upper quantile is that of all maxima over a horizon in its memory, never below the point. With
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
        recent = sliding_max(rates, span)[np.maximum(counts - span, 0)]
        points = np.where(counts >= span, recent, np.maximum.accumulate(rates)[counts - 1])
        maxima, most = sliding_max(rates, width), series.steps(max(PAST_S, PAST_HORIZONS * horizon_s)) - width
        uppers = [
            np.quantile(maxima[max(last - most, 0) : last + 1], quantile) if last >= 0 else 0.0
            for last in (counts - width).tolist()
        ]
        return points, np.maximum(points, uppers)
