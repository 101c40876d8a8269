"""The forecasts of a simulated loop: as the service makes them, by one rung, or with foresight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil

from ipa.control.engine.state import PeakForecaster
from ipa.control.loop.time_limit import TimeLimited
from ipa.forecast.base import Forecaster
from ipa.forecast.ladder import forecast, last_rung, rungs_of
from ipa.forecast.registry import FORECASTERS, FORESIGHT, LADDER
from ipa.model.observation import Forecast, LoadHistory

# Runs of several policies or pipelines under one load ask the same: cached answers, those of about thirty
# loads of 20 minutes at ten seconds a tick. An answer with its question takes about 8 kB.
KEPT = 4096
# A plug-in that takes longer than a tick of the service hangs.
PLUGIN_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """The forecaster by its name in `FORECASTERS`: "ladder", a rung, a plug-in, or "foresight" (the future).

    The other settings are those of the service; `margin_ratio` is added to point and upper quantile.
    """

    name: str = LADDER
    window_s: float = 600.0
    horizon_s: float = 20.0
    quantile: float = 0.95
    smooth_s: float = 5.0
    margin_ratio: float = 0.0


def forecaster_of(
    asked: ForecastSettings, rates_rps: Sequence[float], now_s: Callable[[], float]
) -> PeakForecaster:
    """The forecaster of that name, for a load of `rates_rps` by the second; a plug-in has PLUGIN_LIMIT_S.

    Errors: UsageError (there is none), PluginError.
    """
    if asked.name == FORESIGHT:
        return Foresight(rates_rps, now_s, asked.horizon_s, asked.margin_ratio)
    ladder: Callable[..., Forecast] = partial(
        _forecast,
        horizon_s=asked.horizon_s,
        quantile=asked.quantile,
        rungs=rungs_of(asked.name),
        smooth_s=asked.smooth_s,
    )
    if not FORECASTERS.find(asked.name).is_ours:
        late = partial(last_rung, ladder)
        ladder = TimeLimited[LoadHistory, Forecast](ladder, late=late, limit_s=PLUGIN_LIMIT_S)
    return WithMargin(ladder, asked.margin_ratio) if asked.margin_ratio else ladder


@lru_cache(KEPT)
def _forecast(
    load: LoadHistory, horizon_s: float, quantile: float, rungs: tuple[Forecaster, ...], smooth_s: float
) -> Forecast:
    return forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=rungs, smooth_s=smooth_s)


@dataclass(frozen=True, slots=True)
class WithMargin:
    """The forecasts of another forecaster, raised by a ratio."""

    inner: PeakForecaster
    margin_ratio: float

    def __call__(self, load: LoadHistory) -> Forecast:
        """The expected peak plus the margin."""
        seen = self.inner(load)
        times = 1 + self.margin_ratio
        return replace(seen, point_rps=seen.point_rps * times, upper_rps=seen.upper_rps * times)


@dataclass(frozen=True, slots=True)
class Foresight:
    """The true future rates, as a bound for any forecaster: the highest second of the next horizon."""

    rates_rps: Sequence[float]
    now_s: Callable[[], float]
    horizon_s: float
    margin_ratio: float = 0.0

    def __call__(self, load: LoadHistory) -> Forecast:
        """The true peak; after the end that of the last second."""
        start = min(int(self.now_s()), len(self.rates_rps) - 1)
        stop = ceil(self.now_s() + self.horizon_s)
        peak_rps = float(max(self.rates_rps[start:stop])) * (1 + self.margin_ratio)
        return Forecast(peak_rps, peak_rps, 1.0, self.horizon_s, FORESIGHT, 1.0)
