"""Trace files: one number of requests a line, a line a second."""

from __future__ import annotations

import gzip
import os
import re
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO

from ipa.files.reading import opened
from ipa.model.errors import InputError, Problem

# A file that is no trace at all need not be quoted line by line.
MOST_PROBLEMS = 20
MOST_CHARACTERS = 100
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
# Four months, a line a second.
MOST_LINES = 10_000_000


def _unpacked(path: Path, raw: BinaryIO) -> BufferedReader | gzip.GzipFile:
    return (
        gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else BufferedReader(FileIO(os.dup(raw.fileno())))
    )


def _rate(text: str) -> float | None:
    """The number in the line; None if it is not one from 0 on."""
    if text.isdecimal():
        return float(text)
    return float(text) if text.isascii() and _DECIMAL.fullmatch(text) else None


def read_trace(path: Path, zeros_are_gaps: bool | None = None) -> tuple[float | None, ...]:
    """The rates of a trace file; InputError lists the lines that are not numbers from 0 on.

    Gaps are all zeros, none of them, or (None) those in runs where requests were due.
    """
    rates: list[float | None] = []
    problems: list[Problem] = []
    try:
        with opened(path) as raw, _unpacked(path, raw) as lines:
            # A line at a time and no more of it than any number has: what is packed may be endless.
            for number, line in enumerate(iter(lambda: lines.readline(MOST_CHARACTERS), b""), 1):
                if number > MOST_LINES:
                    raise InputError(f"{path} has more than {MOST_LINES} lines; a trace has one a second")
                text = line.decode().strip()
                if not text:
                    continue
                rate = _rate(text)
                if rate is None:
                    message = f"{text[:40]!r} is not a number of requests from 0 on"
                    problems.append(Problem(message, str(path), number, 1))
                else:
                    rates.append(None if zeros_are_gaps and rate == 0 else rate)
                if len(problems) == MOST_PROBLEMS:
                    break
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a trace: {error}") from error
    if problems:
        raise InputError("the trace has lines that are not requests a second", problems=problems)
    if zeros_are_gaps is None and any(rates):
        from ipa.forecast.traces import outages

        lost = outages([rate or 0.0 for rate in rates])
        return tuple(None if gone else rate for rate, gone in zip(rates, lost.tolist(), strict=True))
    return tuple(rates)
