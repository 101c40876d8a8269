"""The service's forecaster: the ladder, with what a trace file teaches once that is learned."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from ipa.adapters.deadline_forecaster import InTime
from ipa.control.engine.state import PeakForecaster
from ipa.files.traces import read_trace
from ipa.forecast.base import Forecaster, prepare
from ipa.forecast.boosted import Boosted
from ipa.forecast.drift import history_s
from ipa.forecast.features import BACK_S
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast
from ipa.forecast.learned import Learned
from ipa.forecast.traces import as_load
from ipa.model.errors import InputError
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory
from ipa.model.profile import StageProfile

log = logging.getLogger("ipa.forecast")


class TraceForecaster:
    """Answers by the ladder; its learned rungs know the load's trace once `learn` is through. Thread-safe.

    `smooth_s` must be what the metrics average over at least: a model of finer rates would not fit them.
    """

    def __init__(self, trace: LoadHistory, *, horizon_s: float, quantile: float, smooth_s: float) -> None:
        self._trace: LoadHistory | None = trace
        self._asked = {"horizon_s": horizon_s, "quantile": quantile, "smooth_s": smooth_s}
        self._rungs: tuple[Forecaster, ...] = DEFAULT_RUNGS
        self._said: tuple[str, ...] = ("boosted: still learning from the trace",)

    @property
    def window_s(self) -> float:
        """Seconds of load to give it, so that it can also be watched for drift."""
        return history_s(BACK_S, self._asked["horizon_s"])

    def start(self) -> None:
        """Learn beside what else goes on."""
        threading.Thread(target=self.learn, name="forecast-learning", daemon=True).start()

    def learn(self) -> None:
        """Learn from the trace; where that fails the rungs stay as they are, and forecasts say so."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        horizon_s, quantile = self._asked["horizon_s"], self._asked["quantile"]
        try:
            series = prepare(trace, self._asked["smooth_s"])
            learned = (Boosted(), Learned())
            above = [rung.fitted(series, horizon_s, quantile) for rung in learned]
        except Exception as error:
            # Whatever a library raises: the ladder answers without it.
            log.exception("nothing was learned from the trace")
            self._said = (f"boosted: nothing learned from the trace ({error})",)
            return
        self._rungs, self._said = (*above, *DEFAULT_RUNGS[1:]), ()
        log.info("learned from %d s of load", len(trace.rates_rps))

    def __call__(self, load: LoadHistory) -> Forecast:
        """The peak expected."""
        said = self._said
        answer = forecast(load, rungs=self._rungs, **self._asked)
        return replace(answer, steps_down=(*said, *answer.steps_down)) if said else answer


@dataclass(frozen=True, slots=True)
class Sight:
    """How loads are forecast, in time, and over how many seconds they must be known for that."""

    forecaster: PeakForecaster
    window_s: float


class SightSettings(Protocol):
    """Those of the service's settings that say how loads are forecast."""

    @property
    def forecast_trace(self) -> str: ...
    @property
    def forecast_quantile(self) -> float: ...
    @property
    def forecast_deadline_s(self) -> float: ...
    @property
    def tick_s(self) -> float: ...
    @property
    def horizon_s(self) -> float: ...
    @property
    def smooth_s(self) -> float: ...
    @property
    def window_s(self) -> float: ...


def horizon_of(settings: SightSettings, profiles: Mapping[str, Mapping[str, StageProfile]]) -> float:
    """Seconds ahead that must be known: the horizon set, or the slowest variant's start-up and one tick.

    One for all pipelines, so that they share what is learned; `profiles` are by pipeline and stage.
    """
    stages = [stage for each in profiles.values() for stage in each.values()]
    readiness_s = [variant.readiness_s or 0.0 for stage in stages for variant in stage.variants]
    return max(settings.horizon_s, max(readiness_s, default=0.0) + settings.tick_s)


def sight_of(
    settings: SightSettings, profiles: Mapping[str, Mapping[str, StageProfile]], averaged_s: float = 0.0
) -> Sight:
    """The ladder; with a trace file the one that learns from it, already learning.

    `averaged_s` are the seconds over which the target's metrics average a rate. The trace begins at midnight
    UTC. InputError if it is no trace or has no requests.
    """
    quantile, smooth_s = settings.forecast_quantile, settings.smooth_s
    horizon_s = horizon_of(settings, profiles)
    ladder = partial(forecast, horizon_s=horizon_s, quantile=quantile, smooth_s=smooth_s)
    in_time = partial(InTime, last=partial(last_rung, ladder), limit_s=settings.forecast_deadline_s)
    if not settings.forecast_trace:
        return Sight(in_time(ladder), settings.window_s)
    load = as_load(read_trace(Path(settings.forecast_trace)))
    if not any(load.rates_rps):
        raise InputError(f"the trace {settings.forecast_trace} has no requests")
    made = TraceForecaster(load, horizon_s=horizon_s, quantile=quantile, smooth_s=max(smooth_s, averaged_s))
    made.start()
    return Sight(in_time(made), max(settings.window_s, made.window_s))


def last_rung(ladder: Callable[..., Forecast], load: LoadHistory, why: str) -> Forecast:
    """The forecast of the last rung of the ladder, which says why the others have no part in it."""
    answer = ladder(load, rungs=DEFAULT_RUNGS[-1:])
    return replace(answer, steps_down=(f"the rungs above it: {why}", *answer.steps_down))
