"""Prints how long sets take to solve and how many optima agree; writes runs/bench/sets.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from experiments.sets.published import SCALES, SOURCES, Splits, read_published
from experiments.sets.synthetic import synthetic_problem
from ipa.experiment.loads import data_folder
from ipa.optimize.set_solve import SetPlan, SetProblem, solve_set

LOADS_RPS = range(5, 401, 5)
SIZES = ((5, 20), (10, 64))
AGREE = 1e-9
Oracle = Callable[[SetProblem], tuple[float | None, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a group of problems."""

    group: str
    problems: int
    feasible: int
    sets_of_two_or_more: int
    agree: int
    checked: int
    median_ms: float
    p99_ms: float
    worst_ms: float
    solved_as_percents: int
    percent_loss_mean: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=data_folder())
    parser.add_argument("--out", default="runs/bench/sets.json")
    parser.add_argument("--instances", type=int, default=40, help="random problems of each size")
    arguments = parser.parse_args()
    rows = [*published_rows(Path(arguments.data) / "infadapter.json"), *synthetic_rows(arguments.instances)]
    console = Console()
    # Wide enough for one line a row, also where no terminal says how wide it is.
    Console(width=max(console.width, 130)).print(table(rows))
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    out.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))


def published_rows(path: Path) -> Iterable[Row]:
    """Every load and β of the paper, on each scale of the weights, with changing sets of loaded variants."""
    if not path.is_file():
        Console().print(f"without the published task: {path} is not there (IPA_SHARED_DATA, --data)")
        return
    published = read_published(path)
    names = list(published.variants)
    for source in SOURCES:
        splits = Splits(published.problem(1.0, 0.05, "points", source))
        for scale in SCALES:
            for beta in published.betas:
                problems = [
                    published.problem(float(rate), beta, scale, source, loaded_at(names, index))
                    for index, rate in enumerate(LOADS_RPS)
                ]
                group = f"resnet {source}, {scale}, β {beta:g}"
                yield measured(group, problems, splits.best)


def loaded_at(names: list[str], index: int) -> tuple[str, ...]:
    """Another subset of the variants for each index."""
    return tuple(name for at, name in enumerate(names) if index >> at & 1)


def synthetic_rows(instances: int) -> Iterable[Row]:
    """Random tasks of two sizes."""
    for variants, cores in SIZES:
        problems = [synthetic_problem(Random(seed), variants, cores) for seed in range(instances)]
        yield measured(f"random, {variants} variants × {cores} cores", problems, None)


def measured(group: str, problems: list[SetProblem], oracle: Oracle | None) -> Row:
    """Solve each problem once, timed; compare with the oracle and with the best set in whole percents."""
    times, plans = [], []
    for problem in problems:
        start = time.perf_counter()
        plans.append(solve_set(problem, 60.0))
        times.append(1000 * (time.perf_counter() - start))
    agree = (
        sum(same(plan, oracle(problem)) for plan, problem in zip(plans, problems, strict=True))
        if oracle
        else 0
    )
    losses = list(percent_losses(problems, plans))
    ranked = sorted(times)
    return Row(
        group=group,
        problems=len(problems),
        feasible=sum(bool(plan.parts) for plan in plans),
        sets_of_two_or_more=sum(len(plan.parts) > 1 for plan in plans),
        agree=agree,
        checked=len(problems) if oracle else 0,
        median_ms=statistics.median(times),
        p99_ms=ranked[int(0.99 * (len(ranked) - 1))],
        worst_ms=ranked[-1],
        solved_as_percents=len(losses),
        percent_loss_mean=statistics.fmean(losses) if losses else 0.0,
    )


def same(plan: SetPlan, expected: tuple[float | None, float]) -> bool:
    """True if the plan has the expected objective, or misses the expected rate."""
    objective, missing_rps = expected
    if objective is None or plan.objective is None:
        return objective is plan.objective and abs(plan.missing_rps - missing_rps) <= AGREE * plan.rate_rps
    return abs(plan.objective - objective) <= AGREE * max(1.0, abs(objective))


def percent_losses(problems: list[SetProblem], plans: list[SetPlan]) -> Iterable[float]:
    """The loss of whole percents in objective, for each problem that has a set in whole percents."""
    for problem, plan in zip(problems, plans, strict=True):
        whole = solve_set(problem, whole_percents=True)
        if whole.objective is not None and plan.objective is not None:
            yield plan.objective - whole.objective


def table(rows: list[Row]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table(title="sets: time per solve, optima cross-checked")
    shown.add_column("group", no_wrap=True)
    for name in (
        "problems",
        "feasible",
        "≥ 2 variants",
        "agree",
        "median ms",
        "p99 ms",
        "worst ms",
        "% loss",
    ):
        shown.add_column(name, justify="right")
    for row in rows:
        agree = f"{row.agree}/{row.checked}" if row.checked else "-"
        loss = f"{row.percent_loss_mean:.2g}" if row.solved_as_percents else "-"
        numbers = (f"{value:.2f}" for value in (row.median_ms, row.p99_ms, row.worst_ms))
        counts = (str(row.problems), str(row.feasible), str(row.sets_of_two_or_more))
        shown.add_row(row.group, *counts, agree, *numbers, loss)
    return shown


if __name__ == "__main__":
    main()
