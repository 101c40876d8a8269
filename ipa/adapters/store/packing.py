"""Blocks: runs of entries and decisions packed into bytes, and read back byte for byte.

A row is an entry's canonical text and, if it is of a decision, that decision's text. Each text is split into
a shape (the JSON without its values) and its values, which go into one column per path. Digests that follow
from the texts are omitted. LZMA compresses the columns.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ipa.adapters.store.columns import (
    MISSING,
    ColumnReader,
    ColumnWriter,
    is_repeated,
    read_columns,
    scalar_text,
    write_columns,
)
from ipa.control.canonical import digest

FORMAT = 1
# The highest preset, but with a dictionary of the size of a block: the preset's takes 700 MB.
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 2**20,
        "lc": 1,
        "lp": 0,
        "pb": 0,
        "mode": lzma.MODE_NORMAL,
        "nice_len": 273,
        "mf": lzma.MF_BT4,
        "depth": 512,
    }
]
# A list of this many numbers is one value: the history of a load is mostly the previous one, shifted.
LONG_LIST = 8
# The placeholder of a value in a shape, and the separator of shapes. Canonical JSON escapes both.
HOLE, BETWEEN = "\x01", "\x02"
# Replaces a text that follows from the other texts of its row.
DERIVED = True
# The paths of such texts: a decision's inputs and their digest, an entry's digests of it and of its
# predecessor.
SPECIAL = ("0/inputs", "0/inputs_digest", "2/content", "2/previous")
# The errors that a damaged block causes in the readers.
DAMAGES = (lzma.LZMAError, LookupError, StopIteration, RuntimeError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Row:
    """The text of an entry, and the text of its decision if it has one."""

    entry: str
    decision: str | None = None

    @property
    def digest(self) -> str:
        """The entry's digest."""
        return digest(self.entry)


def pack(rows: Sequence[Row]) -> bytes:
    """Return the rows as a block of bytes; each takes a millisecond."""
    layout = _Layout()
    columns: list[list[Any]] = []
    order = []
    before = ""
    for index, row in enumerate(rows):
        shape, values = _apart(row, before, layout)
        before = row.digest
        order.append(shape.place)
        for place, value in zip(shape.columns, values, strict=True):
            if place >= len(columns):
                columns.extend([MISSING] * len(rows) for _ in range(place + 1 - len(columns)))
            column = columns[place]
            # Most values repeat: sharing the object takes a tenth of the memory.
            column[index] = column[index - 1] if index and is_repeated(column[index - 1], value) else value
    writer = ColumnWriter()
    writer.block("\n".join(layout.texts()).encode())
    writer.number(len(rows))
    for each in order:
        writer.number(each)
    write_columns(columns, writer)
    return bytes([FORMAT]) + lzma.compress(writer.data, lzma.FORMAT_RAW, filters=FILTERS)


class Packed:
    """The rows of a block; ValueError if it is damaged."""

    def __init__(self, block: bytes) -> None:
        if block[:1] != bytes([FORMAT]):
            raise ValueError(f"its format is {block[:1].hex() or 'not given'}, not {FORMAT:02x}")
        try:
            reader = ColumnReader(lzma.decompress(block[1:], lzma.FORMAT_RAW, filters=FILTERS))
            self._layout = _Layout()
            shapes = [self._layout.shape(text) for text in reader.block().decode().split("\n")]
            self._shapes = [shapes[reader.number()] for _ in range(reader.number())]
            rows: list[list[int]] = [[] for _ in self._layout.places]
            for index, shape in enumerate(self._shapes):
                for place in shape.columns:
                    rows[place].append(index)
            self._columns = read_columns(rows, len(self._shapes), reader)
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
        """Return the text of the decision in that row; None if it has none."""
        return self._row(index, "").decision

    def values(self, path: str) -> list[Any]:
        """Return the values at a path such as `0/tick`, one per row; None for a row without one."""
        place = self._layout.places.get(path)
        column = [MISSING] * len(self) if place is None else self._columns[place]
        return [None if value is MISSING else value for value in column]

    def _row(self, index: int, before: str) -> Row:
        shape = self._shapes[index]
        return shape.filled([self._columns[place][index] for place in shape.columns], before)


def _apart(row: Row, before: str, layout: _Layout) -> tuple[_Shape, list[Any]]:
    """The shape and the values of a row; a row that is not canonical has its two texts as values."""
    try:
        text, values = _taken_apart(row, before)
        shape = layout.shape(text)
        if shape.filled(values, before) == row:
            return shape, values
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    if row.decision is None:
        return layout.shape(f"{BETWEEN}{BETWEEN}{HOLE}"), [row.entry]
    return layout.shape(f"{HOLE}{BETWEEN}{BETWEEN}{HOLE}"), [row.decision, row.entry]


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
    """The shape of the value, whose scalars are appended to `values`."""
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


class _Layout:
    """The shapes of a block, and the columns of their paths, in the order of first use."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._shapes: dict[str, _Shape] = {}
        # Shapes share most of their parts.
        self._parts: dict[str, str] = {}

    def shape(self, text: str) -> _Shape:
        """Return the shape of that text."""
        found = self._shapes.get(text)
        if found is None:
            found = self._shapes[text] = self._made(text)
        return found

    def texts(self) -> list[str]:
        """Return the texts of the shapes."""
        return list(self._shapes)

    def _made(self, text: str) -> _Shape:
        paths: list[str] = []
        texts = text.split(BETWEEN)
        for place, each in enumerate(texts):
            if each:
                _walk(json.loads(each.replace(HOLE, "null")), str(place), paths)
        columns = [self.places.setdefault(path, len(self.places)) for path in paths]
        parts = [[self._parts.setdefault(part, part) for part in each.split(HOLE)] for each in texts]
        special = {path: place for place, path in enumerate(paths) if path in SPECIAL}
        return _Shape(len(self._shapes), columns, parts, special)


class _Shape:
    """The three texts of a row without their values: decision, inputs, entry; an absent one is empty.

    `place` is its number in the layout, `columns` are the columns of its values.
    """

    def __init__(
        self, place: int, columns: list[int], parts: list[list[str]], special: dict[str, int]
    ) -> None:
        self.place, self.columns, self._parts = place, columns, parts
        self._is_whole = [each == ["", ""] for each in parts]
        self._inputs, self._inputs_digest, self._content, self._previous = (
            special.get(path, -1) for path in SPECIAL
        )

    def filled(self, values: Sequence[Any], before: str) -> Row:
        """Return the row with these values, whose predecessor has the digest `before`."""
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


def _walk(value: Any, path: str, found: list[str]) -> None:
    """Append the path of each value, in the order of the holes."""
    if value is None:
        found.append(path)
    pairs = value.items() if isinstance(value, dict) else enumerate(value or ())
    for key, each in pairs:
        _walk(each, f"{path}/{key}", found)
