"""The reader of blocks that version 0.1 sealed: values in columns, under LZMA.

A row's texts were split into a shape, the JSON without its values, and the values, in columns that held their
changes only. A column was a path, and held the value before, that of another column, or a literal written by
type. Nothing writes this format any more; blocks stay as they were signed until retention thins them.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import isfinite
from typing import Any

from ipa.control.canonical import ENCODER, digest

FORMAT_1 = b"\x01"
# Begins a short text that holds both texts of a row whole.
WHOLE = "\x05"
FILTERS = [
    {"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 1, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL,
     "nice_len": 273, "mf": lzma.MF_BT4, "depth": 512}
]  # fmt: skip
# The placeholder of a value in a shape, and the separator of a shape's texts: decision, inputs, entry.
HOLE, BETWEEN = "\x01", "\x02"
# The paths of texts that follow from the others, if their value is true.
INPUTS, INPUTS_DIGEST, CONTENT, PREVIOUS = "0/inputs", "0/inputs_digest", "2/content", "2/previous"
# A row without a value in a column.
MISSING: Any = object()
# The origins of a column's value other than the row before.
BY_REFERENCE, LITERAL = 1, 2
# The kinds of literals, in the order in which they were written.
NULL, FALSE, TRUE, INT, FLOAT, TEXT, LIST = range(7)
# Bound of the values of one kind in a column.
MOST_VALUES = 10**7
# The encodings of floats: doubles, indexes of different doubles, or decimals of a scale.
DOUBLES, REPEATED, SCALED = range(3)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def read_texts(block: bytes) -> list[str]:
    """Return the short texts of the block's rows; other errors than ValueError if it is damaged."""
    if block[:1] != FORMAT_1:
        raise ValueError(f"its format is {block[:1].hex() or 'not given'}, which is unknown")
    return [WHOLE + json.dumps(texts) for texts in _rows_of_format_1(block)]


def _rows_of_format_1(block: bytes) -> list[tuple[str, str | None]]:
    """The texts of each row's entry and decision."""
    reader = _Reader(lzma.decompress(block[1:], lzma.FORMAT_RAW, filters=FILTERS))
    texts = reader.block().decode().split("\n")
    order = [reader.number() for _ in range(reader.number())]
    places: dict[str, int] = {}
    shapes = [_paths(text, places) for text in texts]
    holders: list[list[int]] = [[] for _ in places]
    for row, index in enumerate(order):
        for path in shapes[index]:
            holders[places[path]].append(row)
    columns = _columns(holders, len(order), reader)
    rows: list[tuple[str, str | None]] = []
    before = ""
    for row, index in enumerate(order):
        values = [(path, columns[places[path]][row]) for path in shapes[index]]
        shape = texts[index].split(BETWEEN)
        ends = [text.count(HOLE) for text in shape]
        second, third = ends[0], ends[0] + ends[1]
        inputs = _filled(shape[1], values[second:third], {}) if shape[1] else ""
        decision = None
        if shape[0]:
            derived = {INPUTS: inputs, INPUTS_DIGEST: digest(inputs)}
            decision = _filled(shape[0], values[:second], derived)
        rows.append(
            (_filled(shape[2], values[third:], {CONTENT: digest(decision or ""), PREVIOUS: before}), decision)
        )
        before = digest(rows[-1][0])
    return rows


def _paths(shape: str, places: dict[str, int]) -> list[str]:
    """The paths of the shape's values; `places` gets the columns of new ones."""
    paths: list[str] = []
    for at, text in enumerate(shape.split(BETWEEN)):
        if text:
            _walk(json.loads(text.replace(HOLE, "null")), str(at), paths)
    for path in paths:
        places.setdefault(path, len(places))
    return paths


def _walk(value: Any, path: str, paths: list[str]) -> None:
    """Append the path of each value, in the order in which the shape leaves them out."""
    if value is None:
        paths.append(path)
    for key, each in value.items() if isinstance(value, dict) else enumerate(value or ()):
        _walk(each, f"{path}/{key}", paths)


def _filled(shape: str, values: list[tuple[str, Any]], derived: Mapping[str, str]) -> str:
    """The text of the shape; a value that is true at a path of `derived` is replaced."""
    if shape == HOLE:
        return str(values[0][1])
    present = (derived[path] if value is True and path in derived else value for path, value in values)
    first, *rest = shape.split(HOLE)
    return first + "".join(_scalar(value) + part for value, part in zip(present, rest, strict=True))


def _scalar(value: Any) -> str:
    """The scalar as canonical JSON."""
    return float.__repr__(value) if type(value) is float and isfinite(value) else ENCODER.encode(value)


class _Reader:
    """The reader of the bytes; ValueError if they end early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        value = shift = 0
        while (byte := self.take(1)[0]) >= 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def block(self) -> bytes:
        return self.take(self.number())

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise ValueError("it ends early")
        self._at += count
        return part


def _columns(holders: Sequence[Sequence[int]], count: int, reader: _Reader) -> list[list[Any]]:
    """The columns of `count` rows; `holders` are, per column, the rows that have a value."""
    columns: list[list[Any]] = []
    for rows in holders:
        column: list[Any] = [MISSING] * count
        columns.append(column)
        if not rows:
            continue
        head = reader.number()
        ops: bytes = bytes([LITERAL]) + bytes(len(rows) - 1)
        source: Sequence[Any] = ()
        if head:
            place, lag = divmod(head - 1, 2)
            source = columns[place] if place < len(columns) - 1 else ()
            if lag:
                # The newest value before each row; MISSING if there is none.
                newest = accumulate(source, lambda at, new: at if new is MISSING else new, initial=MISSING)
                source = list(newest)[:-1]
            ops = reader.take(len(rows))
        literals = iter(_values(reader.number() if head else 1, reader))
        value = None
        for row, op in zip(rows, ops, strict=True):
            if op == BY_REFERENCE:
                value = source[row]
            elif op == LITERAL:
                value = next(literals)
            column[row] = value
    return columns


def _values(count: int, reader: _Reader) -> list[Any]:
    if count > MOST_VALUES:
        raise ValueError(f"it claims to hold {count} values")
    kind = reader.number()
    kinds = bytes([kind - 1]) * count if kind else reader.take(count)
    literals: dict[int, Iterator[Any]] = {}
    for each, read in READERS.items():
        if mine := kinds.count(each):
            literals[each] = iter(read(mine, reader))
    fixed = {NULL: None, FALSE: False, TRUE: True}
    return [fixed[each] if each in fixed else next(literals[each]) for each in kinds]


def _ints(count: int, reader: _Reader) -> list[int]:
    is_stepped = reader.number()
    coded = [reader.number() for _ in range(count)]
    values = [~(value >> 1) if value & 1 else value >> 1 for value in coded]
    return list(accumulate(values)) if is_stepped else values


def _floats(count: int, reader: _Reader) -> list[float]:
    head = reader.number()
    if head >= SCALED:
        return [value / 10 ** (head - SCALED) for value in _ints(count, reader)]
    if head == DOUBLES:
        return _doubles(count, reader)
    different = _doubles(reader.number(), reader)
    return [different[place] for place in _ints(count, reader)]


def _doubles(count: int, reader: _Reader) -> list[float]:
    """Doubles whose bytes of each position were written together."""
    planes = reader.take(8 * count)
    data = b"".join(planes[place::count] for place in range(count))
    return list(struct.unpack(f"<{count}d", data))


def _texts(count: int, reader: _Reader) -> list[str]:
    """Texts that were written as digests, as times, or as frames with their numbers in columns."""
    head = reader.number()
    if head == 0:
        data = reader.take(32 * count).hex()
        return [data[at : at + 64] for at in range(0, len(data), 64)]
    if head == 1:
        return [(EPOCH + at * MICROSECOND).isoformat() for at in _ints(count, reader)]
    frames = [frame.split("\0") for frame in reader.block().decode().split("\1")]
    places = _ints(count, reader)
    numbers = [
        [iter(_ints(places.count(place), reader)) for _ in frame[1:]] for place, frame in enumerate(frames)
    ]
    texts = []
    for place in places:
        first, *rest = frames[place]
        # A one was put before the digits, to keep leading zeros.
        digits = (str(next(each))[1:] for each in numbers[place])
        texts.append(str(json.loads(first + "".join(map(str.__add__, digits, rest)))))
    return texts


def _lists(count: int, reader: _Reader) -> list[list[Any]]:
    """Lists that were written as the list before, shifted, and their new values."""
    shifts, rests = _ints(count, reader), _ints(count, reader)
    tails = iter(_values(sum(rests), reader) if sum(rests) else ())
    lists: list[list[Any]] = []
    for shift, rest in zip(shifts, rests, strict=True):
        before = lists[-1] if lists else []
        lists.append(before[shift:] + [next(tails) for _ in range(rest)])
    return lists


READERS: Mapping[int, Callable[[int, _Reader], Sequence[Any]]] = {
    INT: _ints,
    FLOAT: _floats,
    TEXT: _texts,
    LIST: _lists,
}
