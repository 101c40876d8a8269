"""`ipa simulate`, `compare` and `experiment run`: pipelines under a load, controlled by policies."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli import options
from ipa.cli.arguments import Bundle
from ipa.cli.options import FileFolders, accelerator_counts, names, option
from ipa.cli.output import OUTPUT, Output, progress, say, show
from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import ConfigurationError, ExitCode, NotFoundError, PluginError, Problem, UsageError
from ipa.policies.registry import POLICIES
from ipa.simulate.registry import AND, AS_PROFILED

if TYPE_CHECKING:
    from ipa.experiment.results import Results
    from ipa.experiment.runners import Experiment

EXPERIMENTS = Path("experiments")
ALLOW_FAILURES = typer.Option(
    False, "--allow-failures", help="exit with 0 although a policy or forecaster failed at ticks"
)


def simulate(
    pipeline: str = options.FILE_PIPELINE,
    *,
    workload: str = typer.Option(
        "bursty",
        help="bursty, steady_low, steady_high, fluctuating, or a trace file (or FILE?scale=2&from=1h)",
    ),
    policy: str | None = option(
        None, POLICIES, "--policy", help_text="one of `ipa serve`; ours if not given"
    ),
    seed: int = typer.Option(
        0, min=0, help="seed of arrivals and service times; equal seeds give equal runs"
    ),
    repeats: int = typer.Option(
        1, min=1, max=20, help="number of seeds, from --seed on; prints means and 95 % intervals"
    ),
    objective: str | None = options.OBJECTIVE,
    minutes: float | None = typer.Option(
        None, min=0.0, help="minutes of the workload to use; all if not given"
    ),
    times: float = typer.Option(1.0, min=0.0, help="factor on the rates of the workload"),
    spacing: str = typer.Option("poisson", help="arrivals within a second: poisson, even or burst"),
    forecaster: str | None = option(
        None, FORECASTERS, "--forecaster", "--forecast", help_text=f"one of: {names(FORECASTERS)}"
    ),
    target: str = typer.Option("local", help="replace and observe pods as local or kubernetes does"),
    world: list[str] = options.WORLD,
    capacity: float | None = typer.Option(None, help="cores of the cluster; pods that do not fit wait"),
    accelerators: list[str] = typer.Option(
        [], help="KIND=COUNT of the cluster, such as nvidia.com/gpu=4; may be repeated"
    ),
    allow_failures: bool = ALLOW_FAILURES,
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Run the control loop on a simulated pipeline and print the results."""
    from ipa.bootstrap.targets import check_honoured, target_named
    from ipa.cli.views.result_text import result_lines
    from ipa.service.simulation import as_served, over_seeds_of, rates_of

    place = target_named(target)
    described, profiles, given = folders.load(pipeline)
    check_honoured(place, [described])
    setup = as_served(described, profiles, rates_of(workload, minutes, times), given, place)
    setup = replace(
        setup,
        policy=policy or "ours",
        objective=objective,
        seed=seed,
        spacing=spacing,
        forecast=replace(setup.forecast, name=forecaster or given.forecaster),
        cluster=replace(setup.cluster, capacity_cores=capacity, capacity=accelerator_counts(accelerators)),
        world=AND.join(world) or AS_PROFILED,
    )
    with progress(f"simulating {len(setup.rates_rps) / 60:g} min", repeats if repeats > 1 else None) as step:
        first, figures = over_seeds_of(setup, repeats, step)
    figures = {"world": setup.world, **figures}
    show(output, figures, result_lines(first, figures, repeats))
    check_failures([{"policy": first.policy, **figures}], is_allowed=allow_failures)


def check_reports() -> None:
    """ConfigurationError if a package that writes tables or reports is not installed."""
    missing = [name for name in ("pyarrow", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"tables and reports need {', '.join(missing)}, which this environment lacks",
            hint="Install ipa with its extra `experiments`.",
        )


def check_failures(runs: Iterable[Mapping[str, Any]], *, is_allowed: bool) -> None:
    """PluginError if runs have failed ticks, with the first of each policy; a warning if allowed."""
    failed: dict[str, str] = {}
    for run in runs:
        if run.get("failed_ticks"):
            failed.setdefault(str(run["policy"]), str(run["first_failure"]))
    if not failed:
        return
    error = PluginError(
        f"{', '.join(failed)} failed at ticks of these runs, so their figures do not count",
        problems=[Problem(f"{policy}, {first}") for policy, first in failed.items()],
        hint="Fix what failed; --allow-failures exits with 0 all the same.",
    )
    if not is_allowed:
        raise error
    typer.echo(f"warning: {error.message}", err=True)


@dataclass(frozen=True, slots=True)
class Cells(Bundle):
    """The options for computing the cells of experiments, and the folder that keeps them."""

    workers: int = typer.Option(2, "--workers", min=1, max=256, help="processes on this machine")
    fresh: bool = typer.Option(False, "--fresh", help="also compute the cells whose outcomes are kept")
    allow_failures: bool = ALLOW_FAILURES
    out: Path = typer.Option(
        Path("runs/experiments"), "--out", metavar="DIR", help="folder of kept cells, tables and reports"
    )

    def conduct(self, experiment: Experiment) -> Results:
        """The results of the experiment, with progress on standard error; exit code 130 after Ctrl-C."""
        from ipa.experiment.results import Interrupted, conduct

        watch = partial(progress, experiment.name)
        try:
            return conduct(experiment, self.out, self.workers, is_fresh=self.fresh, watch=watch, say=say)
        except Interrupted as stopped:
            say(str(stopped))
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def compare(
    pipeline: str = options.FILE_PIPELINE,
    *,
    policies: str = typer.Option(
        "ours,ipa,hpa", "--policies", help="policies separated by commas; module:attribute too"
    ),
    trace: str = typer.Option(
        "bursty",
        "--trace",
        help="bursty, steady_low, steady_high, fluctuating, or a trace file (or FILE?scale=2&from=1h)",
    ),
    reference: str | None = typer.Option(
        None, "--reference", help="policy that the others are compared with; the last one if not given"
    ),
    seeds: int = typer.Option(3, "--seeds", min=1, max=100, help="number of seeds; one has no interval"),
    sla: list[str] = typer.Option(
        ["own"], "--sla", help="own, a multiple of the fastest plan's latency such as 1.5x, or a duration"
    ),
    minutes: float | None = typer.Option(
        None, min=0.01, max=14_400, help="minutes; all of the trace if absent"
    ),
    world: list[str] = options.WORLD,
    cells: Cells,
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Compare policies on one pipeline under the same requests.

    Prints the figures of each policy and their differences from the reference, and writes a report beside
    tables in Parquet. Outcomes are kept: the same command continues after Ctrl-C.
    """
    from ipa.cli.views.result_text import as_table
    from ipa.experiment.loads import SLA_PATTERN, SLA_WORDS
    from ipa.experiment.report import write_report
    from ipa.experiment.results import differences_of
    from ipa.experiment.runners import SIMULATE, Experiment, PipelineArm, WorkloadArm, runner_of
    from ipa.files.pipelines import find_pipeline
    from ipa.files.reading import is_file
    from ipa.files.traces import trace_file
    from ipa.forecast.arrivals import WORKLOADS
    from ipa.report.blocks import Table

    check_reports()
    admitted = tuple(
        dict.fromkeys(POLICIES.admit(name.strip()) for name in policies.split(",") if name.strip())
    )
    if not admitted:
        raise UsageError("--policies names no policy", hint=POLICIES.known())
    reference = reference or admitted[-1]
    if reference not in admitted:
        raise UsageError(f"--reference {reference!r} is not among --policies {policies}")
    for text in sla:
        if not re.fullmatch(SLA_PATTERN, text):
            raise UsageError(f"--sla {text} is not {SLA_WORDS}")
    settings = folders.settings
    name = find_pipeline(pipeline, settings.pipelines_dir).name
    if trace in WORKLOADS:
        load = WorkloadArm(trace, like=trace)
    elif is_file(trace_file(trace)):
        load = WorkloadArm(trace_file(trace).name.partition(".")[0], trace=trace)
    else:
        raise NotFoundError(
            f"there is no trace file and no load {trace!r}", hint=f"Loads are: {', '.join(WORKLOADS)}"
        )
    experiment = Experiment(
        name=f"compare-{name}-{load.name}",
        title=f"{', '.join(admitted)} on {name} under {load.name}",
        runner=SIMULATE,
        path=Path(),
        pipelines_dir=settings.pipelines_dir,
        profiles_dir=settings.profiles_dir,
        minutes=minutes,
        seeds=tuple(range(1, seeds + 1)),
        pipelines=(PipelineArm(pipeline, name),),
        workloads=(load,),
        slas=tuple(dict.fromkeys(sla)),
        worlds=(AND.join(world) or AS_PROFILED,),
        policies=admitted,
        reference=reference if len(admitted) > 1 else None,
    )
    results = cells.conduct(experiment)
    page = write_report(results, cells.out / experiment.name)
    values: dict[str, Any] = {
        "runs": [each.row for each in results.finished],
        "differences": differences_of(results),
        "report": str(page),
    }
    blocks = runner_of(SIMULATE).blocks(experiment, results.finished)[:3]
    tables = [
        each for block in blocks if isinstance(block, Table) for each in (block.caption, as_table(block))
    ]
    show(output, values, *tables, f"Report: {page}")
    check_failures(values["runs"], is_allowed=cells.allow_failures)


def run(
    names: list[str] = typer.Argument(
        None,
        metavar="[NAME|FILE]...",
        help="folders of experiments/, or paths of experiment.yaml files; all if not given",
    ),
    *,
    quick: bool = typer.Option(False, "--quick", help="the quick form of each experiment"),
    check: bool = typer.Option(False, "--check", help="read the files and count the cells only"),
    cells: Cells,
    output: Output = OUTPUT,
    folders: FileFolders,
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

    check_reports()
    settings = folders.settings
    order = names or list(find_experiments(EXPERIMENTS))
    if not order:
        raise UsageError(f"there are no experiments in {EXPERIMENTS}", hint="Name an experiment.yaml file.")
    # All files are read before the first cell: a mistake in the last one shows now.
    experiments = [
        load_experiment(
            find_experiment(name, EXPERIMENTS),
            quick=quick,
            pipelines_dir=settings.pipelines_dir,
            profiles_dir=settings.profiles_dir,
        )
        for name in order
    ]
    table = Table("experiment", "cells", "seconds", "report")
    rows, runs = [], list[Row]()
    for experiment in experiments:
        begin = time.monotonic()
        if check:
            count, page, seconds = len(runner_of(experiment.runner).cells(experiment)[0]), None, None
        else:
            results = cells.conduct(experiment)
            runs += [each.row for each in results.finished]
            count, page = len(results.finished), str(write_report(results, cells.out / experiment.name))
            seconds = round(time.monotonic() - begin, 1)
        rows.append({"experiment": experiment.name, "cells": count, "seconds": seconds, "report": page})
        table.add_row(experiment.name, str(count), "" if seconds is None else f"{seconds:.0f}", page or "")
    show(output, {"experiments": rows}, table)
    check_failures(runs, is_allowed=cells.allow_failures)
