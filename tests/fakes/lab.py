"""A stand-in for the simulator in tests of experiments: quick, with the same figures' names.

`runner: tests.fakes.lab:RUNNER` of an experiment names it. With LAB_STRIKE=N in the environment, the N-th
cell that begins sends LAB_SIGNAL to the process that asks for it, as soon as LAB_CELLS has an outcome. It and
the cells after it go on once that process has said in the file LAB_STDERR that it heeds the signal.
"""

from __future__ import annotations

import os
import random
import signal
from array import array
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa.experiment import simulated, simulated_page
from ipa.experiment.cells import CellOutcome, ExperimentCell
from ipa.experiment.runners import Experiment, ExperimentRunner

COST = {"ours": 0.8, "ipa": 1.0, "fa2-low": 0.6, "fa2-high": 1.9, "rim": 1.4}


def cells(experiment: Experiment) -> tuple[list[ExperimentCell], list[str]]:
    """The cells of a simulation, for this runner."""
    simulated_cells, notes = simulated.cells(experiment)
    return [replace(cell, runner=experiment.runner) for cell in simulated_cells], notes


def work(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> CellOutcome:
    """Made-up figures that depend on the cell alone."""
    _strike()
    noise = random.Random(repr((sorted(payload.items()), sum(series["rates_rps"]))))
    cost = COST.get(payload["policy"], 1.2)
    row = {
        "pas_mean": 0.4 + 0.1 * cost + noise.uniform(-0.01, 0.01),
        "cores_mean": 10 * cost + noise.uniform(-0.5, 0.5),
        "violation_ratio": noise.uniform(0, 0.02) / cost,
        "lost": noise.randrange(10),
        "latency_p50_s": 0.1,
        "latency_p99_s": noise.uniform(0.3, 0.9),
        "changes": noise.randrange(20),
        "requests": 12_000,
    }
    ticks = {
        "at_s": [float(10 * at) for at in range(12)],
        "rate_rps": [5.0 + (20.0 if 4 <= at < 8 else 0.0) for at in range(12)],
        "upper_rps": [30.0] * 12,
        "cores": [10 * cost + (5 if 4 <= at < 9 else 0) for at in range(12)],
        "pas": [0.5, None, *[0.6] * 10],
        "attained_ratio": [None, *[0.99] * 11],
        "request_latency_s": [0.4] * 12,
        "reason": ["apply.scale_up", *["hold.no_change"] * 11],
        "configs": ["detect=small b1 2×1 core"] * 12,
    }
    return CellOutcome(row, ticks)


def _strike() -> None:
    """Count the cells that began in a file, and signal the parent at the one that is due."""
    if "LAB_COUNTER" not in os.environ:
        return
    with Path(os.environ["LAB_COUNTER"]).open("ab", buffering=0) as stream:
        stream.write(b"x")
        # Where this cell's own mark ends: another worker may have made its own already.
        begun = stream.tell()
    strike = int(os.environ.get("LAB_STRIKE", "0"))
    if not strike or begun < strike:
        return
    if begun == strike:
        while not any(Path(os.environ["LAB_CELLS"]).rglob("*.json")):
            os.sched_yield()
        os.kill(os.getppid(), getattr(signal, os.environ["LAB_SIGNAL"]))
    while "finishing the cells under way" not in Path(os.environ["LAB_STDERR"]).read_text():
        os.sched_yield()


RUNNER = ExperimentRunner(cells, work, simulated_page.blocks, simulated_page.words)
