"""Compares the formulas with an event loop: stages and paths, plans (`in-replica`), quotas (`quota`)."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.queueing import in_replica, quota
from experiments.queueing.paths import MeasuredPath, draw_path, measure_path
from experiments.queueing.points import NEVER_S, Measured, columns, draw, measure
from experiments.queueing.stage_loop import Floats
from ipa.queueing.tail import sojourn

# No point of the fit comes from these seeds.
SEED = 2026
NEAR = 0.1
GROUPS = {
    "all": lambda c: c["items"] > 0,
    "one item a request": lambda c: c["items"] == 1,
    "several items": lambda c: c["items"] > 1,
    "no timeout": lambda c: c["timeout_s"] == NEVER_S,
    "timeout 0": lambda c: c["timeout_s"] == 0,
    "one replica": lambda c: c["replicas"] == 1,
    "over 8 replicas": lambda c: c["replicas"] > 8,
    "load under 0.5": lambda c: c["rate_rps"] < 0.5 * c["batch_size"] * c["replicas"],
    "load over 0.8": lambda c: c["rate_rps"] > 0.8 * c["batch_size"] * c["replicas"],
}


def one_point(seed: int, effort: float, index: int) -> Measured:
    """The index-th random stage, measured."""
    return measure(draw(np.random.default_rng([seed, index])), seed * 100_000 + index, effort)


def one_path(seed: int, requests: int, index: int) -> MeasuredPath:
    """The index-th random path, measured and predicted."""
    return measure_path(draw_path(np.random.default_rng([seed, 1, index])), seed + index, requests)


def errors(made: list[Measured]) -> Floats:
    """The excess of the predicted 99th percentile, as a share of the measured one."""
    predicted = sojourn(**columns([each.point for each in made])).quantile_s
    return np.asarray(predicted / np.array([each.quantiles[3] for each in made]) - 1.0)


def table(groups: dict[str, Floats], title: str) -> Table:
    """The errors of the predictions of each group."""
    shown = Table(title=title)
    for name in (
        "",
        "number",
        "within 10 %",
        "over 10 % too low",
        "lowest",
        "5 %",
        "median",
        "95 %",
        "highest",
    ):
        shown.add_column(name, justify="left" if not name else "right")
    for name, error in groups.items():
        if len(error):
            marks = [f"{100 * each:+.1f} %" for each in np.quantile(error, [0.0, 0.05, 0.5, 0.95, 1.0])]
            near, low = np.mean(np.abs(error) <= NEAR), int(np.sum(error < -NEAR))
            shown.add_row(name, str(len(error)), f"{100 * near:.1f} %", str(low), *marks)
    return shown


def path_errors(paths: list[MeasuredPath]) -> dict[str, Floats]:
    """The errors of the predictions of groups of paths, and of what would be predicted with more known."""
    lengths = np.array([len(path.stages) for path in paths])
    largest = np.array([max(stage.batch_size for stage in path.stages[:-1]) for path in paths])
    off = np.array([path.error_ratio for path in paths])
    return {
        "all": off,
        **{f"{length} stages": off[lengths == length] for length in (2, 3, 4)},
        "batches of 8 at most before the last stage": off[largest <= 8],
        "by the measured times of stages": np.array([path.composed_ratio for path in paths]),
        "by these and their correlations": np.array([path.correlated_ratio for path in paths]),
        "by a measurement of the same length": np.array([path.repeated_ratio for path in paths]),
    }


def main() -> None:
    """Measure, print the tables, write all points."""
    for name, judged in (("in-replica", in_replica), ("quota", quota)):
        if sys.argv[1:2] == [name]:
            judged.main(sys.argv[2:])
            return
    parser = argparse.ArgumentParser(prog="python -m experiments.queueing", description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--paths", type=int, default=2000)
    parser.add_argument("--effort", type=float, default=1.0, help="share of the usual number of requests")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/queueing"))
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as pool:
        made = list(pool.map(partial(one_point, options.seed, options.effort), range(options.points)))
        requests = int(500_000 * options.effort)
        paths = list(pool.map(partial(one_path, options.seed, requests), range(options.paths), chunksize=4))
    console = Console(width=max(Console().width, 120))
    error = np.zeros(0)
    if made:
        error, given = errors(made), columns([each.point for each in made])
        by_group = {name: error[of(given)] for name, of in GROUPS.items()}
        console.print(table(by_group, "Stages: predicted p99 off by"))
    console.print(table(path_errors(paths), "Paths: p99 off by"))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [each.to_json() | {"error_ratio": float(at)} for each, at in zip(made, error, strict=True)]
    tandems = [
        {"stages": [columns([stage]) for stage in path.stages], "error_ratio": path.error_ratio}
        for path in paths
    ]
    target = options.out / "points.json"
    written = {"seed": options.seed, "stages": rows, "paths": tandems}
    target.write_text(json.dumps(written, indent=1, default=lambda array: array.tolist()), encoding="utf-8")
    console.print(f"wrote {target}")


if __name__ == "__main__":
    main()
