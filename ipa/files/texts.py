"""Texts of files, read as they are and replaced at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ipa.files.reading import is_file, read_utf8
from ipa.model.errors import InputError, NotFoundError


def read_text(file: Path) -> str:
    """The text of the file, its line ends as they are. Errors: NotFoundError, InputError (not UTF-8)."""
    if not is_file(file):
        raise NotFoundError(f"{file} is not a file", hint="`ipa render PIPELINE > FILE.yaml` makes one.")
    return read_utf8(file)


def replace_text(file: Path, text: str) -> None:
    """Replace the text of the file; a reader sees the old text or the new one, whole. InputError."""
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
