"""Options of the verbs that compute cells of experiments, and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.output import Step, progress
from ipa.model.errors import ConfigurationError, ExitCode, PluginError, Problem

if TYPE_CHECKING:
    from ipa.experiment.experiment import Experiment
    from ipa.experiment.results import Results

WORKERS = typer.Option(2, "--workers", min=1, max=256, help="processes on this machine")
FRESH = typer.Option(False, "--fresh", help="also compute the cells whose outcomes are kept")
ALLOW_FAILURES = typer.Option(
    False, "--allow-failures", help="exit with 0 although a policy or forecaster failed at ticks"
)
RESULTS_DIR = typer.Option(
    Path("runs/experiments"), "--out", metavar="DIR", help="folder of kept cells, tables and reports"
)


def check_reports() -> None:
    """ConfigurationError if a package that writes tables or reports is not installed."""
    missing = [name for name in ("pyarrow", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"tables and reports need {', '.join(missing)}, which this environment lacks",
            hint="Install ipa with its extra `experiments`.",
        )


def check_failures(runs: Iterable[Mapping[str, Any]], *, is_allowed: bool) -> None:
    """PluginError if runs have failed ticks; it lists the first of each policy. Allowed, it is a warning."""
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


def conducted(experiment: Experiment, out: Path, workers: int, *, is_fresh: bool) -> Results:
    """The results of the experiment, with progress on standard error; exit code 130 after Ctrl-C."""
    from ipa.experiment.results import Interrupted, conduct

    def say(words: str) -> None:
        typer.echo(words, err=True)

    def watch(missing: int) -> AbstractContextManager[Step]:
        say(f"{experiment.name}: {missing} cells to compute")
        return progress(experiment.name, missing)

    try:
        return conduct(experiment, out, workers, is_fresh=is_fresh, watch=watch, say=say)
    except Interrupted as stopped:
        say(str(stopped))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
