"""`ipa compare`: policies on one pipeline under one load, with a table and a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ipa.cli.options.planning import PIPELINE, PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import NotFoundError, UsageError
from ipa.policies.registry import POLICIES

if TYPE_CHECKING:
    from rich.table import Table as TextTable

    from ipa.report.blocks import Table as ReportTable


def compare(
    pipeline: str = PIPELINE,
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
    workers: int = WORKERS,
    fresh: bool = FRESH,
    allow_failures: bool = ALLOW_FAILURES,
    out: Path = RESULTS_DIR,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Compare policies on one pipeline under the same requests.

    Prints the figures of each policy and their differences from the reference, and writes a report beside
    tables in Parquet. Outcomes are kept: the same command continues after Ctrl-C.
    """
    from ipa.experiment.experiment import Experiment, PipelineArm, WorkloadArm
    from ipa.experiment.loads import SLA_PATTERN, SLA_WORDS
    from ipa.experiment.report import write_report
    from ipa.experiment.results import differences_of
    from ipa.experiment.runners import SIMULATE, runner_of
    from ipa.files.pipelines import find_pipeline
    from ipa.files.reading import is_file
    from ipa.files.traces import trace_file
    from ipa.report.blocks import Table
    from ipa.settings import Settings
    from ipa.simulate.arrivals import WORKLOADS

    check_reports()
    names = tuple(dict.fromkeys(POLICIES.admit(name.strip()) for name in policies.split(",") if name.strip()))
    if not names:
        raise UsageError("--policies names none", hint=POLICIES.known())
    reference = reference or names[-1]
    if reference not in names:
        raise UsageError(f"--reference {reference!r} is not among --policies {policies}")
    for text in sla:
        if not re.fullmatch(SLA_PATTERN, text):
            raise UsageError(f"--sla {text} is not {SLA_WORDS}")
    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
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
        title=f"{', '.join(names)} on {name} under {load.name}",
        runner=SIMULATE,
        path=Path(),
        pipelines_dir=settings.pipelines_dir,
        profiles_dir=settings.profiles_dir,
        minutes=minutes,
        seeds=tuple(range(1, seeds + 1)),
        pipelines=(PipelineArm(pipeline, name),),
        workloads=(load,),
        slas=tuple(dict.fromkeys(sla)),
        policies=names,
        reference=reference if len(names) > 1 else None,
    )
    results = conducted(experiment, out, workers, is_fresh=fresh)
    page = write_report(results, out / experiment.name)
    values: dict[str, Any] = {
        "runs": [each.row for each in results.finished],
        "differences": differences_of(results),
        "report": str(page),
    }
    blocks = runner_of(SIMULATE).blocks(experiment, results.finished)[:3]
    tables = [
        each for block in blocks if isinstance(block, Table) for each in (block.caption, _as_text(block))
    ]
    show(output, values, *tables, f"Report: {page}")
    check_failures(values["runs"], is_allowed=allow_failures)


def _as_text(table: ReportTable) -> TextTable:
    """A table of a report for the terminal."""
    from rich.table import Table

    found = Table(*table.header)
    for at in range(table.texts, len(table.header)):
        found.columns[at].justify = "right"
    for rows in table.groups:
        for row in rows:
            found.add_row(*(cell.in_words for cell in row))
    return found
