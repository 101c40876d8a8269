"""Formats of trace files: each reads a file's lines into arrivals by second or rates over steps of time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from math import floor, inf, isfinite
from pathlib import Path
from typing import Any

from ipa.model.errors import InputError, Problem

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


def _azure_functions(source: Source) -> RecordedLoad:
    """Invocations of each function by minute of a day: their sum over the functions."""
    import numpy as np

    line, header = next(source.lines)
    names = _cells(header, ",")
    minutes = [at for at, name in enumerate(names) if name.isdecimal()]
    if not minutes:
        raise source.fail(
            line, f"{header[:60]!r} has no columns 1 to 1440 of minutes; this is another format"
        )
    sums = np.zeros(len(minutes))
    rows = ((at, dict(zip(names, _cells(text, ","), strict=False))) for at, text in source.lines)
    for at, row in _selected(source, rows):
        cells = [row.get(names[place], "") for place in minutes]
        try:
            counts = np.array(cells, dtype=np.float64)
        except ValueError:
            counts = np.array([inf])
        if not np.all(np.isfinite(counts)) or np.any(counts < 0):
            wrong = next(place for place, cell in enumerate(cells) if number(cell) is None)
            source.problem(at, f"minute {wrong + 1}: {cells[wrong][:40]!r} is not a number of invocations")
        else:
            sums += counts
    return RecordedLoad(steps=[(60.0 * at, float(each) / 60) for at, each in enumerate(sums)], step_s=60.0)


def _azure_invocations(source: Source) -> RecordedLoad:
    """Invocations of the Azure Functions trace of 2021 by their starts: the end less the duration, in s."""
    found = RecordedLoad()
    for line, row in _selected(source, _csv_rows(source)):
        end_s, duration_s = number(row.get("end_timestamp", "")), number(row.get("duration", ""))
        if end_s is None or duration_s is None:
            source.problem(line, "end_timestamp and duration are no seconds from 0 on; correct the line")
        else:
            found.arrive(end_s - duration_s)
    return found


def _alibaba_gpu(source: Source) -> RecordedLoad:
    """Jobs, tasks or instances of cluster-trace-gpu-v2020 by their start_time in s."""
    # The tables have no header: start_time is the fifth of jobs and tasks, the seventh of instances.
    place = 6 if source.path.name.startswith("pai_instance_table") else 4
    found = RecordedLoad()
    for line, text in source.lines:
        cells = _cells(text, ",")
        started = cells[place] if len(cells) > place else ""
        at_s = number(started)
        if at_s is not None:
            found.arrive(at_s)
        elif started not in ("", "start_time"):  # empty for jobs that never started
            source.problem(line, f"column {place + 1}: {started[:40]!r} is no start_time in seconds")
    return found


def _alibaba_microservice(source: Source) -> RecordedLoad:
    """Requests of the call graphs (2021, 2022): the earliest time in ms of each traceid."""
    first: dict[str, float] = {}
    for line, row in _selected(source, _csv_rows(source)):
        text = row.get("timestamp", "")
        at_ms = number(text)
        if at_ms is None:
            source.problem(line, f"timestamp: {text[:40]!r} is not a time in ms")
        else:
            name = row.get("traceid", "")
            first[name] = min(first.get(name, inf), at_ms)
    found = RecordedLoad()
    for at_ms in first.values():
        found.arrive(at_ms / 1e3)
    return found


FORMATS: Mapping[str, Callable[[Source], RecordedLoad]] = {
    "rates": _rates,
    "timestamps": _timestamps,
    "csv": lambda source: _table(source, _csv_rows(source)),
    "jsonl": lambda source: _table(source, _json_rows(source)),
    "azure-functions": _azure_functions,
    "azure-functions-2021": _azure_invocations,
    "azure-llm": lambda source: _table(source, _csv_rows(source)),
    "twitter": _rates,
    "alibaba-gpu": _alibaba_gpu,
    "alibaba-microservice": _alibaba_microservice,
}


def format_of(path: Path, first: str) -> str:
    """The name of the format, by the file's name and first line."""
    names = {cell.lower() for cell in _cells(first, _separator(first))}
    value = number(first)
    is_time = moment(first) is not None and (value is None or value >= EPOCH_S)
    signs = {
        "alibaba-gpu": path.name.startswith(("pai_job_table", "pai_task_table", "pai_instance_table")),
        "jsonl": first.startswith("{"),
        "azure-functions": "hashfunction" in names,
        "azure-functions-2021": {"func", "end_timestamp", "duration"} <= names,
        "alibaba-microservice": {"traceid", "timestamp"} <= names and bool(names & {"rpcid", "rpc_id"}),
        "azure-llm": {"timestamp", "contexttokens"} <= names,
        "csv": len(names) > 1 or _per_s(first) is not None or first.lower() in _COUNTS | _TIMES,
        "timestamps": is_time,
    }
    return next((name for name, is_it in signs.items() if is_it), "rates")
