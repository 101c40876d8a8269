"""Manifests as files of a folder."""

from __future__ import annotations

from pathlib import Path

from ipa.files.texts import read_text, replace_text
from ipa.model.errors import ConflictError


class Folder:
    """A folder that a GitOps tool, or something else of yours, looks into."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> str:
        """The file's text. NotFoundError where there is none."""
        return read_text(self._folder / path)

    def write(self, path: str, before: str, after: str, message: str) -> None:
        """Put `after` in place of `before`, at once or not at all. ConflictError: it says something else."""
        file = self._folder / path
        if read_text(file) != before:
            raise ConflictError(
                f"{file} was changed since it was read", hint="Read the current state and plan again."
            )
        replace_text(file, after)
