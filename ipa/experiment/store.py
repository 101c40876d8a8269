"""Outcomes on disk by the digest of their cell: each is whole and durable, or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ipa.experiment.cells import CellOutcome, ExperimentCell


class CellStore:
    """Finished cells, a file each, shared by all experiments that write into the same folder."""

    def __init__(self, folder: Path, version: str) -> None:
        """`version` is that of the code that makes the outcomes (`code_version`)."""
        self._folder, self._version = folder, version

    def load(self, cell: ExperimentCell) -> CellOutcome | None:
        """The outcome of the cell with this version; None if it has not finished."""
        try:
            return CellOutcome.from_json(json.loads(self.path(cell).read_text("utf-8")))
        except FileNotFoundError:
            return None

    def keep(self, cell: ExperimentCell, outcome: CellOutcome) -> None:
        """Write the outcome so that a reader finds all of it or nothing, power cuts included."""
        path = self.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as stream:
            json.dump(outcome.to_json(), stream, separators=(",", ":"), ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)

    def drop(self, cell: ExperimentCell) -> None:
        """Forget the outcome of the cell."""
        self.path(cell).unlink(missing_ok=True)

    def path(self, cell: ExperimentCell) -> Path:
        """The file of the cell's outcome."""
        digest = cell.digest(self._version)
        return self._folder / digest[:2] / f"{digest}.json"
