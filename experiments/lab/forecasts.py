"""Backtests of the forecasters on days of load: one run is one forecaster on one trace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.experiment import Experiment, TraceArm
from experiments.lab.units import Outcome, Unit
from ipa.forecast.base import Forecaster
from ipa.model.errors import UsageError

DAY_S = 86_400
# As the papers: two minutes seen, the peak of the next 20 seconds, a forecast every ten.
WINDOW_S, HORIZON_S, QUANTILE, EVERY_S = 120.0, 20.0, 0.95, 10
# What learns takes most of the time.
WEIGHTS = {"boosted": 10.0, "lstm": 40.0}
TIMES = ("fit_s", "predict_ms")


def units(experiment: Experiment, data: Path) -> tuple[list[Unit], list[str]]:
    """Every forecaster on every trace that is there, and what is left out."""
    rungs, notes = _rungs()
    found = []
    for arm in experiment.traces:
        path = _path(arm, data)
        if path is not None and not path.is_file():
            notes.append(f"Trace {arm.name} is left out: {path} is not there.")
            continue
        for rung in rungs:
            labels = {"trace": arm.name, "forecaster": rung.name}
            payload = {
                "forecaster": rung.name,
                "trace": str(path) if path else None,
                "generate_days": arm.generate_days,
                "train_days": list(arm.train_days),
                "test_days": list(arm.test_days),
                "divide": arm.divide,
            }
            found.append(Unit(labels, payload, weight=WEIGHTS.get(rung.name, 2.0)))
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


def _path(arm: TraceArm, data: Path) -> Path | None:
    if arm.shared is not None:
        return data / arm.shared
    return None if arm.trace is None else Path(arm.trace)


def work(payload: Mapping[str, Any]) -> Outcome:
    """The forecaster's score; where it has too little to learn from, a row without figures."""
    from ipa.forecast.backtest import Backtest
    from ipa.forecast.traces import as_load

    train, test = (_seconds(payload[key]) for key in ("train_days", "test_days"))
    load = as_load(_counts(payload), int(payload["divide"]))
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
        return Outcome({"count": 0})
    figures = asdict(found)
    return Outcome(
        {key: value for key, value in figures.items() if key not in TIMES},
        timings={key: figures[key] for key in TIMES},
    )


def _seconds(days: tuple[int, int]) -> tuple[float, float]:
    first, last = days
    return (first - 1) * float(DAY_S), last * float(DAY_S)


def _counts(payload: Mapping[str, Any]) -> tuple[float | None, ...]:
    from ipa.files.traces import read_trace

    if payload["trace"] is not None:
        return read_trace(Path(payload["trace"]))
    return tuple(made_up_days(payload["generate_days"]))


def made_up_days(days: int, seed: int = 0) -> list[float]:
    """Requests a second over so many days: a daily wave, bursts of minutes, Poisson noise."""
    rng = np.random.default_rng(seed)
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
