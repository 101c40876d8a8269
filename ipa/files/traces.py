"""Traces: a file of recorded requests, with options, as rates by the second.

A trace is written PATH or PATH?option=value&option=value, wherever one is asked for.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from io import BufferedReader, FileIO
from itertools import chain, pairwise
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from ipa.files.quantities import Quantity
from ipa.files.reading import is_file, opened
from ipa.model.errors import InputError, Problem

# More than a row of a thousand columns has.
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


# A file that is no trace at all need not be quoted line by line.
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


@dataclass(slots=True)
class RecordedLoad:
    """The content of a trace file: requests by second, or (start in s, rate in rps) of steps."""

    arrivals: dict[int, int] = field(default_factory=dict)
    steps: list[tuple[float, float]] = field(default_factory=list)
    # Length of a step; None if the times tell it.
    step_s: float | None = None

    def arrive(self, at_s: float) -> None:
        second = floor(at_s)
        self.arrivals[second] = self.arrivals.get(second, 0) + 1


@dataclass(slots=True)
class Source:
    """A trace file's lines with their numbers, and the options that its reader needs."""

    path: Path
    lines: Iterator[tuple[int, str]]
    column: str | None = None
    step_s: float | None = None
    where: tuple[str, str] | None = None
    problems: list[Problem] = field(default_factory=list)

    def problem(self, line: int, message: str) -> None:
        """Note what is wrong in the line; InputError at the twentieth."""
        self.problems.append(Problem(message, str(self.path), line, 1))
        if len(self.problems) == MOST_PROBLEMS:
            self.raise_problems()

    def raise_problems(self) -> None:
        if self.problems:
            raise InputError("the trace has lines that cannot be read", problems=self.problems)

    def fail(self, line: int, message: str) -> InputError:
        return InputError("the trace cannot be read", problems=[Problem(message, str(self.path), line, 1)])


def number(text: str) -> float | None:
    """The number in the text; None if it is not a finite one from 0 on."""
    if len(text) > MOST_CHARACTERS or not text.isascii():
        return None
    if not (text.isdecimal() or _NUMBER.fullmatch(text)):
        return None
    value = float(text)
    return value if isfinite(value) else None


def moment(text: str, unit: str | None = None) -> float | None:
    """The seconds of a time: ISO 8601 (UTC if it names no zone), or a number.

    A number without a unit is in s; from 10¹¹ on in ms, from 10¹⁴ in µs, from 10¹⁷ in ns, as clocks since
    1970 give them. None if it is neither.
    """
    value = number(text)
    if value is not None:
        if unit is None:
            unit = "s" if value < 1e11 else "ms" if value < 1e14 else "us" if value < 1e17 else "ns"
        return value / _TIME_UNITS[unit]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _rates(source: Source) -> RecordedLoad:
    step_s = source.step_s or 1.0
    found = RecordedLoad(step_s=step_s)
    for line, text in source.lines:
        value = number(text)
        if value is None:
            source.problem(line, f"{text[:40]!r} is not a number of requests from 0 on; correct or remove it")
        else:
            found.steps.append((len(found.steps) * step_s, value / step_s))
    return found


def _timestamps(source: Source) -> RecordedLoad:
    found = RecordedLoad()
    for line, text in source.lines:
        at_s = moment(text)
        if at_s is None:
            source.problem(
                line,
                f"{text[:40]!r} is not a time of a request; give ISO 8601 (2026-01-31T12:00:00Z) or seconds",
            )
        else:
            found.arrive(at_s)
    return found


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _cells(text: str, separator: str) -> list[str]:
    if '"' in text:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=separator))]
    return [cell.strip() for cell in text.split(separator)]


def _csv_rows(source: Source) -> Iterator[tuple[int, dict[str, str]]]:
    line, header = next(source.lines)
    separator = _separator(header)
    names = _cells(header, separator)
    if all(moment(name) is not None for name in names):
        raise source.fail(
            line,
            f"{header[:60]!r} has numbers where column names are expected; "
            "add a header line such as time_s,rate_rps",
        )
    for at, text in source.lines:
        cells = _cells(text, separator)
        if len(cells) != len(names):
            source.problem(
                at, f"{text[:40]!r} has {len(cells)} columns; the header has {len(names)}: correct the line"
            )
        else:
            yield at, dict(zip(names, cells, strict=True))


def _json_rows(source: Source) -> Iterator[tuple[int, dict[str, str]]]:
    for line, text in source.lines:
        try:
            row: Any = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield (
                line,
                {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()},
            )
        else:
            source.problem(line, f"{text[:40]!r} is not a JSON object; give one a line, or correct it")


def _selected(
    source: Source, rows: Iterator[tuple[int, dict[str, str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    if source.where is None:
        yield from rows
        return
    name, wanted = source.where
    for line, row in rows:
        if name not in row:
            raise source.fail(line, f"where={name}:{wanted}: there is no column {name!r}; {_there_are(row)}")
        if row[name] == wanted:
            yield line, row


def _there_are(row: Mapping[str, str]) -> str:
    return f"there are: {', '.join(list(row)[:12])}"


@dataclass(frozen=True, slots=True)
class _Columns:
    time: str | None
    value: str | None
    # Seconds that the value's unit is per; None for a number of requests.
    per_s: float | None


def _per_s(name: str) -> float | None:
    return next((seconds for unit, seconds in _PER if unit.search(name.lower())), None)


def _columns(source: Source, line: int, row: Mapping[str, str]) -> _Columns:
    """The columns with the times and the rates or counts. InputError if the names do not tell."""
    time = next((name for name in row if _TIME_UNIT.sub("", name.lower()).lstrip("@") in _TIMES), None)
    if source.column is not None:
        if source.column not in row:
            raise source.fail(line, f"there is no column {source.column!r}; {_there_are(row)}")
        is_time = _TIME_UNIT.sub("", source.column.lower()).lstrip("@") in _TIMES
        if is_time or source.column == time:
            return _Columns(source.column, None, None)
        return _Columns(time, source.column, _per_s(source.column))
    values = [name for name in row if name != time and _per_s(name) is not None]
    values = values or [name for name in row if name != time and name.lower() in _COUNTS]
    if len(values) > 1:
        raise source.fail(
            line, f"several columns may be the load: {', '.join(values)}; choose one with column={values[0]}"
        )
    if not values and time is None:
        raise source.fail(
            line,
            f"no column is a load or a time; {_there_are(row)}. "
            "Name it with column=, or with its unit, as rate_rps",
        )
    return _Columns(time, values[0], _per_s(values[0])) if values else _Columns(time, None, None)


def _table(source: Source, rows: Iterator[tuple[int, dict[str, str]]]) -> RecordedLoad:
    found = RecordedLoad(step_s=source.step_s)
    columns: _Columns | None = None
    unit: str | None = None
    for line, row in _selected(source, rows):
        if columns is None:
            columns = _columns(source, line, row)
            match = _TIME_UNIT.search((columns.time or "").lower())
            unit = match[1] if match else None
            if columns.time is None:
                if columns.per_s is None and source.step_s is None:
                    raise source.fail(
                        line,
                        f"column {columns.value!r} has no unit and there is no column of times; "
                        "give the duration of a line, as step=60s",
                    )
                found.step_s = source.step_s or 1.0
        at_s: float | None = len(found.steps) * (found.step_s or 1.0)
        if columns.time is not None:
            text = row.get(columns.time, "")
            at_s = moment(text, unit)
            if at_s is None:
                source.problem(line, f"{columns.time}: {text[:40]!r} is not a time in ISO 8601 or a number")
                continue
        assert at_s is not None
        if columns.value is None:
            found.arrive(at_s)
            continue
        text = row.get(columns.value, "")
        value = number(text)
        if value is None:
            source.problem(
                line, f"{columns.value}: {text[:40]!r} is not a number from 0 on; correct the line"
            )
        else:
            found.steps.append((at_s, value / columns.per_s if columns.per_s else value))
    source.raise_problems()
    if columns is not None and columns.value is not None:
        found.steps.sort()
        found.step_s = found.step_s or _step_s(source, found.steps)
        if columns.per_s is None:
            found.steps = [(at_s, count / found.step_s) for at_s, count in found.steps]
    return found


def _step_s(source: Source, steps: Sequence[tuple[float, float]]) -> float:
    """The median distance in s between the times."""
    distances = sorted(b[0] - a[0] for a, b in pairwise(steps) if b[0] > a[0])
    if not distances:
        raise source.fail(1, "a single time does not show how long a line lasts; give it, such as step=60s")
    return distances[(len(distances) - 1) // 2]


FORMATS: Mapping[str, Callable[[Source], RecordedLoad]] = {
    "rates": _rates,
    "timestamps": _timestamps,
    "csv": lambda source: _table(source, _csv_rows(source)),
    "jsonl": lambda source: _table(source, _json_rows(source)),
}


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
            found = FORMATS[asked.format or format_of(first[1])](source)
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
