"""The runner of the experiment `forecast`: a cell is one forecaster on one trace of days."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from experiments.forecast.lstm import make_lstm
from ipa.experiment.cells import CellOutcome, ExperimentCell, Finished, as_series, code_of
from ipa.experiment.loads import data_folder
from ipa.experiment.runners import RUNNERS, Experiment, ExperimentRunner
from ipa.files.traces import read_trace, trace_in
from ipa.forecast.base import Forecaster
from ipa.forecast.boosted import Boosted
from ipa.forecast.ladder import DEFAULT_RUNGS
from ipa.forecast.quality import Backtest
from ipa.forecast.reactive import WindowMaximum
from ipa.model.errors import InputError, UsageError
from ipa.model.forms import DURATION
from ipa.model.observation import LoadHistory
from ipa.report.blocks import DASH, Block, FigureBlock, Heading, Mean, Paragraph, Table, TableCell
from ipa.report.plots import over_cells

DAY_S = 86_400
# Also one that learns from hours, and the last of the papers' inputs, their baseline.
RUNGS: tuple[Forecaster, ...] = (
    Boosted(),
    *DEFAULT_RUNGS,
    WindowMaximum(),
    WindowMaximum(span_s=10.0, name="maximum-10s"),
)
# As the papers: two minutes seen, the peak of the next 20 seconds, a forecast every ten.
WINDOW_S, HORIZON_S, QUANTILE, EVERY_S = 120.0, 20.0, 0.95, 10
# What learns takes most of the time.
WEIGHTS = {"boosted": 10.0, "lstm": 40.0}
TIMES = ("fit_s", "predict_ms")
DAYS = ("train_days", "test_days")


@dataclass(frozen=True, slots=True)
class LearningTrace:
    """A load: days of requests a second, some to learn from and some to be scored on.

    It is a trace file, a file of the published data, or days that are generated. The days are those of the
    trace, as "first:last", counted from 1; a short trace has shorter ones, of the duration `day`.
    """

    name: str
    train_days: str
    test_days: str
    trace: str | None = None
    shared: str | None = None
    generate_days: int | None = None
    divide: int = 1
    day: str = "1440min"

    def span_s(self, days: str) -> list[float]:
        """The seconds (from, until) of its days."""
        first, last = (int(day) for day in days.split(":"))
        day_s = DURATION.parse(self.day)
        return [(first - 1) * day_s, last * day_s]


def cells(experiment: Experiment) -> tuple[list[ExperimentCell], list[str]]:
    """A cell for every forecaster on every trace that is there, and notes on what is left out."""
    try:
        traces = [LearningTrace(**each) for each in experiment.settings["traces"]]
        if min(each.divide for each in traces) < 1:
            raise ValueError("divide is below 1")
        spans_s = [{days: each.span_s(getattr(each, days)) for days in DAYS} for each in traces]
    except (KeyError, TypeError, ValueError) as error:
        hint = f"`traces` is a list of mappings with the keys {', '.join(LearningTrace.__annotations__)}."
        raise InputError(f"{experiment.path}: settings of this runner: {error}", hint=hint) from error
    rungs, notes = _rungs()
    code = code_of(RUNNERS.find(experiment.runner))
    made = []
    for arm, span_s in zip(traces, spans_s, strict=True):
        counts = _counts(arm, experiment.path.parent, notes)
        if counts is None:
            continue
        series = {"counts": as_series(counts)}
        for rung in rungs:
            payload = {"forecaster": rung.name, **span_s, "divide": arm.divide, "code": code}
            labels = {"trace": arm.name, "forecaster": rung.name}
            weight = WEIGHTS.get(rung.name, 2.0)
            made.append(ExperimentCell(labels, experiment.runner, payload, series, weight))
    return made, notes


def _rungs() -> tuple[list[Forecaster], list[str]]:
    """The forecasters that can learn here, and which are left out and why."""
    try:
        return [*RUNGS, make_lstm()], []
    except UsageError as error:
        return list(RUNGS), [f"Forecaster lstm is left out: {error.message}. {error.hint}"]


def thinned(counts: Sequence[float | None], divide: int) -> LoadHistory:
    """The counts of a trace as a load, `divide` requests counted as one: whole ones, as in the papers."""
    rates = (None if count is None else float(count if divide == 1 else count // divide) for count in counts)
    return LoadHistory(1.0, tuple(rates))


def work(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> CellOutcome:
    """The forecaster's score; a row without figures if it has too little to learn from."""
    train, test = (tuple(payload[days]) for days in DAYS)
    counts = tuple(None if isnan(count) else count for count in series["counts"])
    load = thinned(counts, payload["divide"])
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
    outcome = replay.run(load, [rung], time.perf_counter).get(rung.name)
    if outcome is None:
        return CellOutcome({"count": 0})
    figures = asdict(outcome)
    return CellOutcome(
        {key: value for key, value in figures.items() if key not in TIMES},
        timings={key: figures[key] for key in TIMES},
    )


def _counts(arm: LearningTrace, folder: Path, notes: list[str]) -> Sequence[float | None] | None:
    if arm.generate_days is not None:
        return made_up_days(arm.generate_days)
    if arm.trace is not None:
        return read_trace(trace_in(folder, arm.trace))
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


FIGURES = (
    ("smape_ratio", "SMAPE %", ".2f", 100.0),
    ("coverage_ratio", "coverage %", ".2f", 100.0),
    ("pinball_rps", "pinball, rps", ".3f", 1.0),
    ("mae_rps", "error, rps", ".2f", 1.0),
    ("upper_ratio", "upper ÷ peak", ".3f", 1.0),
    ("count", "forecasts", ".0f", 1.0),
)
EXPLAINED = (
    "Every ten seconds of the test days the highest second of the next 20 is forecast. SMAPE is the "
    "mean of 2|f−a|/(f+a). Coverage is the share of peaks at or below the 95 % quantile: 95 is right, "
    "more costs cores; upper ÷ peak says how much. Two are no rungs of the ladder: maximum-10s, the last of "
    "the papers' inputs, and lstm, their network (where PyTorch is installed). One trace is one sample: "
    "hundredths of a percent between two forecasters are noise. Times of fit and answer are in timings.json, "
    "since no two runs have them alike."
)


def blocks(experiment: Experiment, finished: Sequence[Finished]) -> list[Block]:
    """A table, and two figures for each trace."""
    contents: list[Block] = [
        Heading("Forecasters"),
        headline(experiment, finished),
        Paragraph(EXPLAINED, True),
    ]
    for trace in dict.fromkeys(each.labels["trace"] for each in finished):
        rows = [each for each in finished if each.labels["trace"] == trace and each.row.get("smape_ratio")]
        names = [str(each.labels["forecaster"]) for each in rows]
        for key, words, line in (
            ("smape_ratio", "SMAPE, %", None),
            ("coverage_ratio", "coverage of the 95 % quantile, %", 95.0),
        ):
            scores = [[Mean(100 * float(each.row[key]), None, 1)] for each in rows]
            if scores:
                title = f"{trace}: {words}"
                contents.append(
                    FigureBlock(f"{title}.", over_cells(title, words, names, [""], scores, line=line))
                )
    return contents


def headline(experiment: Experiment, finished: Sequence[Finished]) -> Table:
    """The score of every forecaster."""
    groups: dict[str, list[list[TableCell]]] = {}
    for each in finished:
        trace = str(each.labels["trace"])
        rows = groups.setdefault(trace, [])
        figures = [
            TableCell(format(float(each.row[key]) * scale, form)) if each.row.get(key) is not None else DASH
            for key, _, form, scale in FIGURES
        ]
        rows.append([TableCell("" if rows else trace), TableCell(str(each.labels["forecaster"])), *figures])
    caption = "The peak of the next 20 seconds, forecast every ten on days that no forecaster has seen."
    header = ["trace", "forecaster", *(name for _, name, *_ in FIGURES)]
    return Table(caption, header, list(groups.values()), texts=2)


RUNNER = ExperimentRunner(cells, work, blocks)
