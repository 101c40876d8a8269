"""`ipa experiment run`: experiments as files, with tables and reports."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.options.experiments import (
    ALLOW_FAILURES,
    FRESH,
    RESULTS_DIR,
    WORKERS,
    check_failures,
    check_reports,
    conducted,
)
from ipa.cli.options.planning import PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import UsageError

if TYPE_CHECKING:
    from ipa.experiment.experiment import Experiment


def run(
    names: list[str] = typer.Argument(
        None,
        metavar="[NAME|FILE]...",
        help="folders of the experiments' folder, or paths of experiment.yaml files; all if not given",
    ),
    *,
    quick: bool = typer.Option(False, "--quick", help="the quick form of each experiment"),
    check: bool = typer.Option(False, "--check", help="read the files and count the cells only"),
    trace: str | None = typer.Option(
        None, "--trace", help="a trace file (or FILE?scale=2&from=1h) instead of the workloads"
    ),
    pipeline: str | None = typer.Option(None, "--pipeline", help="this pipeline instead of the experiment's"),
    workers: int = WORKERS,
    fresh: bool = FRESH,
    allow_failures: bool = ALLOW_FAILURES,
    out: Path = RESULTS_DIR,
    experiments_dir: Path = typer.Option(
        Path("experiments"), "--experiments-dir", help="folder of experiments"
    ),
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Run experiments and write their tables and reports.

    Outcomes are kept by the digest of their inputs, so the same command continues after Ctrl-C and computes
    only what changed. The first Ctrl-C finishes the cells under way.
    """
    from rich.table import Table

    from ipa.experiment.cells import Row
    from ipa.experiment.reading import find_experiment, find_experiments, load_experiment
    from ipa.experiment.report import write_report
    from ipa.experiment.runners import runner_of
    from ipa.settings import Settings

    check_reports()
    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    order = names or list(find_experiments(experiments_dir))
    if not order:
        raise UsageError(
            f"there are no experiments in {experiments_dir}", hint="Name an experiment.yaml file."
        )
    # All files are read before the first cell: a mistake in the last one shows now.
    found = [
        _replaced(
            load_experiment(
                find_experiment(name, experiments_dir),
                quick=quick,
                pipelines_dir=settings.pipelines_dir,
                profiles_dir=settings.profiles_dir,
            ),
            trace,
            pipeline,
        )
        for name in order
    ]
    table = Table("experiment", "cells", "seconds", "report")
    rows, runs = [], list[Row]()
    for experiment in found:
        begin = time.monotonic()
        if check:
            count, page, seconds = len(runner_of(experiment.runner).cells(experiment)[0]), None, None
        else:
            results = conducted(experiment, out, workers, is_fresh=fresh)
            runs += [each.row for each in results.finished]
            count, page = len(results.finished), str(write_report(results, out / experiment.name))
            seconds = round(time.monotonic() - begin, 1)
        rows.append({"experiment": experiment.name, "cells": count, "seconds": seconds, "report": page})
        table.add_row(experiment.name, str(count), "" if seconds is None else f"{seconds:.0f}", page or "")
    show(output, {"experiments": rows}, table)
    check_failures(runs, is_allowed=allow_failures)


def _replaced(experiment: Experiment, trace: str | None, pipeline: str | None) -> Experiment:
    """The experiment with the trace for its workloads, as long as it lasts, and the pipeline for its own."""
    from ipa.experiment.experiment import PipelineArm, WorkloadArm
    from ipa.experiment.runners import SIMULATE
    from ipa.files.traces import trace_file

    if (trace or pipeline) and experiment.runner != SIMULATE:
        raise UsageError(f"--trace and --pipeline are for simulations; {experiment.name} is not one")
    if trace is not None:
        load = WorkloadArm(trace_file(trace).name.partition(".")[0], trace=trace)
        experiment = replace(experiment, workloads=(load,), minutes=None)
    if pipeline is not None:
        experiment = replace(experiment, pipelines=(PipelineArm(pipeline, pipeline),))
    return experiment
