"""Columns of JSON values as few bytes, for `ipa.adapters.store.packing`.

Each value is one of three: the value before it in its column, the value of another column (in the same row,
or its newest before that), or a literal. What repeats is left to the compressor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipa.adapters.store.literals import ColumnReader, ColumnWriter, read_values, same, write_values

# In a column, the place of a row that has no value.
MISSING: Any = object()
# A column: its value in each row, or MISSING.
Column = Sequence[Any]
# How a value is given.
AS_BEFORE, BY_REFERENCE, LITERAL = range(3)
# Rows in which a reference is tried before it is taken.
SAMPLE = 12


def is_repeated(before: Any, value: Any) -> bool:
    """True if the value is surely the same as the one before; zeros may differ in their sign."""
    return type(before) is type(value) and bool(value) and bool(before == value) and type(value) is not list


def write_columns(columns: Sequence[Column], writer: ColumnWriter) -> None:
    """Write the columns; each may refer to those before it. Of one without values nothing is written."""
    # By the index of a column that varies: itself, and moved on.
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
    """Return the columns that have values in those of `count` rows."""
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
    """The newest value of the column before each row; MISSING if there is none."""
    found, newest = [], MISSING
    for value in column:
        found.append(newest)
        if value is not MISSING:
            newest = value
    return found


def _reference(sources: Mapping[int, tuple[Column, Column]], column: Column) -> tuple[int, int]:
    """Return the source that most of the values are in, and whether moved on; (-1, 0) for none."""
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
