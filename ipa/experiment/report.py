"""The report of an experiment: one HTML page with its origin."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path

import ipa
from ipa.adapters.processes import processor_name
from ipa.experiment.cells import NUMERIC, code_version
from ipa.experiment.results import Results
from ipa.experiment.runners import runner_of
from ipa.model.rounding import in_utc
from ipa.report.blocks import Block, Heading, Paragraph, Table, TableCell, as_page

PAGE = "report.html"
GIT_S = 5.0


def write_report(results: Results, folder: Path) -> Path:
    """Write the page of the experiment into the folder; returns its path."""
    experiment = results.experiment
    blocks: list[Block] = [Paragraph(each, is_note=True) for each in results.notes]
    blocks += runner_of(experiment.runner).blocks(experiment, results.finished)
    blocks += _origin(results)
    page = folder / PAGE
    page.write_text(as_page(experiment.title, experiment.question, blocks), encoding="utf-8")
    return page


def _origin(results: Results) -> Iterator[Block]:
    experiment = results.experiment
    seeds = ", ".join(map(str, experiment.seeds))
    form = "The quick form" if experiment.is_quick else "The full form"
    yield Heading("How it was made")
    words = f"{form} of {experiment.name}: {len(results.finished)} cells, seeds {seeds}."
    yield Paragraph(f"{words} {runner_of(experiment.runner).words(experiment)}".strip())
    rows = [[TableCell(name), TableCell(value, kind="text")] for name, value in _facts()]
    yield Table("Origin of the figures.", ["", "value"], [rows], texts=2)
    yield Paragraph(
        "Beside this page: runs.parquet has a row for each run, ticks.parquet a row for each tick, "
        "differences.parquet a row for each difference; their columns are described in the files. Equal code "
        "and inputs give equal bytes in them, on any machine. CITATION.cff says how to cite.",
        is_note=True,
    )


def _facts() -> Iterator[tuple[str, str]]:
    """The origin of what this process makes now. SOURCE_DATE_EPOCH, in seconds, replaces the date."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "ipa (version and digest of its code)", code_version()
    yield "commit", _commit(Path(ipa.__file__).parent) or "not known: ipa was not run from a checkout"
    yield "date", in_utc(now)
    yield "machine", f"{processor_name()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB of memory"
    yield "system", f"{platform.platform()}, Python {platform.python_version()}"
    yield "packages", ", ".join(f"{name} {version_of(name)}" for name in NUMERIC)


def _commit(folder: Path) -> str:
    """The commit of the folder's checkout, with a note if a file was changed; empty outside a checkout."""
    words = ("--always", "--abbrev=40", "--exclude=*", "--dirty= with uncommitted changes")
    command = ["git", "-C", str(folder), "describe", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
