"""A forecaster of another package: its exceptions become PluginErrors, and its answers are checked."""

from __future__ import annotations

from math import isnan
from typing import Any, Self

import numpy as np

from ipa.forecast.base import Forecaster, Peak, Series
from ipa.plugins import Plugin

# Parts of the protocols of `ipa.forecast.base` that a forecaster may leave out.
OPTIONAL_METHODS = frozenset({"objection", "peaks", "replay"})


class PluginForecaster:
    """A rung of the ladder under the name of its plug-in.

    PluginError for whatever it raises that is no IpaError, for an answer of another type, and for one that is
    not a number. The ladder judges the numbers.
    """

    def __init__(self, plugin: Plugin, forecaster: Forecaster) -> None:
        plugin.check_has(forecaster, "name", "max_gap_ratio", "min_history_s", "fitted", "peak")
        self._plugin, self._forecaster = plugin, forecaster

    @property
    def name(self) -> str:
        """The name by which it was found."""
        return self._plugin.name

    @property
    def max_gap_ratio(self) -> float:
        """The largest share of gaps with which it can be trusted."""
        with self._plugin.guarded():
            return float(self._forecaster.max_gap_ratio)

    def min_history_s(self, horizon_s: float) -> float:
        """Seconds of load that it needs to answer."""
        with self._plugin.guarded():
            return float(self._forecaster.min_history_s(horizon_s))

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return a forecaster fitted to the series."""
        with self._plugin.guarded():
            fitted = self._forecaster.fitted(series, horizon_s, quantile)
        return type(self)(self._plugin, fitted)

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The peak over the next `horizon_s`. PluginError if it raises or answers no Peak."""
        with self._plugin.guarded():
            peak = self._forecaster.peak(series, horizon_s, quantile)
            if not isinstance(peak, Peak):
                raise self._plugin.fault(f"answered a {type(peak).__name__} instead of a Peak")
            found = Peak(float(peak.point_rps), float(peak.upper_rps))
        if isnan(found.point_rps) or isnan(found.upper_rps):
            raise self._plugin.fault(f"answered {found.point_rps} and {found.upper_rps} rps")
        return found

    def __getattr__(self, name: str) -> Any:
        """The optional parts of the protocols, which callers find by `hasattr`."""
        if name not in OPTIONAL_METHODS:
            raise AttributeError(name)
        method = getattr(self._forecaster, name)

        def guarded(*arguments: Any) -> Any:
            with self._plugin.guarded():
                found = method(*arguments)
                if name == "objection":
                    return str(found)
                points, uppers = (np.asarray(each, dtype=np.float64) for each in found)
            counts = arguments[1]
            if points.shape != (len(counts),) or uppers.shape != (len(counts),):
                shapes = f"{points.shape} and {uppers.shape}"
                raise self._plugin.fault(f"answered arrays of shapes {shapes} for {len(counts)} counts")
            return points, uppers

        return guarded
