"""The service's forecaster: the ladder, with a rung that learns from a trace file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

from ipa.control.engine.state import PeakForecaster
from ipa.control.loop.time_limit import TimeLimit
from ipa.files.traces import read_trace
from ipa.forecast.base import Forecaster, prepare, slo_quantile
from ipa.forecast.boosted import BACK_S, Boosted
from ipa.forecast.ladder import forecast, last_rung, rungs_of, why_not_worth
from ipa.forecast.mixture import JUDGED_S
from ipa.forecast.registry import LADDER
from ipa.model.errors import InputError
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings

log = logging.getLogger("ipa.forecast")

# The forecaster of a pipeline with those profiles, by stage.
ForecasterOf = Callable[[Pipeline, Mapping[str, StageProfile]], PeakForecaster]


class TraceForecaster:
    """The forecaster ladder, with a rung that `learn` fits to a trace. Thread-safe.

    `smooth_s` must be at least the averaging window of the metrics: a model of finer rates would not fit.
    """

    def __init__(self, name: str = LADDER, *, horizon_s: float, quantile: float, smooth_s: float) -> None:
        self._parameters = {"horizon_s": horizon_s, "quantile": quantile, "smooth_s": smooth_s}
        self._rungs: tuple[Forecaster, ...] = rungs_of(name)
        # The rung that learns from the trace, and those below it.
        self._is_named = name != LADDER
        self._learning: Forecaster
        self._learning, *self._below = self._rungs if self._is_named else (Boosted(), *self._rungs)
        self._notes: tuple[str, ...] = (f"{self._learning.name}: still learning from the trace",)

    @property
    def window_s(self) -> float:
        """The seconds of load history that a forecast needs, those for the rungs' weights included."""
        return BACK_S + JUDGED_S

    def start(self, trace: LoadHistory) -> None:
        """Run `learn` in a thread."""
        threading.Thread(target=self.learn, args=(trace,), name="forecast-learning", daemon=True).start()

    def learn(self, trace: LoadHistory) -> None:
        """Fit the rung to the trace. It joins the ladder if that forecasts better; else forecasts say why."""
        horizon_s, quantile = self._parameters["horizon_s"], self._parameters["quantile"]
        try:
            series = prepare(trace, self._parameters["smooth_s"])
            fitted = self._learning.fitted(series, horizon_s, quantile)
            trouble = ""
            if not self._is_named:
                trouble = why_not_worth(fitted, self._below, series, horizon_s, quantile, self.window_s)
        except Exception as error:
            # Whatever a library raises, the ladder answers without the rung.
            log.exception("nothing was learned from the trace")
            trouble = f"nothing learned from the trace ({error})"
        if trouble:
            self._notes = (f"{self._learning.name}: {trouble}",)
            return
        self._rungs, self._notes = (fitted, *self._below), ()
        log.info("learned from %d s of load", len(trace.rates_rps))

    def __call__(self, load: LoadHistory) -> Forecast:
        """Return the expected peak."""
        answer = forecast(load, rungs=self._rungs, **self._parameters)
        return replace(answer, steps_down=(*self._notes, *answer.steps_down))


@dataclass(frozen=True, slots=True)
class ForecastSetup:
    """A factory of a pipeline's forecaster, which has a deadline and needs `window_s` of load."""

    of: ForecasterOf
    window_s: float


def forecast_horizon_s(settings: Settings, profiles: Iterable[StageProfile]) -> float:
    """Return the horizon in s: the setting, or the slowest variant's start-up and one tick if longer."""
    readiness_s = [variant.readiness_s or 0.0 for stage in profiles for variant in stage.variants]
    return max(settings.horizon_s, max(readiness_s, default=0.0) + settings.tick_s)


def forecast_setup(
    settings: Settings, profiles: Mapping[str, Mapping[str, StageProfile]], averaged_s: float = 0.0
) -> ForecastSetup:
    """Return the forecasters of the settings: each pipeline has its own horizon and its SLO's quantile.

    With a trace file all pipelines share one forecaster, which learns from the file in the background, for
    the longest horizon. `profiles` are by pipeline and stage. Metrics average a rate over `averaged_s`
    seconds. Errors: InputError (no trace, or one without requests), UsageError (unknown forecaster),
    PluginError.
    """
    quantile, smooth_s = settings.forecast_quantile, settings.smooth_s
    plain = partial(forecast, smooth_s=smooth_s, rungs=rungs_of(settings.forecaster))

    def in_time(ladder: Callable[..., Forecast], made: PeakForecaster) -> PeakForecaster:
        limit = TimeLimit("the forecaster", settings.forecast_deadline_s)
        return lambda load: limit.call(partial(made, load), partial(last_rung, ladder, load))

    @cache
    def ladder(horizon_s: float, quantile: float) -> PeakForecaster:
        rungs = partial(plain, horizon_s=horizon_s, quantile=quantile)
        return in_time(rungs, rungs)

    if not settings.forecast_trace:

        def of(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> PeakForecaster:
            horizon_s = forecast_horizon_s(settings, profiles.values())
            return ladder(horizon_s, slo_quantile(quantile, pipeline.sla.percentile))

        return ForecastSetup(of, settings.window_s)
    load = LoadHistory(1.0, read_trace(settings.forecast_trace))
    if not any(load.rates_rps):
        raise InputError(f"the trace {settings.forecast_trace} has no requests")
    horizon_s = forecast_horizon_s(settings, [stage for each in profiles.values() for stage in each.values()])
    made = TraceForecaster(
        settings.forecaster, horizon_s=horizon_s, quantile=quantile, smooth_s=max(smooth_s, averaged_s)
    )
    made.start(load)
    shared = in_time(partial(plain, horizon_s=horizon_s, quantile=quantile), made)
    return ForecastSetup(lambda pipeline, profiles: shared, max(settings.window_s, made.window_s))
