"""Traces: a file of recorded requests, with options, as rates by the second.

Wherever a trace is expected, it is written PATH or PATH?option=value&option=value.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, pairwise
from math import ceil, floor, inf, isfinite
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from ipa.files.reading import is_file, opened
from ipa.model.errors import InputError, Problem
from ipa.model.forms import Quantity

# More than a row of a thousand columns has.
MOST_LINE_BYTES = 100_000
# Four months, a line a second.
MOST_LINES = 10_000_000
# Recorded rates unpack to some ten times their packed size, and files made to fill the memory to a thousand.
MOST_RATIO = 100
PARQUET = b"PAR1"
# Bounds the memory if two lines are years apart.
MOST_SECONDS = 10_000_000
# In the package: an hour of requests to a language model at Azure (CC BY 4.0).
EXAMPLE_TRACE = "azure-conversation"
SPAN = Quantity(
    "span",
    'a span of time with its unit, such as "30s" or "2h"',
    {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)},
)
Rates = Sequence[float | None]


# A file that is no trace need not be quoted line by line.
MOST_PROBLEMS = 20
# A number has fewer characters.
MOST_CHARACTERS = 100
_NUMBER = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
# Words of a time column, of a column of counts, and endings of a column of rates with their seconds.
_TIMES = {
    "time", "timestamp", "ts", "t", "date", "datetime", "second", "seconds", "arrival", "arrival_time",
    "arrived_at", "start_time", "request_time", "created_at",
}  # fmt: skip
_COUNTS = {"requests", "request_count", "count", "counts", "invocations", "calls", "hits", "arrivals"}
_PER = (
    (re.compile(r"(^|[_ (\[])(rps|qps|tps|req/s|requests/s|1/s|hz)[)\]]?$|per[_ ]?sec(ond)?\)?$"), 1.0),
    (re.compile(r"(^|[_ (\[])(rpm|qpm|req/min|requests/min|1/min)[)\]]?$|per[_ ]?min(ute)?\)?$"), 60.0),
    (re.compile(r"(^|[_ (\[])(rph|req/h|requests/h|1/h)[)\]]?$|per[_ ]?hour\)?$"), 3600.0),
)
_TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_TIME_UNIT = re.compile(r"[_ (\[]+(s|ms|us|ns)[)\]]?$")
# Seconds since 1970 have ten digits from 2001 on; no service gets this many requests a second.
EPOCH_S = 1e9


def number(text: str) -> float | None:
    """The number in the text; None unless it is finite and at least 0."""
    if len(text) > MOST_CHARACTERS or not text.isascii():
        return None
    if not (text.isdecimal() or _NUMBER.fullmatch(text)):
        return None
    value = float(text)
    return value if isfinite(value) else None


def moment(text: str, unit: str | None = None) -> float | None:
    """The seconds of a time: ISO 8601 (UTC if it names no zone), or a number.

    A number without a unit is in s; from 10¹¹ on in ms, from 10¹⁴ in µs, from 10¹⁷ in ns, as clocks since
    1970 give them. None if the text is neither.
    """
    value = number(text)
    if value is not None:
        if unit is None:
            unit = "s" if value < 1e11 else "ms" if value < 1e14 else "us" if value < 1e17 else "ns"
        return value / _TIME_UNITS[unit]
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class TraceReference:
    """A trace file and how to read it; the options apply in the order of these fields."""

    path: Path
    format: str | None = None
    column: str | None = None
    step_s: float | None = None
    from_s: float = 0.0
    to_s: float | None = None
    scale: float = 1.0
    mean_rps: float | None = None


@dataclass(slots=True)
class _Trace:
    """A trace file while it is read: its options, its lines with their numbers, and unreadable lines."""

    reference: TraceReference
    lines: Iterator[tuple[int, str]]
    problems: list[Problem] = field(default_factory=list)

    def problem(self, line: int, message: str) -> None:
        """Note the fault of the line; InputError at the twentieth."""
        self.problems.append(Problem(message, str(self.reference.path), line, 1))
        if len(self.problems) == MOST_PROBLEMS:
            self.raise_problems()

    def raise_problems(self) -> None:
        if self.problems:
            raise InputError("the trace has lines that cannot be read", problems=self.problems)

    def fail(self, line: int, message: str) -> InputError:
        problem = Problem(message, str(self.reference.path), line, 1)
        return InputError("the trace cannot be read", problems=[problem])


Rows = Iterator[tuple[int, dict[str, str]]]


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _cells(text: str, separator: str) -> list[str]:
    if '"' in text:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=separator))]
    return [cell.strip() for cell in text.split(separator)]


def _csv_rows(trace: _Trace) -> Rows:
    line, header = next(trace.lines)
    separator = _separator(header)
    names = _cells(header, separator)
    if all(moment(name) is not None for name in names):
        raise trace.fail(
            line,
            f"{header[:60]!r} has numbers where column names are expected; "
            "add a header line such as time_s,rate_rps",
        )
    for at, text in trace.lines:
        cells = _cells(text, separator)
        if len(cells) != len(names):
            trace.problem(
                at, f"{text[:40]!r} has {len(cells)} columns; the header has {len(names)}: correct the line"
            )
        else:
            yield at, dict(zip(names, cells, strict=True))


def _json_rows(trace: _Trace) -> Rows:
    for line, text in trace.lines:
        try:
            row: Any = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield line, {name: it if isinstance(it, str) else json.dumps(it) for name, it in row.items()}
        else:
            trace.problem(line, f"{text[:40]!r} is not a JSON object; give one a line, or correct it")


def _there_are(row: Mapping[str, str]) -> str:
    return f"there are: {', '.join(list(row)[:12])}"


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns with the times and the values; `per_s` are the seconds of the value's unit, if any."""

    time: str | None
    value: str | None
    per_s: float | None = None


# Of the formats whose lines are one number or one time.
_ALONE = {"rates": _Columns(None, "requests"), "timestamps": _Columns("time", None)}
FORMATS = (*_ALONE, "csv", "jsonl")


def _per_s(name: str) -> float | None:
    return next((seconds for unit, seconds in _PER if unit.search(name.lower())), None)


def _is_time(name: str) -> bool:
    return _TIME_UNIT.sub("", name.lower()).lstrip("@") in _TIMES


def _columns(trace: _Trace, line: int, row: Mapping[str, str]) -> _Columns:
    """The columns with the times and the rates or counts. InputError if the names do not identify them."""
    time = next(filter(_is_time, row), None)
    column = trace.reference.column
    if column is not None:
        if column not in row:
            raise trace.fail(line, f"there is no column {column!r}; {_there_are(row)}")
        return _Columns(column, None) if _is_time(column) else _Columns(time, column, _per_s(column))
    values = [name for name in row if name != time and _per_s(name) is not None]
    values = values or [name for name in row if name != time and name.lower() in _COUNTS]
    if len(values) > 1:
        raise trace.fail(
            line, f"several columns may be the load: {', '.join(values)}; choose one with column={values[0]}"
        )
    if not values and time is None:
        raise trace.fail(
            line,
            f"no column is a load or a time; {_there_are(row)}. "
            "Name it with column=, or with its unit, as rate_rps",
        )
    columns = _Columns(time, values[0], _per_s(values[0])) if values else _Columns(time, None)
    if time is None and columns.per_s is None and trace.reference.step_s is None:
        raise trace.fail(
            line,
            f"column {columns.value!r} has no unit and there is no column of times; "
            "give the duration of a line, as step=60s",
        )
    return columns


def _by_line(trace: _Trace, rows: Rows, columns: _Columns | None) -> list[float | None]:
    """The rates of rows by the second: of steps if there is a column of values, else of arrivals."""
    arrivals: Counter[int] = Counter()
    steps: list[tuple[float, float]] = []
    step_s, unit = trace.reference.step_s, None
    for line, row in rows:
        if columns is None:
            columns = _columns(trace, line, row)
            unit = match[1] if (match := _TIME_UNIT.search((columns.time or "").lower())) else None
        assert columns is not None, "it was found at the first row"
        if columns.time is None:
            step_s = step_s or 1.0
            at_s: float | None = len(steps) * step_s
        else:
            at_s = moment(text := row.get(columns.time, ""), unit)
        if at_s is None:
            words = "is not a time; give ISO 8601 (2026-01-31T12:00:00Z) or a number"
            trace.problem(line, f"{columns.time}: {text[:40]!r} {words}")
        elif columns.value is None:
            arrivals[floor(at_s)] += 1
        elif (value := number(text := row.get(columns.value, ""))) is None:
            trace.problem(line, f"{columns.value}: {text[:40]!r} is not a number from 0 on; correct the line")
        else:
            steps.append((at_s, value / (columns.per_s or 1.0)))
    trace.raise_problems()
    if arrivals:
        first, last = min(arrivals), max(arrivals)
        _check_span(trace.reference.path, last - first)
        return [float(arrivals[second]) for second in range(first, last + 1)]
    if not steps or columns is None:
        return []
    steps.sort()
    step_s = step_s or _step_s(trace, steps)
    if columns.per_s is None:
        steps = [(at_s, count / step_s) for at_s, count in steps]
    return _by_second(trace.reference.path, steps, step_s)


def _step_s(trace: _Trace, steps: Sequence[tuple[float, float]]) -> float:
    """The median distance in s between the times."""
    distances = sorted(b[0] - a[0] for a, b in pairwise(steps) if b[0] > a[0])
    if not distances:
        raise trace.fail(1, "a single time does not show how long a line lasts; give it, such as step=60s")
    return distances[(len(distances) - 1) // 2]


def format_of(first: str) -> str:
    """The name of the format, by the file's first line."""
    names = _cells(first, _separator(first))
    value = number(first)
    if first.startswith("{"):
        return "jsonl"
    if len(names) > 1 or _per_s(first) is not None or first.lower() in _COUNTS | _TIMES:
        return "csv"
    is_time = moment(first) is not None and (value is None or value >= EPOCH_S)
    return "timestamps" if is_time else "rates"


def trace_file(trace: str | Path) -> Path:
    """The file of a trace, without its options; the packaged trace if only that has the name."""
    text = str(trace)
    if is_file(Path(text)):
        return Path(text)
    path = Path(text.partition("?")[0])
    is_packaged = str(path) == EXAMPLE_TRACE and not is_file(path)
    return Path(__file__).parent / "example" / "traces" / f"{EXAMPLE_TRACE}.csv" if is_packaged else path


def trace_in(folder: Path, trace: str) -> str:
    """The trace with its path relative to the folder; unchanged if it is the packaged one."""
    is_packaged = trace.partition("?")[0] == EXAMPLE_TRACE and not is_file(folder / EXAMPLE_TRACE)
    return trace if is_packaged else str(folder / trace)


# Of each option the field, what reads it, and what it must be if a value may also be read as nothing.
OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "format": ("format", {name: name for name in FORMATS}.get, f"one of {', '.join(FORMATS)}"),
    "column": ("column", str, ""),
    "step": ("step_s", SPAN.parse, "a time above 0s"),
    "from": ("from_s", SPAN.parse, ""),
    "to": ("to_s", SPAN.parse, ""),
    "scale": ("scale", number, "a number above 0"),
    "mean": ("mean_rps", number, "a number above 0"),
}


def parse_trace(trace: str | Path) -> TraceReference:
    """The trace's file and options. InputError names an unknown option or a value that cannot be read."""
    text, path = str(trace), trace_file(trace)
    if is_file(Path(text)) or "?" not in text:
        return TraceReference(path)
    given: dict[str, Any] = {}
    for part in text.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name not in OPTIONS or not value:
            raise InputError(
                f"trace {text}: {part!r} is not known", hint=f"Give name=value; names: {', '.join(OPTIONS)}"
            )
        field, read, wanted = OPTIONS[name]
        try:
            given[field] = read(unquote(value))
        except ValueError as error:
            raise InputError(f"trace {text}: {part}: {error}") from error
        if wanted and not given[field]:
            raise InputError(f"trace {text}: {part} is not {wanted}", hint="Correct it.")
    return TraceReference(path, **given)


def read_trace(trace: str | Path, *, finds_outages: bool = True) -> tuple[float | None, ...]:
    """The rates of a trace in rps, one a second; InputError lists the lines that cannot be read.

    Gaps (None) are the seconds without a record and, with `finds_outages`, runs of zeros in which requests
    were expected. Errors: InputError, NotFoundError.
    """
    reference = parse_trace(trace)
    rates = _recorded(reference)
    if finds_outages and any(rates):
        from ipa.forecast.traces import outages

        lost = outages([rate or 0.0 for rate in rates])
        rates = [None if gone else rate for rate, gone in zip(rates, lost.tolist(), strict=True)]
    return tuple(_transformed(reference, rates))


def read_rates(trace: str | Path) -> tuple[float, ...]:
    """The rates of a trace in rps, one a second, 0 if nothing was recorded. Errors as `read_trace`."""
    return tuple(rate or 0.0 for rate in read_trace(trace, finds_outages=False))


def _unpacked(path: Path, raw: BinaryIO) -> BinaryIO | gzip.GzipFile:
    if path.suffix != ".gz":
        return raw
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


def _texts(path: Path, file: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    """The lines of a text file, or the rows of a Parquet file as JSON."""
    is_parquet = file.read(len(PARQUET)) == PARQUET
    file.seek(0)
    if not is_parquet:
        # A line at a time and no more of it than any has: what is packed may be endless.
        lines = iter(lambda: file.readline(MOST_LINE_BYTES), b"")
        yield from (line.decode("utf-8-sig").strip() for line in lines)
        return
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        hint = "Install ipa with its extra `experiments`, or save it as CSV."
        raise InputError(f"{path} is a Parquet file, which pyarrow reads", hint=hint) from error
    stored = ParquetFile(file)
    # Times of Python have no nanoseconds.
    kept = [
        (it.name, pa.timestamp("us", it.type.tz) if pa.types.is_timestamp(it.type) else it.type)
        for it in stored.schema_arrow
    ]
    for batch in stored.iter_batches():
        for row in batch.cast(pa.schema(kept), safe=False).to_pylist():
            yield json.dumps(row, default=str)


def _lines(path: Path, texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    for at, text in enumerate(texts, 1):
        if at > MOST_LINES:
            raise InputError(
                f"{path} has more than {MOST_LINES} lines", hint="Split it, or sum it by the second."
            )
        if text and not text.startswith("#"):
            yield at, text


def _recorded(reference: TraceReference) -> list[float | None]:
    """The rates in the file by the second."""
    path = reference.path
    try:
        with opened(path) as raw, _unpacked(path, raw) as file:
            lines = _lines(path, _texts(path, file))
            first = next(lines, None)
            if first is None:
                return []
            trace = _Trace(reference, chain([first], lines))
            kind = reference.format or format_of(first[1])
            if (alone := _ALONE.get(kind)) is not None:
                name = alone.time or alone.value or ""
                return _by_line(trace, ((line, {name: text}) for line, text in trace.lines), alone)
            return _by_line(trace, (_csv_rows if kind == "csv" else _json_rows)(trace), None)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a trace: {error}") from error


def _by_second(path: Path, steps: Sequence[tuple[float, float]], step_s: float) -> list[float | None]:
    """The mean rate in each second, None for a second without steps."""
    origin_s = steps[0][0]
    if step_s == 1.0 and steps[-1][0] - origin_s == len(steps) - 1:
        return [rate for _, rate in steps]
    _check_span(path, steps[-1][0] + step_s - origin_s)
    seconds = max(ceil(steps[-1][0] + step_s - origin_s - 1e-9), 1)
    requests, covered_s = [0.0] * seconds, [0.0] * seconds
    nexts = [at_s - origin_s for at_s, _ in steps[1:]]
    for (at_s, rate), next_s in zip(steps, [*nexts, inf], strict=True):
        start_s = at_s - origin_s
        until_s = min(start_s + step_s, next_s)
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
            hint="Check the times and their unit, which the column's name may have, as time_ms.",
        )


def _transformed(reference: TraceReference, rates: Rates) -> Rates:
    """The rates in the window, scaled."""
    length = len(rates)
    rates = rates[floor(reference.from_s) : None if reference.to_s is None else ceil(reference.to_s)]
    if length and not rates:
        raise InputError(
            f"{reference.path} has nothing from {reference.from_s:g} s to "
            f"{'its end' if reference.to_s is None else f'{reference.to_s:g} s'}: it lasts {length} s",
            hint="Correct from= and to=.",
        )
    scale = reference.scale
    if reference.mean_rps is not None:
        known = [rate for rate in rates if rate is not None]
        if not any(known):
            raise InputError(f"{reference.path} has no requests to scale to mean={reference.mean_rps:g}")
        scale *= reference.mean_rps / (sum(known) / len(known))
    return rates if scale == 1 else [None if rate is None else rate * scale for rate in rates]
