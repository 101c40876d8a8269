"""Options of the verbs that compute cells of experiments, and what they share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.output import Step, progress
from ipa.model.errors import ConfigurationError
from ipa.model.exits import ExitCode

if TYPE_CHECKING:
    from ipa.experiment.experiment import Experiment
    from ipa.experiment.results import Results

WORKERS = typer.Option(2, "--workers", min=1, max=256, help="processes on this machine")
ENGINE = typer.Option(
    "local", "--engine", help="where cells are computed: local, dask://HOST:PORT or ray://HOST:PORT"
)
FRESH = typer.Option(False, "--fresh", help="compute also the cells whose outcomes are kept")
RESULTS_DIR = typer.Option(
    Path("runs/experiments"), "--out", metavar="DIR", help="folder of kept cells, tables and reports"
)


def check_reports() -> None:
    """ConfigurationError if the package that writes the tables is not installed."""
    if find_spec("pyarrow") is None:
        raise ConfigurationError(
            "tables in Parquet need pyarrow, which this environment lacks",
            hint="Install ipa with its extra `experiments`.",
        )


def conducted(experiment: Experiment, out: Path, engine: str, workers: int, *, is_fresh: bool) -> Results:
    """The results of the experiment, with progress on standard error; exit code 130 after Ctrl-C."""
    from ipa.experiment.engines import Engine, Interrupted
    from ipa.experiment.results import conduct

    def say(words: str) -> None:
        typer.echo(words, err=True)

    def watch(missing: int) -> AbstractContextManager[Step]:
        say(f"{experiment.name}: {missing} cells to compute")
        return progress(experiment.name, missing)

    place = Engine(engine, workers)
    try:
        return conduct(experiment, out, place, is_fresh=is_fresh, watch=watch, say=say)
    except Interrupted as stopped:
        say(str(stopped))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
