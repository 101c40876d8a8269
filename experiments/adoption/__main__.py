"""Prints what the loop costs and how late requests are that adopts hidden pipelines without profiles.

Each is run by the loop with profiles as `ipa import` assumes them, with the true profiles of the cores and
batch sizes that run, with the true ones of all, and by `hpa`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich import print as show
from rich.table import Table

from experiments.adoption.hidden import (
    BATCHES,
    CORES,
    SERVICE,
    Adopted,
    as_imported,
    as_running,
    hidden,
    run,
    run_learning,
)
from experiments.adoption.learning import adopting, over_grid

WORKERS = 2
GRID = [(cores, size) for cores in CORES for size in BATCHES]
# What it learns is its own.
AS_ASSUMED = replace(SERVICE, correct_profiles=False)
ASSUMED, LEARNING, LEARNED, RUNNING, ALL, HPA = (
    "assumed",
    "learning",
    "learned",
    "true, as running",
    "true, all points",
    "hpa",
)
# How much dearer than the plan from all points an adopted pipeline may be.
DEARER_RATIO = 1.05


def runs(seed: int) -> dict[str, Adopted]:
    """The runs of one hidden pipeline, by what the loop knows."""
    it = hidden(seed)
    pipeline, assumed = as_imported(it)
    return {
        ASSUMED: run(replace(it, pipeline=pipeline), seed, "ours", assumed),
        LEARNING: run(it, seed, adopting, over_grid(assumed, GRID), AS_ASSUMED),
        LEARNED: run_learning(it, seed, over_grid(assumed, GRID)),
        RUNNING: run(it, seed, "ours", as_running(it)),
        ALL: run(it, seed, "ours", it.truth),
        HPA: run(it, seed, "hpa", as_running(it)),
    }


def main() -> None:
    """Make every run, print the table, and write the runs."""
    parser = argparse.ArgumentParser(prog="python -m experiments.adoption", description=__doc__)
    parser.add_argument("--pipelines", type=int, default=500)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--out", type=Path, default=Path("runs/adoption.json"))
    arguments = parser.parse_args()
    done: list[dict[str, Adopted]] = []
    with ProcessPoolExecutor(arguments.workers, initializer=logging.disable) as pool:
        for number, each in enumerate(pool.map(runs, range(arguments.pipelines)), 1):
            done.append(each)
            if number % 50 == 0:
                print(f"{number} of {arguments.pipelines} pipelines", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([{name: asdict(it) for name, it in each.items()} for each in done], indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    table = Table(
        "profiles",
        "cores / all points: median",
        "95 %",
        f"within {DEARER_RATIO}",
        "late learning",
        "late after",
    )
    for name in (ASSUMED, LEARNING, LEARNED, RUNNING, ALL, HPA):
        ratios = np.array([each[name].cores / each[ALL].cores for each in done])
        table.add_row(
            name,
            f"{np.median(ratios):.2f}",
            f"{np.quantile(ratios, 0.95):.2f}",
            f"{np.mean(ratios <= DEARER_RATIO):.0%}",
            f"{np.mean([each[name].late_learning for each in done]):.2%}",
            f"{np.mean([each[name].late_after for each in done]):.2%}",
        )
    show(table)
    alike = np.array([each[ASSUMED].cores / each[RUNNING].cores for each in done])
    within = f"within {DEARER_RATIO}: {np.mean(alike <= DEARER_RATIO):.0%}"
    show(f"assumed / true as running: median {np.median(alike):.2f}, {within}")
    worse = [each[ASSUMED].late_learning > each[HPA].late_learning for each in done]
    show(f"later than hpa while learning: {np.mean(worse):.0%} of pipelines")


if __name__ == "__main__":
    main()
