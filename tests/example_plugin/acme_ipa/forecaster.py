"""A forecaster that continues the line through the last minute."""

from __future__ import annotations

from typing import Self

import numpy as np

from ipa.library import Peak, Series

SPAN_S = 60.0
# Standard normal quantile of 0.95.
Z = 1.645


class Trend:
    """Least squares through the last minute, and Poisson noise above it."""

    name = "acme-trend"
    max_gap_ratio = 0.2

    def min_history_s(self, horizon_s: float) -> float:
        """The minute, and a horizon before it on which the ladder compares it. The service gives 120 s."""
        return SPAN_S + horizon_s

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return itself: it learns nothing that lasts."""
        return self

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The end of the line at the horizon if it rises, else the mean of the minute."""
        rates = series.rates_rps[-series.steps(SPAN_S) :]
        times_s = series.step_s * np.arange(len(rates))
        slope, level = np.polyfit(times_s - times_s[-1], rates, 1)
        point_rps = max(float(rates.mean()), float(level + max(slope, 0.0) * horizon_s), 0.0)
        return Peak(point_rps, point_rps + Z * series.noise_rps(point_rps))
