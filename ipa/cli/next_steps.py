"""The files that `ipa init` and `ipa import` write, and the steps that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from ipa.cli.output import Output, show
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

SLA = typer.Option("1s", "--sla", help="latency SLA, end to end")
PERCENTILE = typer.Option(
    99.0, "--percentile", min=50, max=99.99, help="percentile of the requests that must meet the SLA"
)
CORES = typer.Option(
    None, "--cores", min=0.1, help="most cores for all replicas together; no limit if not given"
)
FORCE = typer.Option(False, "--force", help="overwrite existing files, except measured profiles")


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """The files written and kept, the fields that a person must fill in, and the next commands."""

    pipeline: str
    written: tuple[str, ...]
    kept: tuple[str, ...]
    to_fill_in: tuple[str, ...]
    next: tuple[str, ...]
    notes: tuple[str, ...] = ()
    # The running configuration, if the files were made from a workload.
    running: tuple[StageConfig, ...] = ()


def started(
    pipeline: Pipeline,
    pipelines_dir: Path,
    profiles_dir: Path,
    *,
    notes: Sequence[str] = (),
    running: Sequence[StageConfig] = (),
    force: bool = False,
) -> WrittenFiles:
    """Write the files and check them. ConflictError as of `write_new`."""
    from ipa.files.check import check_files
    from ipa.files.skeleton import write_new

    files = write_new(pipeline, pipelines_dir, profiles_dir, notes=tuple(notes), force=force)
    paths = [path for path in (*files.written, *files.kept) if path.suffix == ".yaml"]
    checked = check_files(paths, pipelines_dir, profiles_dir)
    problems = tuple(str(problem) for each in checked for problem in each.problems)
    name = pipeline.name
    steps = [f"ipa validate {pipelines_dir / name} {profiles_dir / name}"] if problems else []
    return WrittenFiles(
        name,
        tuple(map(str, files.written)),
        tuple(map(str, files.kept)),
        problems,
        (*steps, f"ipa plan {name} --rate 10"),
        tuple(notes),
        tuple(running),
    )


def show_started(output: Output, found: WrittenFiles) -> None:
    """Print the files, the running configuration and the steps that are left."""
    from rich.text import Text

    lines = [f"wrote {path}" for path in found.written]
    lines += [f"kept  {path}: it was measured" for path in found.kept]
    lines += [f"runs  {config}" for config in found.running]
    lines += [f"note: {note}" for note in found.notes]
    if found.to_fill_in:
        lines.append("still to fill in (`ipa profile` does, where the models run on this machine):")
        lines += [f"  {problem}" for problem in found.to_fill_in]
    lines.append("next: " + "; then ".join(found.next))
    show(output, asdict(found), *map(Text, lines))
