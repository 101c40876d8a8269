"""Trace files: one whole number of requests a line, a line a second."""

from __future__ import annotations

import gzip
from pathlib import Path

from ipa.model.errors import InputError, NotFoundError, Problem

# A file that is no trace at all need not be quoted line by line.
MOST_PROBLEMS = 20


def read_trace(path: Path, zeros_are_gaps: bool | None = None) -> tuple[float | None, ...]:
    """The rates of a trace file; InputError lists the lines that are not whole numbers from 0 on.

    Gaps are all zeros, none of them, or (None) those in runs where requests were due.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no trace file {path}")
    open_text = gzip.open if path.suffix == ".gz" else open
    rates: list[float | None] = []
    problems: list[Problem] = []
    try:
        with open_text(path, "rt") as lines:
            for number, line in enumerate(lines, 1):
                text = line.strip()
                if text.isdecimal():
                    count = int(text)
                    rates.append(None if zeros_are_gaps and count == 0 else float(count))
                elif text:
                    problems.append(Problem(f"{text[:40]!r} is not a whole number", str(path), number, 1))
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
