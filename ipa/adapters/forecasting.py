"""The service's forecaster: the ladder, with rungs that learn from a trace file."""

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
from ipa.forecast.ladder import forecast, last_rung, rungs_of
from ipa.forecast.learned import Learned
from ipa.forecast.mixture import JUDGED_S
from ipa.forecast.registry import LADDER
from ipa.forecast.traces import as_load
from ipa.model.errors import InputError
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings

log = logging.getLogger("ipa.forecast")

# The forecaster of a pipeline with those profiles, by stage.
ForecasterOf = Callable[[Pipeline, Mapping[str, StageProfile]], PeakForecaster]


class TraceForecaster:
    """The forecaster ladder, whose learned rungs are fitted to the trace by `learn`. Thread-safe.

    `smooth_s` must be at least the averaging window of the metrics: a model of finer rates would not fit.
    """

    def __init__(
        self, trace: LoadHistory, name: str = LADDER, *, horizon_s: float, quantile: float, smooth_s: float
    ) -> None:
        self._trace: LoadHistory | None = trace
        self._parameters = {"horizon_s": horizon_s, "quantile": quantile, "smooth_s": smooth_s}
        self._rungs: tuple[Forecaster, ...] = rungs_of(name)
        # The rungs that learn from the trace, and those below them.
        own = self._rungs
        self._learning: tuple[Forecaster, ...]
        self._learning, self._below = ((Boosted(), Learned()), own) if name == LADDER else (own[:1], own[1:])
        self._notes: tuple[str, ...] = (f"{self._learning[0].name}: still learning from the trace",)

    @property
    def window_s(self) -> float:
        """The seconds of load history that a forecast needs, those for the rungs' weights included."""
        return BACK_S + JUDGED_S

    def start(self) -> None:
        """Run `learn` in a thread."""
        threading.Thread(target=self.learn, name="forecast-learning", daemon=True).start()

    def learn(self) -> None:
        """Fit the learned rungs to the trace. On failure they stay unfitted, and forecasts mention it."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        horizon_s, quantile = self._parameters["horizon_s"], self._parameters["quantile"]
        try:
            series = prepare(trace, self._parameters["smooth_s"])
            above = [rung.fitted(series, horizon_s, quantile) for rung in self._learning]
        except Exception as error:
            # Whatever a library raises, the ladder answers without the learned rungs.
            log.exception("nothing was learned from the trace")
            self._notes = (f"{self._learning[0].name}: nothing learned from the trace ({error})",)
            return
        self._rungs, self._notes = (*above, *self._below), ()
        log.info("learned from %d s of load", len(trace.rates_rps))

    def __call__(self, load: LoadHistory) -> Forecast:
        """Return the expected peak."""
        notes = self._notes
        answer = forecast(load, rungs=self._rungs, **self._parameters)
        return replace(answer, steps_down=(*notes, *answer.steps_down)) if notes else answer


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
    load = as_load(read_trace(settings.forecast_trace))
    if not any(load.rates_rps):
        raise InputError(f"the trace {settings.forecast_trace} has no requests")
    horizon_s = forecast_horizon_s(settings, [stage for each in profiles.values() for stage in each.values()])
    made = TraceForecaster(
        load, settings.forecaster, horizon_s=horizon_s, quantile=quantile, smooth_s=max(smooth_s, averaged_s)
    )
    made.start()
    shared = in_time(partial(plain, horizon_s=horizon_s, quantile=quantile), made)
    return ForecastSetup(lambda pipeline, profiles: shared, max(settings.window_s, made.window_s))
