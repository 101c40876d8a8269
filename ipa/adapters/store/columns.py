"""JSON values in columns, as few bytes, for `ipa.adapters.store.packing`.

A value of a column is one of three: the value before it, the value of another column (in the same row, or its
newest before that), or a literal. Literals are written by type: whole numbers as differences, floats as
decimals if they have few digits, times as microseconds, texts by their words and the numbers between them.
The compressor takes care of repetition.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import copysign, isfinite
from typing import Any

from ipa.control.canonical import ENCODER

# The entry of a column in a row without a value.
MISSING: Any = object()
# The value of each row, or MISSING.
Column = Sequence[Any]
# The ways to encode a value.
AS_BEFORE, BY_REFERENCE, LITERAL = range(3)
# Rows on which a reference to another column is tried.
SAMPLE = 12


# Kinds of literals, in the order in which they are written.
NULL, FALSE, TRUE, INT, FLOAT, TEXT, LIST = range(7)
KINDS: Mapping[type, int] = {type(None): NULL, int: INT, float: FLOAT, str: TEXT, list: LIST}
# Bound of the values of one kind in a column: the lists of a thousand rows hold a million.
MOST_VALUES = 10**7
# Floats with more digits are written as doubles.
MOST_DECIMALS, MOST_MANTISSA = 12, 10**10
# The encodings of floats.
DOUBLES, REPEATED, SCALED = range(3)
DIGITS = re.compile(r"([0-9]{1,15})")
HEX = re.compile(r"[0-9a-f]{64}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class ColumnWriter:
    """A byte buffer that numbers of any size and blocks are appended to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """Append a whole number, 0 or more."""
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def block(self, data: bytes) -> None:
        """Append the length of the bytes, and the bytes."""
        self.number(len(data))
        self.data += data

    def signed(self, values: Sequence[int]) -> None:
        """Append whole numbers of either sign; a small one takes a byte."""
        for value in values:
            self.number(value << 1 if value >= 0 else ~value << 1 | 1)


class ColumnReader:
    """The reader of a `ColumnWriter`'s bytes; ValueError if they end early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        """Return the next number."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def block(self) -> bytes:
        """Return the next block."""
        return self.take(self.number())

    def signed(self, count: int) -> list[int]:
        """Return that many numbers of either sign."""
        coded = [self.number() for _ in range(count)]
        return [value >> 1 if not value & 1 else ~(value >> 1) for value in coded]

    def take(self, count: int) -> bytes:
        """Return that many bytes."""
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise ValueError("it ends early")
        self._at += count
        return found


def same(one: Any, other: Any) -> bool:
    """True if both have the same JSON text: 1, 1.0 and true differ, and so do 0.0 and -0.0."""
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and (type(one) is not float or copysign(1.0, one) == copysign(1.0, other))


def write_values(values: Sequence[Any], writer: ColumnWriter) -> None:
    """Write literals: their kinds, then the values of each kind together."""
    kinds = bytes(
        TRUE if value is True else FALSE if value is False else KINDS[type(value)] for value in values
    )
    if len(set(kinds)) == 1:
        writer.number(kinds[0] + 1)
    else:
        writer.number(0)
        writer.data += kinds
    for kind, (write, _) in WRITTEN.items():
        mine = [value for value, each in zip(values, kinds, strict=True) if each == kind]
        if mine:
            write(mine, writer)


def read_values(count: int, reader: ColumnReader) -> list[Any]:
    """Read `count` literals; ValueError for more than a block can hold."""
    if count > MOST_VALUES:
        raise ValueError(f"it says to hold {count} values")
    kind = reader.number()
    kinds = bytes([kind - 1]) * count if kind else reader.take(count)
    found: dict[int, Iterator[Any]] = {}
    for each, (_, read) in WRITTEN.items():
        mine = kinds.count(each)
        if mine:
            found[each] = iter(read(mine, reader))
    fixed = {NULL: None, FALSE: False, TRUE: True}
    return [fixed[each] if each in fixed else next(found[each]) for each in kinds]


def _write_ints(values: Sequence[int], writer: ColumnWriter) -> None:
    """Write numbers, or their differences if these are smaller."""
    steps = [values[0], *(new - old for old, new in pairwise(values))] if values else []
    is_stepped = sum(map(abs, steps)) < sum(map(abs, values))
    writer.number(is_stepped)
    writer.signed(steps if is_stepped else values)


def _read_ints(count: int, reader: ColumnReader) -> list[int]:
    is_stepped = reader.number()
    values = reader.signed(count)
    if is_stepped:
        for at in range(1, count):
            values[at] += values[at - 1]
    return values


def _write_floats(values: Sequence[float], writer: ColumnWriter) -> None:
    """Write decimals of one scale if all have few digits; else doubles, repeated ones once."""
    scale = next((each for each in range(MOST_DECIMALS + 1) if _are_decimals(values, each)), None)
    if scale is not None:
        writer.number(SCALED + scale)
        _write_ints([round(value * 10**scale) for value in values], writer)
        return
    different = list(dict.fromkeys(values))
    if 2 * len(different) > len(values) or 0.0 in different:
        writer.number(DOUBLES)
        _write_doubles(values, writer)
        return
    writer.number(REPEATED)
    writer.number(len(different))
    _write_doubles(different, writer)
    places = {value: place for place, value in enumerate(different)}
    _write_ints([places[value] for value in values], writer)


def _read_floats(count: int, reader: ColumnReader) -> list[float]:
    head = reader.number()
    if head >= SCALED:
        return [value / 10 ** (head - SCALED) for value in _read_ints(count, reader)]
    if head == DOUBLES:
        return _read_doubles(count, reader)
    different = _read_doubles(reader.number(), reader)
    return [different[place] for place in _read_ints(count, reader)]


def _write_doubles(values: Sequence[float], writer: ColumnWriter) -> None:
    """Write the bytes of each position together: those of the exponents are alike."""
    data = struct.pack(f"<{len(values)}d", *values)
    writer.data += b"".join(data[place::8] for place in range(8))


def _read_doubles(count: int, reader: ColumnReader) -> list[float]:
    planes = reader.take(8 * count)
    data = b"".join(planes[place::count] for place in range(count))
    return list(struct.unpack(f"<{count}d", data))


def _are_decimals(values: Sequence[float], scale: int) -> bool:
    power = 10**scale
    for value in values:
        if not abs(value) * power < MOST_MANTISSA:
            return False
        if not same(round(value * power) / power, value):
            return False
    return True


def _write_texts(values: Sequence[str], writer: ColumnWriter) -> None:
    """Write digests as bytes, times as microseconds, other texts as words with their numbers in columns."""
    if all(map(HEX.fullmatch, values)):
        writer.number(0)
        writer.data += bytes.fromhex("".join(values))
        return
    times = _times(values)
    if times:
        writer.number(1)
        _write_ints(times, writer)
        return
    writer.number(2)
    frames: dict[str, int] = {}
    numbers: dict[tuple[int, int], list[int]] = {}
    places = []
    for value in values:
        parts = DIGITS.split(scalar_text(value))
        frame = frames.setdefault("\0".join(parts[::2]), len(frames))
        places.append(frame)
        for at, part in enumerate(parts[1::2]):
            # With a one in front, which keeps leading zeros.
            numbers.setdefault((frame, at), []).append(int("1" + part))
    writer.block("\1".join(frames).encode())
    _write_ints(places, writer)
    for mine in sorted(numbers):
        _write_ints(numbers[mine], writer)


def _read_texts(count: int, reader: ColumnReader) -> list[str]:
    head = reader.number()
    if head == 0:
        data = reader.take(32 * count).hex()
        return [data[at : at + 64] for at in range(0, len(data), 64)]
    if head == 1:
        return [(EPOCH + at * MICROSECOND).isoformat() for at in _read_ints(count, reader)]
    frames = [frame.split("\0") for frame in reader.block().decode().split("\1")]
    places = _read_ints(count, reader)
    numbers: list[list[Iterator[int]]] = [
        [iter(_read_ints(places.count(place), reader)) for _ in frame[1:]]
        for place, frame in enumerate(frames)
    ]
    found = []
    for place in places:
        first, *rest = frames[place]
        digits = (str(next(each))[1:] for each in numbers[place])
        text = first + "".join(map(str.__add__, digits, rest))
        found.append(str(json.loads(text)))
    return found


def _times(values: Sequence[str]) -> list[int]:
    """The microseconds of the texts if all are times in UTC in Python's form; else empty."""
    found = []
    for value in values:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            return []
        if time.tzinfo is None or time.utcoffset() or time.isoformat() != value:
            return []
        found.append((time - EPOCH) // MICROSECOND)
    return found


def _write_lists(values: Sequence[list[Any]], writer: ColumnWriter) -> None:
    """Write each list as its overlap with the list before, shifted, and the new values at its end."""
    before: list[Any] = []
    shifts, rests, tails = [], [], []
    for value in values:
        shift = next(at for at in range(len(before) + 1) if _continues(before, value, at))
        tail = value[len(before) - shift :]
        shifts.append(shift)
        rests.append(len(tail))
        tails += tail
        before = value
    _write_ints(shifts, writer)
    _write_ints(rests, writer)
    write_values(tails, writer) if tails else None


def _read_lists(count: int, reader: ColumnReader) -> list[list[Any]]:
    shifts, rests = _read_ints(count, reader), _read_ints(count, reader)
    tails = iter(read_values(sum(rests), reader) if sum(rests) else ())
    before: list[Any] = []
    found = []
    for shift, rest in zip(shifts, rests, strict=True):
        before = before[shift:] + [next(tails) for _ in range(rest)]
        found.append(before)
    return found


def _continues(before: list[Any], value: list[Any], shift: int) -> bool:
    kept = len(before) - shift
    return kept <= len(value) and all(map(same, before[shift:], value[:kept]))


WRITTEN: Mapping[
    int, tuple[Callable[[Any, ColumnWriter], None], Callable[[int, ColumnReader], Sequence[Any]]]
] = {
    INT: (_write_ints, _read_ints),
    FLOAT: (_write_floats, _read_floats),
    TEXT: (_write_texts, _read_texts),
    LIST: (_write_lists, _read_lists),
}


def scalar_text(value: Any) -> str:
    """Return the scalar as canonical JSON."""
    if type(value) is float and isfinite(value):
        return float.__repr__(value)
    return ENCODER.encode(value)


def is_repeated(before: Any, value: Any) -> bool:
    """True if the value is certainly the same as the one before it (zeros may differ in sign)."""
    return type(before) is type(value) and bool(value) and bool(before == value) and type(value) is not list


def write_columns(columns: Sequence[Column], writer: ColumnWriter) -> None:
    """Write the columns; each may refer to the ones before it. A column without values takes no byte."""
    # By the index of a column that varies: the column, and the column shifted by one row.
    sources: dict[int, tuple[Column, Column]] = {}
    for index, column in enumerate(columns):
        values = [value for value in column if value is not MISSING]
        if not values:
            continue
        if all(same(values[0], each) for each in values[1:]):
            writer.number(0)
            write_values(values[:1], writer)
            continue
        place, lag = _reference(sources, column)
        writer.number(1 + 2 * place + lag if place >= 0 else 1 + 2 * len(columns))
        ops, literals = bytearray(), []
        source: Column = sources[place][lag] if place >= 0 else [MISSING] * len(column)
        before: Any = MISSING
        for value, other in zip(column, source, strict=True):
            if value is MISSING:
                continue
            if before is not MISSING and same(before, value):
                ops.append(AS_BEFORE)
            elif same(other, value):
                ops.append(BY_REFERENCE)
            else:
                ops.append(LITERAL)
                literals.append(value)
            before = value
        writer.data += ops
        writer.number(len(literals))
        write_values(literals, writer)
        sources[index] = column, _moved_on(column)


def read_columns(rows: Sequence[Sequence[int]], count: int, reader: ColumnReader) -> list[list[Any]]:
    """Read the columns of `count` rows; `rows` holds, per column, the rows that have a value."""
    columns: list[list[Any]] = []
    for mine in rows:
        column: list[Any] = [MISSING] * count
        columns.append(column)
        if not mine:
            continue
        head = reader.number()
        if head == 0:
            [value] = read_values(1, reader)
            for row in mine:
                column[row] = value
            continue
        place, lag = divmod(head - 1, 2)
        source: Column = columns[place] if place < len(columns) - 1 else ()
        if lag:
            source = _moved_on(source)
        ops = reader.take(len(mine))
        literals = iter(read_values(reader.number(), reader))
        value = None
        for row, op in zip(mine, ops, strict=True):
            if op == BY_REFERENCE:
                value = source[row]
            elif op == LITERAL:
                value = next(literals)
            column[row] = value
    return columns


def _moved_on(column: Column) -> list[Any]:
    """The column's newest value before each row; MISSING if there is none."""
    found, newest = [], MISSING
    for value in column:
        found.append(newest)
        if value is not MISSING:
            newest = value
    return found


def _reference(sources: Mapping[int, tuple[Column, Column]], column: Column) -> tuple[int, int]:
    """The source column with most of the changed values, and 1 if it is shifted; (-1, 0) for none."""
    changed, before = [], MISSING
    for row, value in enumerate(column):
        if value is MISSING:
            continue
        if before is not MISSING and not same(before, value):
            changed.append(row)
        before = value
    sample = changed[:: max(1, len(changed) // SAMPLE)]
    best, found = 0, (-1, 0)
    for place in reversed(list(sources)):
        for lag in (0, 1):
            source = sources[place][lag]
            hits = sum(same(source[row], column[row]) for row in sample)
            if hits > best:
                best, found = hits, (place, lag)
        if best == len(sample):
            break
    return found
