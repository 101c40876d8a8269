"""Backtests of the forecasters on days of load: a cell is one forecaster on one trace."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan
from typing import Any

import numpy as np

from ipa.experiment.cells import CellOutcome, ExperimentCell, as_series
from ipa.experiment.experiment import Experiment, TraceArm
from ipa.experiment.loads import data_folder
from ipa.forecast.base import Forecaster
from ipa.model.errors import UsageError

DAY_S = 86_400
# As the papers: two minutes seen, the peak of the next 20 seconds, a forecast every ten.
WINDOW_S, HORIZON_S, QUANTILE, EVERY_S = 120.0, 20.0, 0.95, 10
# What learns takes most of the time.
WEIGHTS = {"boosted": 10.0, "lstm": 40.0}
TIMES = ("fit_s", "predict_ms")


def cells(experiment: Experiment) -> tuple[list[ExperimentCell], list[str]]:
    """A cell for every forecaster on every trace that is there, and notes on what is left out."""
    rungs, notes = _rungs()
    found = []
    for arm in experiment.traces:
        counts = _counts(arm, notes)
        if counts is None:
            continue
        series = {"counts": as_series(counts)}
        for rung in rungs:
            payload = {
                "forecaster": rung.name,
                "train_days": list(arm.train_days),
                "test_days": list(arm.test_days),
                "divide": arm.divide,
                "day_s": arm.day_s,
            }
            labels = {"trace": arm.name, "forecaster": rung.name}
            weight = WEIGHTS.get(rung.name, 2.0)
            found.append(ExperimentCell(labels, "forecast", payload, series, weight))
    return found, notes


def _rungs() -> tuple[list[Forecaster], list[str]]:
    """The forecasters that can learn here, and which are left out and why."""
    from ipa.forecast.ladder import BACKTEST_RUNGS, COMPARED_RUNGS

    rungs, notes = list(BACKTEST_RUNGS), []
    for rung in COMPARED_RUNGS:
        try:
            rung.require()
        except UsageError as error:
            notes.append(f"Forecaster {rung.name} is left out: {error.message}. {error.hint}")
        else:
            rungs.append(rung)
    return rungs, notes


def work(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> CellOutcome:
    """The forecaster's score; a row without figures if it has too little to learn from."""
    from ipa.forecast.backtest import Backtest
    from ipa.forecast.traces import as_load

    train, test = (_seconds(payload[key], payload["day_s"]) for key in ("train_days", "test_days"))
    counts = tuple(None if isnan(count) else count for count in series["counts"])
    load = as_load(counts, int(payload["divide"]))
    replay = Backtest(
        window_s=WINDOW_S,
        horizon_s=HORIZON_S,
        quantile=QUANTILE,
        forecasts=round((test[1] - test[0]) / EVERY_S),
        smooth_s=1.0,
        train_s=train,
        test_s=test,
    )
    rung = next(rung for rung in _rungs()[0] if rung.name == payload["forecaster"])
    found = replay.run(load, [rung], time.perf_counter).get(rung.name)
    if found is None:
        return CellOutcome({"count": 0})
    figures = asdict(found)
    return CellOutcome(
        {key: value for key, value in figures.items() if key not in TIMES},
        timings={key: figures[key] for key in TIMES},
    )


def _seconds(days: tuple[int, int], day_s: float) -> tuple[float, float]:
    first, last = days
    return (first - 1) * day_s, last * day_s


def _counts(arm: TraceArm, notes: list[str]) -> Sequence[float | None] | None:
    from ipa.files.traces import read_trace

    if arm.generate_days is not None:
        return made_up_days(arm.generate_days)
    if arm.trace is not None:
        return read_trace(arm.trace)
    path = data_folder() / str(arm.shared)
    if not path.is_file():
        notes.append(f"Trace {arm.name} is left out: {path} is not there.")
        return None
    return read_trace(path)


def made_up_days(days: int) -> list[float]:
    """Requests a second over so many days: a daily wave, bursts of minutes, Poisson noise."""
    rng = np.random.default_rng(0)
    seconds = np.arange(days * DAY_S)
    levels = np.repeat(rng.normal(1.0, 0.1, days), DAY_S)
    rates = 100 * levels * (1 + 0.6 * np.sin(2 * np.pi * (seconds / DAY_S - 0.3)))
    # The wave drifts by some percent over minutes.
    knots = rng.normal(0.0, 0.08, len(seconds) // 300 + 2)
    rates *= np.exp(np.interp(seconds / 300, np.arange(len(knots)), knots))
    for start in np.flatnonzero(rng.random(len(seconds)) < 12 / DAY_S):
        since = seconds[start : start + 1200] - start
        rates[start : start + 1200] *= 1 + rng.uniform(0.3, 1.5) * np.exp(-since / rng.uniform(60, 300))
    return [float(count) for count in rng.poisson(rates)]
