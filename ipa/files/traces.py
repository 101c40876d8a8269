"""Traces: a file of recorded requests in any known format, with options, as rates by the second.

A trace is written PATH or PATH?option=value&option=value, wherever one is asked for.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from io import BufferedReader, FileIO
from itertools import chain, pairwise
from math import ceil, floor
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from ipa.files.quantities import Quantity
from ipa.files.reading import is_file, opened
from ipa.files.trace_formats import FORMATS, RecordedLoad, Source, format_of, number
from ipa.model.errors import InputError

# A row of Azure's functions has 1440 numbers.
MOST_LINE_BYTES = 100_000
# Four months, a line a second.
MOST_LINES = 10_000_000
# Recorded rates unpack to some ten times their packed size, and files made to fill the memory to a thousand.
MOST_RATIO = 100
# Bounds the memory where two lines are years apart.
MOST_SECONDS = 10_000_000
EXAMPLE_TRACE = "azure-conversation"
SPAN = Quantity(
    "span",
    'a span of time with its unit, such as "30s" or "2h"',
    {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)},
)
OPTIONS = ("format", "column", "where", "step", "from", "to", "speed", "average", "scale", "mean")
Rates = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class TraceReference:
    """A trace file and how it is read; the options apply in the order of these fields."""

    path: Path
    format: str | None = None
    column: str | None = None
    where: tuple[str, str] | None = None
    step_s: float | None = None
    from_s: float = 0.0
    to_s: float | None = None
    speed: float = 1.0
    average_s: float | None = None
    scale: float = 1.0
    mean_rps: float | None = None


def example_trace() -> Path:
    """The trace in the package: an hour of requests to a language model at Azure (CC BY 4.0)."""
    return Path(str(resources.files(__package__).joinpath("example", "traces", f"{EXAMPLE_TRACE}.csv")))


def trace_file(trace: str | Path) -> Path:
    """The file of a trace, without its options; the packaged one for its name if no file has it."""
    text = str(trace)
    if is_file(Path(text)):
        return Path(text)
    path = Path(text.partition("?")[0])
    return example_trace() if str(path) == EXAMPLE_TRACE and not is_file(path) else path


def trace_in(folder: Path, trace: str) -> str:
    """The trace with its path taken from the folder; unchanged if it is the packaged one."""
    is_packaged = trace.partition("?")[0] == EXAMPLE_TRACE and not is_file(folder / EXAMPLE_TRACE)
    return trace if is_packaged else str(folder / trace)


def parse_trace(trace: str | Path) -> TraceReference:
    """The trace's file and options. InputError names an unknown option or a value that cannot be read."""
    text, path = str(trace), trace_file(trace)
    if is_file(Path(text)) or "?" not in text:
        return TraceReference(path)
    given: dict[str, str] = {}
    for part in text.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name not in OPTIONS or not value:
            raise InputError(
                f"trace {text}: {part!r} is no option", hint=f"Give name=value; names: {', '.join(OPTIONS)}"
            )
        given[name] = unquote(value)

    def span_s(name: str) -> float | None:
        if name not in given:
            return None
        try:
            return SPAN.parse(given[name])
        except ValueError as error:
            raise InputError(f"trace {text}: {name}={given[name]}: {error}") from error

    def positive(name: str) -> float | None:
        value = number(given[name]) if name in given else None
        if name in given and not value:
            raise InputError(
                f"trace {text}: {name}={given[name]} is not a number above 0", hint="Correct it."
            )
        return value

    for name in ("step", "average"):
        if span_s(name) == 0:
            raise InputError(f"trace {text}: {name}={given[name]} is not a time", hint="Give more than 0s.")
    if "format" in given and given["format"] not in FORMATS:
        raise InputError(
            f"trace {text}: there is no format {given['format']!r}", hint=f"There are: {', '.join(FORMATS)}"
        )
    where = given.get("where", "").partition(":")
    if "where" in given and not where[1]:
        raise InputError(
            f"trace {text}: where={given['where']} is no COLUMN:VALUE", hint="As where=Trigger:http."
        )
    return TraceReference(
        path,
        given.get("format"),
        given.get("column"),
        (where[0], where[2]) if where[1] else None,
        span_s("step"),
        span_s("from") or 0.0,
        span_s("to"),
        positive("speed") or 1.0,
        span_s("average"),
        positive("scale") or 1.0,
        positive("mean"),
    )


def read_trace(trace: str | Path, zeros_are_gaps: bool | None = None) -> tuple[float | None, ...]:
    """The rates of a trace in rps, one a second; InputError lists the lines that cannot be read.

    Gaps (None) are the seconds without a record, and of the zeros all, none, or (zeros_are_gaps=None) those
    in runs where requests were due. Errors: InputError, NotFoundError.
    """
    asked = parse_trace(trace)
    rates = _by_second(asked.path, _recorded(asked))
    if zeros_are_gaps:
        rates = [rate or None for rate in rates]
    elif zeros_are_gaps is None and any(rates):
        from ipa.forecast.traces import outages

        lost = outages([rate or 0.0 for rate in rates])
        rates = [None if gone else rate for rate, gone in zip(rates, lost.tolist(), strict=True)]
    return tuple(_transformed(asked, rates))


def read_rates(trace: str | Path) -> tuple[float, ...]:
    """The rates of a trace in rps, one a second, 0 where nothing was recorded. Errors as `read_trace`."""
    return tuple(rate or 0.0 for rate in read_trace(trace, zeros_are_gaps=False))


def _unpacked(path: Path, raw: BinaryIO) -> BufferedReader | gzip.GzipFile:
    if path.suffix != ".gz":
        return BufferedReader(FileIO(os.dup(raw.fileno())))
    file = gzip.GzipFile(fileobj=raw)
    # Unpacked first without being parsed, which takes a hundred times as long.
    left = MOST_RATIO * os.fstat(raw.fileno()).st_size
    while left >= 0 and (part := file.read(MOST_LINE_BYTES)):
        left -= len(part)
    if left < 0:
        raise InputError(
            f"{path} unpacks to more than {MOST_RATIO} times its size",
            hint="If it is meant, unpack it first.",
        )
    file.seek(0)
    return file


def _lines(path: Path, file: BufferedReader | gzip.GzipFile) -> Iterator[tuple[int, str]]:
    # A line at a time and no more of it than any has: what is packed may be endless.
    for at, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
        if at > MOST_LINES:
            raise InputError(
                f"{path} has more than {MOST_LINES} lines", hint="Split it, or sum it by the second."
            )
        text = line.decode("utf-8-sig" if at == 1 else "utf-8").strip()
        if text and not text.startswith("#"):
            yield at, text


def _recorded(asked: TraceReference) -> RecordedLoad:
    path = asked.path
    try:
        with opened(path) as raw, _unpacked(path, raw) as file:
            lines = _lines(path, file)
            first = next(lines, None)
            if first is None:
                return RecordedLoad(step_s=1.0)
            source = Source(path, chain([first], lines), asked.column, asked.step_s, asked.where)
            found = FORMATS[asked.format or format_of(path, first[1])](source)
            source.raise_problems()
            return found
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a trace: {error}") from error


def _by_second(path: Path, found: RecordedLoad) -> list[float | None]:
    if found.arrivals:
        first, last = min(found.arrivals), max(found.arrivals)
        _check_span(path, last - first)
        return [float(found.arrivals.get(second, 0)) for second in range(first, last + 1)]
    if not found.steps:
        return []
    step_s = found.step_s or 1.0
    if step_s == 1.0 and found.steps[-1][0] - found.steps[0][0] == len(found.steps) - 1:
        return [rate for _, rate in found.steps]
    origin_s = found.steps[0][0]
    _check_span(path, found.steps[-1][0] + step_s - origin_s)
    seconds = max(ceil(found.steps[-1][0] + step_s - origin_s - 1e-9), 1)
    requests, covered_s = [0.0] * seconds, [0.0] * seconds
    for place, (at_s, rate) in enumerate(found.steps):
        start_s = at_s - origin_s
        until_s = start_s + step_s
        if place + 1 < len(found.steps):
            until_s = min(until_s, found.steps[place + 1][0] - origin_s)
        for second in range(floor(start_s), min(ceil(until_s), seconds)):
            part_s = min(until_s, second + 1) - max(start_s, second)
            requests[second] += rate * part_s
            covered_s[second] += part_s
    return [
        total / part_s if part_s > 1e-9 else None for total, part_s in zip(requests, covered_s, strict=True)
    ]


def _check_span(path: Path, seconds: float) -> None:
    if seconds >= MOST_SECONDS:
        raise InputError(
            f"{path} spans {seconds:.3g} s; at most {MOST_SECONDS} are read",
            hint="Is a time wrong, or its unit? Name the column with it, as time_ms.",
        )


def _mean(rates: Rates) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _transformed(asked: TraceReference, rates: Rates) -> Rates:
    """The rates in the window, faster, averaged and scaled."""
    length = len(rates)
    rates = rates[floor(asked.from_s) : None if asked.to_s is None else ceil(asked.to_s)]
    if length and not rates:
        raise InputError(
            f"{asked.path} has nothing from {asked.from_s:g} s to "
            f"{'its end' if asked.to_s is None else f'{asked.to_s:g} s'}: it lasts {length} s",
            hint="Correct from= and to=.",
        )
    if asked.speed != 1:
        if len(rates) < asked.speed:
            raise InputError(
                f"{asked.path}: speed={asked.speed:g} leaves nothing of {len(rates)} s", hint="Give less."
            )
        edges = [floor(at * asked.speed) for at in range(floor(len(rates) / asked.speed) + 1)]
        rates = [_mean(rates[a : max(b, a + 1)]) for a, b in pairwise(edges)]
    if asked.average_s is not None:
        block = max(round(asked.average_s), 1)
        means = [_mean(rates[at : at + block]) for at in range(0, len(rates), block)]
        rates = [means[at // block] for at in range(len(rates))]
    scale = asked.scale
    if asked.mean_rps is not None:
        mean = _mean(rates)
        if not mean:
            raise InputError(f"{asked.path} has no requests to scale to mean={asked.mean_rps:g}")
        scale *= asked.mean_rps / mean
    return rates if scale == 1 else [None if rate is None else rate * scale for rate in rates]
