"""The service's forecaster: the ladder, with rungs that learn from a trace file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ipa.adapters.time_limit import TimeLimited
from ipa.control.engine.state import PeakForecaster
from ipa.files.traces import read_trace
from ipa.forecast.base import Forecaster, prepare
from ipa.forecast.boosted import Boosted
from ipa.forecast.drift import history_s
from ipa.forecast.features import BACK_S
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast, rungs_of
from ipa.forecast.learned import Learned
from ipa.forecast.registry import LADDER
from ipa.forecast.traces import as_load
from ipa.model.errors import InputError
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory
from ipa.model.profile import StageProfile
from ipa.settings import Settings

log = logging.getLogger("ipa.forecast")


class TraceForecaster:
    """The ladder, whose learned rungs are fitted to the trace by `learn`. Thread-safe.

    `smooth_s` must be at least the averaging window of the metrics: a model of finer rates would not fit.
    """

    def __init__(
        self, trace: LoadHistory, name: str = LADDER, *, horizon_s: float, quantile: float, smooth_s: float
    ) -> None:
        self._trace: LoadHistory | None = trace
        self._asked = {"horizon_s": horizon_s, "quantile": quantile, "smooth_s": smooth_s}
        self._rungs: tuple[Forecaster, ...] = rungs_of(name)
        # Of our ladder the boosted rung, which there is only with a trace, and the first.
        above = (Boosted(), Learned()) if name == LADDER else self._rungs[:1]
        self._learning: tuple[Forecaster, ...] = above
        self._said: tuple[str, ...] = (f"{above[0].name}: still learning from the trace",)

    @property
    def window_s(self) -> float:
        """The seconds of load that it needs, drift detection included."""
        return history_s(BACK_S, self._asked["horizon_s"])

    def start(self) -> None:
        """Run `learn` in a thread."""
        threading.Thread(target=self.learn, name="forecast-learning", daemon=True).start()

    def learn(self) -> None:
        """Fit the learned rungs to the trace. If that fails the rungs stay, and forecasts say so."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        horizon_s, quantile = self._asked["horizon_s"], self._asked["quantile"]
        try:
            series = prepare(trace, self._asked["smooth_s"])
            above = [rung.fitted(series, horizon_s, quantile) for rung in self._learning]
        except Exception as error:
            # Whatever a library raises, the ladder answers without the learned rungs.
            log.exception("nothing was learned from the trace")
            self._said = (f"{self._learning[0].name}: nothing learned from the trace ({error})",)
            return
        self._rungs, self._said = (*above, *self._rungs[1:]), ()
        log.info("learned from %d s of load", len(trace.rates_rps))

    def __call__(self, load: LoadHistory) -> Forecast:
        """Return the expected peak."""
        said = self._said
        answer = forecast(load, rungs=self._rungs, **self._asked)
        return replace(answer, steps_down=(*said, *answer.steps_down)) if said else answer


@dataclass(frozen=True, slots=True)
class ForecastSetup:
    """The forecaster with its deadline, and the seconds of load that it needs."""

    forecaster: PeakForecaster
    window_s: float


def horizon_of(settings: Settings, profiles: Mapping[str, Mapping[str, StageProfile]]) -> float:
    """Return the horizon in seconds: the setting, or the slowest variant's start-up and one tick if longer.

    One value for all pipelines, so that they share the learned model; `profiles` are by pipeline and stage.
    """
    stages = [stage for each in profiles.values() for stage in each.values()]
    readiness_s = [variant.readiness_s or 0.0 for stage in stages for variant in stage.variants]
    return max(settings.horizon_s, max(readiness_s, default=0.0) + settings.tick_s)


def forecast_setup(
    settings: Settings, profiles: Mapping[str, Mapping[str, StageProfile]], averaged_s: float = 0.0
) -> ForecastSetup:
    """Return the forecaster of the settings; with a trace file one that has started to learn from it.

    `averaged_s` are the seconds over which the target's metrics average a rate. The trace begins at midnight
    UTC. Errors: InputError (the file is not a trace, or has no requests),
    UsageError (no such forecaster), PluginError.
    """
    quantile, smooth_s = settings.forecast_quantile, settings.smooth_s
    horizon_s = horizon_of(settings, profiles)
    rungs = rungs_of(settings.forecaster)
    ladder = partial(forecast, horizon_s=horizon_s, quantile=quantile, smooth_s=smooth_s, rungs=rungs)
    in_time = partial(
        TimeLimited[LoadHistory, Forecast],
        late=partial(last_rung, ladder),
        limit_s=settings.forecast_deadline_s,
    )
    if not settings.forecast_trace:
        return ForecastSetup(in_time(ladder), settings.window_s)
    load = as_load(read_trace(Path(settings.forecast_trace)))
    if not any(load.rates_rps):
        raise InputError(f"the trace {settings.forecast_trace} has no requests")
    made = TraceForecaster(
        load, settings.forecaster, horizon_s=horizon_s, quantile=quantile, smooth_s=max(smooth_s, averaged_s)
    )
    made.start()
    return ForecastSetup(in_time(made), max(settings.window_s, made.window_s))


def last_rung(ladder: Callable[..., Forecast], load: LoadHistory, why: str) -> Forecast:
    """Return the forecast of the ladder's last rung, with the cause `why` in its `steps_down`."""
    answer = ladder(load, rungs=DEFAULT_RUNGS[-1:])
    return replace(answer, steps_down=(f"the rungs above it: {why}", *answer.steps_down))
