"""Forecasts that repeat what was seen: the last value, and the maximum of a window."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from ipa.forecast.base import Peak, Series, sliding_max


@dataclass(frozen=True, slots=True)
class LastValue:
    """The last rate stays; its upper quantile is that of Poisson arrivals. The rung that always answers."""

    name: str = "last"
    max_gap_ratio: float = 1.0

    def min_history_s(self, horizon_s: float) -> float:
        """Nothing but one rate."""
        return 0.0

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Itself."""
        return self

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The last rate."""
        last = float(series.rates_rps[-1])
        return Peak(last, last + NormalDist().inv_cdf(quantile) * series.noise_rps(last))


@dataclass(frozen=True, slots=True)
class WindowMaximum:
    """The maximum of the last horizon stays (IPA's and InfAdapter's reactive baseline).

    The upper quantile is that of all maxima over a horizon seen in the window, never below the point. With
    `span_s` the point is the maximum of that time instead: the last of IPA's inputs is one over 10 s.
    """

    span_s: float | None = None
    name: str = "window"
    max_gap_ratio: float = 0.5

    def min_history_s(self, horizon_s: float) -> float:
        """Two horizons: one to look at and one to compare it with."""
        return 2 * horizon_s

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Itself."""
        return self

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The maximum of the last horizon, and the quantile of all such maxima."""
        maxima = sliding_max(series.rates_rps, series.steps(horizon_s))
        recent = maxima[-1:] if self.span_s is None else series.rates_rps[-series.steps(self.span_s) :]
        point = float(recent.max())
        return Peak(point, max(point, float(np.quantile(maxima, quantile))))
