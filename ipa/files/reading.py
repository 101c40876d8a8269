"""Input files that people name: regular files of a bounded size; errors name any other kind of file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ipa.model.errors import InputError, NotFoundError

# A manifest or a saved plan of the largest pipeline takes a tenth.
MAX_BYTES = 10_000_000
# A line of an exported record: a decision with its inputs takes some 10 kB.
MAX_LINE_BYTES = 10_000_000


def is_file(path: Path) -> bool:
    """True for a regular file, links followed; False also for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading.

    NotFoundError if there is none; InputError if it is a folder, a device or a pipe, which might never end,
    or cannot be read.
    """
    try:
        # A pipe without a writer would block; what is no regular file is refused below.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is not a file", hint="Give a regular file: no folder, device or pipe.")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bytes(path: Path, most_bytes: int = MAX_BYTES) -> bytes:
    """Content of the file. Errors as `opened`; InputError also if it is larger."""
    with opened(path) as file:
        try:
            content = file.read(most_bytes + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
    if len(content) > most_bytes:
        raise InputError(f"{path} is larger than {most_bytes} bytes", hint="Is it the file that you meant?")
    return content


def read_utf8(path: Path, most_bytes: int = MAX_BYTES) -> str:
    """The text of a file that an option names; InputError if it is missing, too large or not UTF-8."""
    try:
        return read_bytes(path, most_bytes).decode("utf-8")
    except NotFoundError as error:
        raise InputError(f"{path} cannot be read: it does not exist") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start}; save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """The values in a JSON file; InputError as `read_utf8`, and if it is not JSON."""
    try:
        return json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{path} is not JSON: {why}") from error


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file of any length; InputError as `read_utf8`, and for a line that is too long."""
    if not path.exists():
        raise InputError(f"{path} cannot be read: it does not exist")
    with opened(path) as file:
        for number in count(1):
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except OSError as error:
                raise _unreadable(path, error) from error
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"{path}:{number} is longer than {MAX_LINE_BYTES} bytes")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number} is not UTF-8: byte {error.start}") from error


def _unreadable(path: Path, error: Exception) -> InputError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return InputError(f"{path} cannot be read: {why}")
