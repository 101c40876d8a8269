"""The cell, the unit of work of every experiment; its outcome; and the store of outcomes on disk."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version as version_of
from math import nan
from pathlib import Path
from typing import Any

import ipa
from ipa.plugins import Plugin

Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]
Labels = Mapping[str, str | int | float]

# Packages whose versions change figures in their last digits.
NUMERIC = ("highspy", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True)
class ExperimentCell:
    """One run: all its inputs as values.

    `payload` has plain JSON values, `series` long rows of numbers by name (NaN is a gap). The outcome is a
    function of the version, `runner`, `payload` and `series` alone. `labels` are the first columns of the
    results; `weight` is the cell's duration relative to others.
    """

    labels: Labels
    runner: str
    payload: Mapping[str, Any]
    series: Mapping[str, array[float]] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def title(self) -> str:
        """The labels in one line."""
        values = self.labels.values()
        return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)

    def digest(self, version: str) -> str:
        """The address of the outcome: SHA-256 of the version and the inputs, without the labels."""
        rows = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in self.series.items()}
        text = json.dumps([version, self.runner, self.payload, rows], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """The result of a cell: its figures (one row), a table by tick, and wall-clock times."""

    row: Row
    ticks: Columns = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """The labels of a cell and its outcome."""

    labels: Labels
    outcome: CellOutcome

    @property
    def row(self) -> Row:
        """Labels and figures as one row."""
        return {**self.labels, **self.outcome.row}


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """Policies under the same requests: rows and columns in the form of `pandas.DataFrame`.

    The columns of `runs`, of each of `ticks` and of `differences` are those of runs.parquet, ticks.parquet
    and differences.parquet (docs/reference/results.md). `ticks` has a table for each of `runs`.
    """

    runs: tuple[Row, ...]
    ticks: tuple[Columns, ...]
    differences: tuple[Row, ...]


def as_series(values: Sequence[float | None]) -> array[float]:
    """The numbers as a series; None becomes NaN."""
    return array("d", (nan if value is None else value for value in values))


@cache
def code_version() -> str:
    """The version of the code that makes outcomes: ipa's, `+` and a digest of its sources.

    The digest covers the Python files of ipa and the versions of the packages that compute. A checkout and a
    wheel of the same sources have the same version.
    """
    digest = hashlib.sha256()
    package = Path(ipa.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for name in NUMERIC:
        digest.update(f"{name} {version_of(name)}\0".encode())
    return f"{ipa.__version__}+{digest.hexdigest()[:16]}"


def code_of(plugin: Plugin) -> str:
    """A digest of the code of a plug-in that is not part of ipa; empty for a built-in one.

    It covers the folder of its module, or the one file outside a package. Errors: PluginError.
    """
    if plugin.is_ours:
        return ""
    plugin.load()
    module = import_module(plugin.reference.partition(":")[0])
    if module.__file__ is None:
        return plugin.package
    path = Path(module.__file__)
    digest = hashlib.sha256()
    for each in sorted(path.parent.rglob("*.py")) if module.__package__ else [path]:
        digest.update(each.read_bytes() + b"\0")
    return digest.hexdigest()


class CellStore:
    """Finished cells, one file per cell, shared by all experiments that write into the same folder."""

    def __init__(self, folder: Path, version: str) -> None:
        """Use the folder; `version` is that of the code that makes the outcomes (`code_version`)."""
        self._folder, self._version = folder, version

    def load(self, cell: ExperimentCell) -> CellOutcome | None:
        """The outcome of the cell with this version; None if it has not finished."""
        try:
            return CellOutcome(**json.loads(self.path(cell).read_text("utf-8")))
        except FileNotFoundError:
            return None

    def keep(self, cell: ExperimentCell, outcome: CellOutcome) -> None:
        """Write the outcome atomically and durably."""
        path = self.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as stream:
            json.dump(asdict(outcome), stream, separators=(",", ":"), ensure_ascii=False, default=list)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)

    def drop(self, cell: ExperimentCell) -> None:
        """Delete the outcome of the cell."""
        self.path(cell).unlink(missing_ok=True)

    def path(self, cell: ExperimentCell) -> Path:
        """The file of the cell's outcome."""
        digest = cell.digest(self._version)
        return self._folder / digest[:2] / f"{digest}.json"
