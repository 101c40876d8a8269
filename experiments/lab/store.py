"""Finished runs on disk: each is whole and durable, or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from experiments.lab.units import Outcome, Unit


class RunStore:
    """The finished runs of one experiment, a file each, in a folder."""

    def __init__(self, folder: Path, made_with: str) -> None:
        """`made_with` is a digest of the code and files that runs are made with (`made_with`)."""
        self._folder, self._made_with = folder, made_with

    def clear(self) -> None:
        """Forget all runs."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def load(self, unit: Unit) -> Outcome | None:
        """The outcome of that run with this code; None where it has not finished."""
        try:
            return Outcome.from_json(json.loads(self._path(unit).read_text("utf-8")))
        except FileNotFoundError:
            return None

    def keep(self, unit: Unit, outcome: Outcome) -> None:
        """Write the outcome so that a reader finds all of it or nothing, power cuts included."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(unit)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as stream:
            json.dump(outcome.to_json(), stream, separators=(",", ":"), ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)

    def prune(self, units: Iterable[Unit]) -> int:
        """Remove what is no run of these; the number of files that were of other code or arms."""
        wanted = {self._path(unit) for unit in units}
        stale = [path for path in self._folder.glob("*") if path not in wanted]
        for path in stale:
            path.unlink()
        return len(stale)

    def _path(self, unit: Unit) -> Path:
        return self._folder / f"{unit.digest(self._made_with)}.json"


def made_with(root: Path) -> str:
    """A digest of all that decides what a run gives: code, pipelines and profiles of the repository."""
    found = hashlib.sha256()
    for part in ("ipa/**/*.py", "experiments/**/*.py", "pipelines/*/pipeline.yaml", "profiles/*/*.yaml"):
        for path in sorted(root.glob(part)):
            found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
