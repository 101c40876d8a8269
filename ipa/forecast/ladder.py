"""The ladder: the rungs that can be trusted with the load, weighted, and the reasons against the others.

Rungs of other packages are guarded: their exceptions become PluginErrors, and their answers are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np

from ipa.forecast.base import SMOOTH_S, Floats, Forecaster, Peak, Series, prepare, sliding_max
from ipa.forecast.boosted import newest_steps
from ipa.forecast.classes import distributed
from ipa.forecast.level import Level
from ipa.forecast.mixture import Judged, judged, past_of, weights_of
from ipa.forecast.quality import pinball
from ipa.forecast.reactive import LastValue
from ipa.forecast.registry import FORECASTERS, FORESIGHT, LADDER
from ipa.model.errors import PluginError, UsageError
from ipa.model.observation import Forecast, LoadHistory
from ipa.plugins import Plugin

DEFAULT_RUNGS: tuple[Forecaster, ...] = (Level(), LastValue())
# Parts of the protocols of `ipa.forecast.base` that a forecaster may leave out.
OPTIONAL_METHODS = frozenset({"objection", "peaks", "replay"})


class PluginForecaster:
    """A rung of the ladder under the name of its plug-in.

    PluginError for any exception but an IpaError, and for an answer that is not a Peak of numbers. The ladder
    checks their values.
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
        """The largest share of gaps in the load with which the forecaster can be trusted."""
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
            numbers = Peak(float(peak.point_rps), float(peak.upper_rps))
        if math.isnan(numbers.point_rps) or math.isnan(numbers.upper_rps):
            raise self._plugin.fault(f"answered {numbers.point_rps} and {numbers.upper_rps} rps")
        return numbers

    def __getattr__(self, name: str) -> Any:
        """The optional parts of the protocols, which callers find by `hasattr`."""
        if name not in OPTIONAL_METHODS:
            raise AttributeError(name)
        method = getattr(self._forecaster, name)

        def guarded(*arguments: Any) -> Any:
            with self._plugin.guarded():
                value = method(*arguments)
                if name == "objection":
                    return str(value)
                points, uppers = (np.asarray(each, dtype=np.float64) for each in value)
            counts = arguments[1]
            if points.shape != (len(counts),) or uppers.shape != (len(counts),):
                shapes = f"{points.shape} and {uppers.shape}"
                raise self._plugin.fault(f"answered arrays of shapes {shapes} for {len(counts)} counts")
            return points, uppers

        return guarded


def make_forecaster(name: str) -> Forecaster:
    """The forecaster of that name, not fitted. Errors: UsageError (no such name), PluginError."""
    plugin = FORECASTERS.find(name)
    with plugin.guarded():
        forecaster: Forecaster = plugin.load()()
    return forecaster if plugin.is_ours else PluginForecaster(plugin, forecaster)


def rungs_of(name: str) -> tuple[Forecaster, ...]:
    """The rungs that a forecaster's name stands for: itself, and the last value for when it cannot answer.

    `ladder` stands for all of ours. Errors: UsageError (no such name, or foresight), PluginError.
    """
    if name == LADDER:
        return DEFAULT_RUNGS
    if name == FORESIGHT:
        raise UsageError(
            f"the forecaster {FORESIGHT} knows the future, which exists only in a simulation",
            hint="Use it with `ipa simulate`.",
        )
    return (make_forecaster(name), LastValue())


# A load that quadruples within one horizon is a step, which the last value shows soon enough; a higher
# forecast is an error of the forecaster.
CLAMP_FACTOR = 4.0
# Coarser rates show neither a trend nor the maxima over 10 s that the rungs use.
COARSEST_S = 5.0
# A share of the forecast below this is not told.
LEAST_SHOWN = 0.005
# The rates of a forecast are on a grid of such steps, far below its error: a load that only scatters gives
# equal forecasts, and so equal plans, which need no other solve.
GRID, LEAST_GRID_RPS = 1.01, 1e-3
# Precedes the error of a rung that failed, in `steps_down`; other rungs there cannot be trusted yet.
FAILED = ": failed, "


def forecast(
    load: LoadHistory,
    *,
    horizon_s: float,
    quantile: float,
    rungs: Sequence[Forecaster] = DEFAULT_RUNGS,
    smooth_s: float = SMOOTH_S,
) -> Forecast:
    """The peak rate to plan for over the next `horizon_s`, from all rungs that can be trusted, by weight.

    Rates are means over `smooth_s`. A rung is left out if there is too little history, if rates are too
    coarse or have too many gaps, if it was trained for another question, if it fails, or if its answer is not
    a number, negative or beyond CLAMP_FACTOR times the highest observed rate; `steps_down` lists each. The
    last rung always answers, clamped. DomainError if the load has no rate.
    """
    series = prepare(load, smooth_s)
    highest = float(series.rates_rps.max())
    limit = CLAMP_FACTOR * (highest + series.noise_rps(highest))
    past = past_of(series, horizon_s)
    heard: list[Judged] = []
    steps_down: list[str] = []
    for rung in rungs[:-1]:
        try:
            trouble = _unfit(rung, series, horizon_s, quantile)
            answer = None if trouble else judged(rung, series, past, horizon_s, quantile)
        except PluginError as error:
            steps_down.append(f"{rung.name}{FAILED}{error.message}")
            continue
        if answer is not None:
            trouble = _trouble(answer.peak, limit)
        if answer is None or trouble:
            steps_down.append(f"{rung.name}: {trouble}")
        else:
            heard.append(answer)
    last = judged(rungs[-1], series, past, horizon_s, quantile)
    heard.append(replace(last, peak=_clamped(last.peak, limit, highest)))
    weights = weights_of(heard, past, quantile)
    point_rps, upper_rps = (
        sum(weight * rate for weight, rate in zip(weights, rates, strict=True))
        for rates in zip(*((each.peak.point_rps, each.peak.upper_rps) for each in heard), strict=True)
    )
    peak = Peak(point_rps, max(point_rps, upper_rps))
    upper_rps, classes = distributed(heard, weights, past, peak, quantile, highest)
    rates = point_rps, upper_rps, *classes
    point_rps, upper_rps, *rates_rps = (min(_on_grid(rate), limit) for rate in rates)
    observed = [rate for rate in load.rates_rps if rate is not None and 0 <= rate < math.inf]
    shares = sorted(zip((each.rung for each in heard), weights, strict=True), key=lambda share: -share[1])
    return Forecast(
        point_rps=point_rps,
        upper_rps=upper_rps,
        quantile=quantile,
        horizon_s=horizon_s,
        rung=shares[0][0],
        quality_ratio=len(observed) / len(load.rates_rps),
        steps_down=tuple(steps_down),
        peak_s=series.smooth_s,
        rates_rps=tuple(rates_rps),
        weights=tuple((name, round(weight, 2)) for name, weight in shares if weight >= LEAST_SHOWN),
    )


# Enough forecasts to tell a tenth less loss from chance; they take some seconds of a thread.
TRIALS = 200
# The loss that a rung must save, in standard errors of the loss saved.
STANDARD_ERRORS = 1.0


def why_not_worth(
    trained: Forecaster,
    rungs: Sequence[Forecaster],
    series: Series,
    horizon_s: float,
    quantile: float,
    window_s: float,
) -> str:
    """The reason why the mixture of `rungs` is as good without the trained rung; empty if it is not.

    Both forecast the newest part of the series that the rung learned from, each time from `window_s` of it.
    """
    ahead, window = series.steps(horizon_s), series.steps(window_s)
    first, last = len(series.rates_rps) - newest_steps(series), len(series.rates_rps) - ahead
    spread: Floats = np.linspace(max(first, window), max(last, window), TRIALS)
    moments = series.whole(np.unique(spread.round().astype(np.int64)), window, ahead)
    if not len(moments):
        return "the newest part of the trace has too many gaps to judge it"
    peaks = sliding_max(series.rates_rps, ahead)[moments]

    def losses(mixed: Sequence[Forecaster]) -> Floats:
        seen = [series.between(moment - window, moment) for moment in moments.tolist()]
        loads = [LoadHistory(each.step_s, tuple(each.rates_rps.tolist()), each.smooth_s) for each in seen]
        ask = partial(forecast, horizon_s=horizon_s, quantile=quantile, rungs=mixed, smooth_s=series.smooth_s)
        return pinball(peaks, np.array([ask(each).upper_rps for each in loads]), quantile)

    without = losses(rungs)
    saved = without - losses((trained, *rungs))
    if saved.mean() > STANDARD_ERRORS * saved.std() / math.sqrt(len(saved)):
        return ""
    loss = f"{(without - saved).mean():.3g} rps with it, {without.mean():.3g} rps without"
    return f"the forecasts of the newest part of the trace are as good without it (pinball loss: {loss})"


def _on_grid(rate_rps: float) -> float:
    """The rate rounded up to the grid; one below the least that is planned for stays."""
    if rate_rps < LEAST_GRID_RPS:
        return rate_rps
    return float(GRID ** math.ceil(math.log(rate_rps) / math.log(GRID) - 1e-9))


def last_rung(ladder: Callable[..., Forecast], load: LoadHistory, why: str) -> Forecast:
    """Return the forecast of the ladder's last rung, with the cause `why` in its `steps_down`."""
    answer = ladder(load, rungs=DEFAULT_RUNGS[-1:])
    return replace(answer, steps_down=(f"the rungs above it{FAILED}{why}", *answer.steps_down))


def _unfit(rung: Forecaster, series: Series, horizon_s: float, quantile: float) -> str:
    """The reason why the rung cannot answer for such a load; empty if it can."""
    if series.step_s > min(COARSEST_S, horizon_s / 2):
        return f"one rate in {series.step_s:g} s is too coarse for the next {horizon_s:g} s"
    needed_s = rung.min_history_s(horizon_s)
    if series.length_s < needed_s:
        return f"{series.length_s:g} s of load, needs {needed_s:g} s"
    if series.gap_ratio > rung.max_gap_ratio:
        return f"{series.gap_ratio:.0%} gaps, bears {rung.max_gap_ratio:.0%}"
    objection = getattr(rung, "objection", None)
    return str(objection(series, horizon_s, quantile)) if objection else ""


def _trouble(peak: Peak, limit: float) -> str:
    """The reason why the peak is unusable; empty if it is usable."""
    for value in (peak.point_rps, peak.upper_rps):
        if not math.isfinite(value):
            return "its answer is not a number"
        if value < 0:
            return f"its answer {value:.3g} rps is negative"
        if value > limit:
            return f"its answer {value:.3g} rps is beyond {limit:.3g} rps"
    return ""


def _clamped(peak: Peak, limit: float, otherwise: float) -> Peak:
    """The peak within [0, limit]; NaN becomes the highest observed rate."""
    point, upper = (
        min(max(value, 0.0), limit) if math.isfinite(value) else otherwise
        for value in (peak.point_rps, peak.upper_rps)
    )
    return Peak(point, max(point, upper))
