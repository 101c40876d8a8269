"""Prints what the trained rung earns: a model of a day of load, in the mixture of the day after it.

For each load: whether the service would let the rung join the mixture, the pinball loss with it over that
without, and in closed loop the cores, the late requests, and the cost of `experiments.regret` over that
without. The days are of the published trace, thinned at random to 20 rps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import numpy as np

from experiments.reality.worlds import ROOT, SERVICE
from experiments.regret.clairvoyant import Clairvoyant
from experiments.rungs.__main__ import DAY_S, DAYS, HORIZON_S, MEAN_RPS, QUANTILE, START_S, TICK_S, TRACE
from ipa.experiment.loads import data_folder
from ipa.files import load_pipeline, load_profiles
from ipa.files.traces import read_trace
from ipa.forecast.arrivals import workload_rates
from ipa.forecast.base import Floats, Forecaster, prepare, sliding_max
from ipa.forecast.boosted import Boosted
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast, why_not_worth
from ipa.forecast.quality import pinball
from ipa.model.observation import LoadHistory
from ipa.policies.table import PolicyInputs
from ipa.simulate.run import ForecastSettings, SimSetup, first_configs, simulate

PIPELINES = ("video", "audio-qa", "nlp", "sum-qa")
LENGTH_S, WINDOW_S, WORKERS = 3600, 1200.0, 2
PATTERN_S, EVENING_H = 1200, 20


def _bursty(time_s: Floats) -> Floats:
    patterns = [workload_rates("bursty", seed=seed) for seed in range(len(time_s) // PATTERN_S + 1)]
    return np.concatenate(patterns)[: len(time_s)]


def _random(time_s: Floats) -> Floats:
    """One of two rates, for a random time each."""
    rng = np.random.default_rng(99)
    stays = rng.geometric([[1 / 60, 1 / 30]] * (len(time_s) // 60))
    return np.repeat([2.0, 20.0] * len(stays), stays.ravel())[: len(time_s)]


SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "even": lambda time_s: np.full(len(time_s), 14.0),
    "day with an evening": lambda time_s: 10 + 10 * np.exp(-(((time_s / 3600 % 24 - EVENING_H) / 2) ** 2)),
    "sine of 1 h": lambda time_s: 14 + 10 * np.sin(2 * np.pi * time_s / 3600),
    "sine of 10 min": lambda time_s: 14 + 10 * np.sin(2 * np.pi * time_s / 600),
    "square of 10 min": lambda time_s: np.where(time_s % 600 < 300, 5.0, 20.0),
    "spikes every 5 min": lambda time_s: np.where(time_s % 300 < 30, 25.0, 6.0),
    "spells of 60 and 30 s": _random,
    "bursty": _bursty,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a load: ratios are those with the rung over those without."""

    load: str
    trouble: str
    loss_ratio: float
    cores_ratio: float
    cost_ratio: float
    late_without: float
    late_with: float


def counts_of(load: str, trace: Path) -> tuple[Floats, Floats]:
    """The requests a second of a day, and those of the time after it that is forecast; NaN for gaps."""
    rng = np.random.default_rng(1)
    if load in SHAPES:
        counts = rng.poisson(SHAPES[load](np.arange(DAY_S + LENGTH_S, dtype=float))).astype(float)
        return counts[:DAY_S], counts[DAY_S:]
    start = (int(load.split()[1]) - 2) * DAY_S
    counts = np.array(read_trace(trace), dtype=float)[start : start + 2 * DAY_S]
    share = min(1.0, MEAN_RPS / float(np.nanmean(counts[:DAY_S])))
    thinned = rng.binomial(np.nan_to_num(counts).astype(int), share)
    counts = np.where(np.isnan(counts), np.nan, thinned)
    return counts[:DAY_S], counts[DAY_S + START_S :][:LENGTH_S]


def history(counts: Floats) -> LoadHistory:
    """The counts as a load."""
    return LoadHistory(1.0, tuple(None if np.isnan(count) else float(count) for count in counts))


def loss(counts: Floats, rungs: Sequence[Forecaster]) -> float:
    """The mean pinball loss of the mixture."""
    series, window = prepare(history(counts)), int(WINDOW_S)
    ends = series.whole(np.arange(window, len(counts), TICK_S), window, int(HORIZON_S))
    peaks = sliding_max(series.rates_rps, int(HORIZON_S))[ends]
    uppers = [
        forecast(
            history(counts[end - window : end]), horizon_s=HORIZON_S, quantile=QUANTILE, rungs=rungs
        ).upper_rps
        for end in ends.tolist()
    ]
    return float(pinball(peaks, np.array(uppers), QUANTILE).mean())


def closed(pipeline: str, counts: Floats, rungs: Sequence[Forecaster]) -> tuple[float, float, float]:
    """The mean cores, the share of late requests and the cost of a run of the loop."""
    setup = SimSetup(
        load_pipeline(ROOT / "pipelines" / pipeline / "pipeline.yaml"),
        load_profiles(ROOT / "profiles", pipeline),
        tuple(np.nan_to_num(counts).tolist()),
        spacing="even",
        guards=SERVICE,
        forecast=ForecastSettings(window_s=WINDOW_S),
    )
    setup = replace(setup, start=first_configs(setup, PolicyInputs(setup.pipeline, setup.profiles)))
    with patch("ipa.simulate.run.rungs_of", return_value=tuple(rungs)):
        figures = simulate(setup).summary()
    cores, late = figures["cores_mean"], figures["violation_ratio"]
    return cores, late, Clairvoyant(setup).cost.of(cores, figures["pas_mean"], late)


def outcome(load: str, trace: Path) -> Outcome:
    """The figures of a load, whether or not the rung would join."""
    day, later = counts_of(load, trace)
    series = prepare(history(day))
    model = Boosted().fitted(series, HORIZON_S, QUANTILE)
    trouble = why_not_worth(model, DEFAULT_RUNGS, series, HORIZON_S, QUANTILE, WINDOW_S)
    ladders = DEFAULT_RUNGS, (model, *DEFAULT_RUNGS)
    without, beside = (loss(later, rungs) for rungs in ladders)
    pairs = [[closed(pipeline, later, rungs) for rungs in ladders] for pipeline in PIPELINES]
    cores, late, cost = zip(*(zip(*pair, strict=True) for pair in pairs), strict=True)
    return Outcome(
        load,
        trouble,
        beside / without,
        mean(after / before for before, after in cores),
        mean(after / before for before, after in cost),
        *(mean(each) for each in zip(*late, strict=True)),
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rungs.trained", description=__doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the folder of the published trace")
    trace = parser.parse_args().data / TRACE
    loads = [*(f"day {day}" for day in DAYS if trace.is_file()), *SHAPES]
    print("| load | joins | loss | cores | late without, % | late with, % | cost |")
    print("|---|---|--:|--:|--:|--:|--:|")
    with ProcessPoolExecutor(WORKERS) as pool:
        for each in pool.map(outcome, loads, [trace] * len(loads)):
            print(
                f"| {each.load} | {'no' if each.trouble else 'yes'} | {each.loss_ratio:.2f} | "
                f"{each.cores_ratio:.3f} | {100 * each.late_without:.2f} | {100 * each.late_with:.2f} | "
                f"{each.cost_ratio:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
