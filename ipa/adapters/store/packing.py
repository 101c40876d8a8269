"""Runs of decisions and entries packed into one block of bytes, and read from it byte for byte.

A row is an entry's canonical text and, if it is a decision's, the text of that decision. Each text is taken
apart into a shape (the JSON without its values) and its values, which go into columns by their place in it.
Digests that follow from the texts are left out. LZMA compresses the columns.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ipa.adapters.store.columns import Reader, Writer, read_columns, scalar_text, write_columns
from ipa.control.canonical import digest

FORMAT = 1
# As the highest preset, but with a dictionary of the size of a block: that of the preset takes 700 MB.
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 2**21,
        "lc": 1,
        "lp": 0,
        "pb": 0,
        "mode": lzma.MODE_NORMAL,
        "nice_len": 273,
        "mf": lzma.MF_BT4,
        "depth": 512,
    }
]
# A list of this many numbers is one value: of a load, most of it is that of the tick before, moved on.
LONG_LIST = 8
# Stands for a value in a shape, and between the shapes of a row's texts. Canonical JSON escapes both.
HOLE, BETWEEN = "\x01", "\x02"
# In the place of a text that follows from the other texts of its row.
DERIVED = True
# What a damaged block makes the readers raise.
DAMAGES = (lzma.LZMAError, LookupError, StopIteration, RuntimeError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Row:
    """An entry's text, and the text of its decision if it has one."""

    entry: str
    decision: str | None = None

    @property
    def digest(self) -> str:
        """The entry's digest."""
        return digest(self.entry)


def pack(rows: Sequence[Row], pause: Callable[[], None] = lambda: None) -> bytes:
    """Return the rows as a block of bytes; a row takes a millisecond, and `pause` is called after each."""
    shapes: dict[str, int] = {}
    places: dict[str, int] = {}
    columns: list[dict[int, Any]] = []
    order = []
    before = ""
    for index, row in enumerate(rows):
        shape, values = _apart(row, before)
        before = row.digest
        order.append(shapes.setdefault(shape, len(shapes)))
        for path, value in zip(_shape(shape).paths, values, strict=True):
            place = places.setdefault(path, len(places))
            if place == len(columns):
                columns.append({})
            columns[place][index] = value
        pause()
    writer = Writer()
    writer.block("\n".join(shapes).encode())
    writer.number(len(rows))
    for each in order:
        writer.number(each)
    write_columns(columns, writer)
    return bytes([FORMAT]) + lzma.compress(bytes(writer.data), lzma.FORMAT_RAW, filters=FILTERS)


class Packed:
    """The rows of a block; ValueError if it is damaged."""

    def __init__(self, block: bytes) -> None:
        if block[:1] != bytes([FORMAT]):
            raise ValueError(f"its format is {block[:1].hex() or 'not given'}, not {FORMAT:02x}")
        try:
            reader = Reader(lzma.decompress(block[1:], lzma.FORMAT_RAW, filters=FILTERS))
            shapes = [_shape(text) for text in reader.block().decode().split("\n")]
            self._shapes = [shapes[reader.number()] for _ in range(reader.number())]
            self._places, rows = _layout(self._shapes)
            self._columns = read_columns(rows, reader)
        except DAMAGES as error:
            raise ValueError(f"it cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self._shapes)

    def rows(self) -> list[Row]:
        """Return all rows in order."""
        found: list[Row] = []
        before = ""
        for index in range(len(self)):
            found.append(self._row(index, before))
            before = found[-1].digest
        return found

    def decision(self, index: int) -> str | None:
        """Return the text of the decision of the row at that place; None if it has none."""
        return self._row(index, "").decision

    def values(self, path: str) -> list[Any]:
        """Return the values at that path, such as `0/tick`: one a row, None if the row has none."""
        column = self._columns[self._places[path]] if path in self._places else {}
        return [column.get(index) for index in range(len(self))]

    def _row(self, index: int, before: str) -> Row:
        shape = self._shapes[index]
        return shape.filled([self._columns[self._places[path]][index] for path in shape.paths], before)


def _layout(shapes: Sequence[_Shape]) -> tuple[dict[str, int], list[list[int]]]:
    """Return the column of each path, and the rows in which each column has a value."""
    places: dict[str, int] = {}
    rows: list[list[int]] = []
    for index, shape in enumerate(shapes):
        for path in shape.paths:
            place = places.setdefault(path, len(places))
            if place == len(rows):
                rows.append([])
            rows[place].append(index)
    return places, rows


def _apart(row: Row, before: str) -> tuple[str, list[Any]]:
    """Return the shape and the values of a row; a row that is not canonical is two whole texts."""
    try:
        shape, values = _taken_apart(row, before)
        if _shape(shape).filled(values, before) == row:
            return shape, values
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    if row.decision is None:
        return f"{BETWEEN}{BETWEEN}{HOLE}", [row.entry]
    return f"{HOLE}{BETWEEN}{BETWEEN}{HOLE}", [row.decision, row.entry]


def _taken_apart(row: Row, before: str) -> tuple[str, list[Any]]:
    values: list[Any] = []
    shapes = ["", ""]
    entry = json.loads(row.entry)
    if row.decision is not None:
        decision = json.loads(row.decision)
        inputs = decision["inputs"]
        if decision["inputs_digest"] == digest(inputs):
            decision["inputs_digest"] = DERIVED
        if inputs:
            decision["inputs"] = DERIVED
        shapes[0] = _flatten(decision, values)
        shapes[1] = _flatten(json.loads(inputs), values) if inputs else ""
        if entry["content"] == digest(row.decision):
            entry["content"] = DERIVED
    if entry["previous"] == before:
        entry["previous"] = DERIVED
    shapes.append(_flatten(entry, values))
    return BETWEEN.join(shapes), values


def _flatten(value: Any, values: list[Any]) -> str:
    """Return the shape of the value, whose scalars are appended to `values`."""
    if isinstance(value, dict):
        return "{" + ",".join([f"{_key(key)}:{_flatten(each, values)}" for key, each in value.items()]) + "}"
    if isinstance(value, list) and not (len(value) >= LONG_LIST and all(map(_is_number, value))):
        return "[" + ",".join([_flatten(each, values) for each in value]) + "]"
    values.append(value)
    return HOLE


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


@lru_cache(4096)
def _key(name: str) -> str:
    return scalar_text(name)


class _Shape:
    """The three texts of a row without their values: decision, its inputs, entry; an absent one is empty."""

    def __init__(self, text: str) -> None:
        texts = text.split(BETWEEN)
        found: list[str] = []
        for place, each in enumerate(texts):
            if each:
                _walk(json.loads(each.replace(HOLE, "null")), str(place), found)
        self.paths = tuple(found)
        self._parts = [each.split(HOLE) for each in texts]
        self._is_whole = [each == HOLE for each in texts]
        places = {path: place for place, path in enumerate(found)}
        self._inputs, self._inputs_digest = places.get("0/inputs", -1), places.get("0/inputs_digest", -1)
        self._content, self._previous = places.get("2/content", -1), places.get("2/previous", -1)

    def filled(self, values: Sequence[Any], before: str) -> Row:
        """Return the row with those values, after the entry with the digest `before`."""
        texts = [scalar_text(value) for value in values]
        ends = [len(parts) - 1 for parts in self._parts]
        second, third = ends[0], ends[0] + ends[1]
        inputs, decision = "", None
        if self._parts[1] != [""]:
            inputs = self._joined(1, values[second:third], texts[second:third])
            texts[self._inputs] = scalar_text(inputs)
        if self._parts[0] != [""]:
            if self._inputs_digest >= 0 and values[self._inputs_digest] is DERIVED:
                texts[self._inputs_digest] = f'"{digest(inputs)}"'
            decision = self._joined(0, values[:second], texts[:second])
        if self._content >= 0 and values[self._content] is DERIVED:
            texts[self._content] = f'"{digest(decision or "")}"'
        if self._previous >= 0 and values[self._previous] is DERIVED:
            texts[self._previous] = f'"{before}"'
        return Row(self._joined(2, values[third:], texts[third:]), decision)

    def _joined(self, place: int, values: Sequence[Any], texts: Sequence[str]) -> str:
        if self._is_whole[place]:
            return str(values[0])
        first, *rest = self._parts[place]
        return first + "".join([text + part for text, part in zip(texts, rest, strict=True)])


_shape = lru_cache(1024)(_Shape)


def _walk(value: Any, path: str, found: list[str]) -> None:
    """Append the path of each value, in the order of the holes."""
    if value is None:
        found.append(path)
    pairs = value.items() if isinstance(value, dict) else enumerate(value or ())
    for key, each in pairs:
        _walk(each, f"{path}/{key}", found)
