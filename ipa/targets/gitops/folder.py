"""Manifests as files of a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ipa.files.reading import is_file, read_utf8
from ipa.model.errors import ConflictError, InputError, NotFoundError


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
            raise ConflictError(f"{file} was changed since it was read", hint="Read it and decide again.")
        replace_text(file, after)


def read_text(file: Path) -> str:
    """The text of the file, its line ends as they are. NotFoundError, InputError where it is no text."""
    if not is_file(file):
        raise NotFoundError(f"{file} is not a file", hint="`ipa render PIPELINE > FILE.yaml` makes one.")
    return read_utf8(file)


def replace_text(file: Path, text: str) -> None:
    """Put the text in place of the file's; whoever reads it meanwhile sees the one or the other, whole."""
    target = file.resolve()
    draft: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        draft = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(target, draft)
        draft.replace(target)
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
