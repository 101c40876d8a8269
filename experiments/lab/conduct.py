"""Conducts an experiment: from its file to runs, tables and a page."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from experiments.lab.experiment import Experiment, PipelineArm, WorkloadArm
from experiments.lab.files import ROOT, load_experiment
from experiments.lab.loads import read_trace, shape_of
from experiments.lab.pool import run_units
from experiments.lab.published import data_folder
from experiments.lab.report import write_report
from experiments.lab.runners import Runner, runner_of
from experiments.lab.store import RunStore, made_with
from experiments.lab.tables import write_tables
from ipa.model.errors import NotFoundError, UsageError


def prepared(
    path: Path, *, quick: bool = False, trace: Path | None = None, pipeline: str | None = None
) -> Experiment:
    """The experiment in the file, with a trace instead of its workloads and a pipeline instead of its own.

    A trace lasts as long as it is, in either form.
    """
    experiment = load_experiment(path, quick=quick)
    if (trace or pipeline) and experiment.runner != "simulate":
        raise UsageError(f"--trace and --pipeline are for simulations; {experiment.name} is none")
    if trace is not None:
        if not trace.is_file():
            raise NotFoundError(f"there is no trace file {trace}")
        rates = read_trace(trace)
        print(f"{trace}: {shape_of(rates)}", file=sys.stderr)
        arm = WorkloadArm(trace.stem, trace=str(trace))
        experiment = replace(experiment, workloads=(arm,), minutes=len(rates) / 60)
    if pipeline is not None:
        if not (ROOT / "pipelines" / pipeline / "pipeline.yaml").is_file():
            raise NotFoundError(f"there is no pipeline {pipeline!r} in {ROOT / 'pipelines'}")
        experiment = replace(experiment, pipelines=(PipelineArm(pipeline, pipeline),))
    return experiment


def conduct(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 2,
    check_only: bool = False,
    runner: Runner | None = None,
    code: str | None = None,
) -> Path | None:
    """The page of the experiment, written with its tables into a folder of its name under `out`.

    Each run that is finished is on disk; `resume` makes only those that are not, and gives the same bytes as
    a whole run. `code` is a digest of what runs are made with, of this tree where absent: runs of other code
    are made again. Raises Interrupted after Ctrl-C.
    """
    runner = runner or runner_of(experiment.runner)
    data = data_folder()
    units, notes = runner.units(experiment, data)
    if check_only:
        print(f"{experiment.name}: {len(units)} runs")
        return None
    folder = out / experiment.name
    store = RunStore(folder / "runs", code or made_with(ROOT))
    if resume:
        stale = store.prune(units)
        if stale:
            print(f"{experiment.name}: {stale} kept runs are of other code or arms, and made again")
    else:
        store.clear()
    finished = run_units(experiment.name, units, runner.work, store, workers=workers)
    write_tables(finished, folder)
    timings = [{**each.unit.labels, **each.outcome.timings} for each in finished if each.outcome.timings]
    if timings:
        (folder / "timings.json").write_text(json.dumps(timings, indent=1) + "\n", encoding="utf-8")
    return write_report(experiment, runner, finished, notes, folder, data)
