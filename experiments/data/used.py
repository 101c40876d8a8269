"""Says at the terminal which published data a command reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from experiments.data.fetch import sha256
from experiments.data.sources import SOURCES


def used(folder: Path, names: Iterable[str]) -> str:
    """A line for each of the files that is in the folder: path, digest, and the version of its source."""
    versions = {name: source.version for source in SOURCES for name in source.makes}
    lines = [
        f"data: {folder / name} sha256 {sha256(folder / name)}, {versions.get(name, 'put there by hand')}"
        for name in names
        if (folder / name).is_file()
    ]
    return "\n".join(lines) if lines else f"data: none in {folder}; `make data` gets what is public"
