"""Rows of the record as short texts, and runs of them in blocks; both return the texts byte for byte.

A row's short text omits the digests that follow from its texts. A block has the values of the short texts by
column, where a value that repeats the row before takes no character, under LZMA.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Sequence
from itertools import pairwise

from ipa.adapters.store import blocks_v1
from ipa.control.audit.record import Recorded
from ipa.control.canonical import ENCODER, digest

# The first byte of a block; of those of earlier versions.
FORMAT, FORMAT_1 = b"\x02", b"\x01"
# A dictionary of the size of a block, where the preset's takes 100 MB; texts have no alignment (`pb`).
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**21, "pb": 0}]
# The placeholders of what follows from the texts. Canonical JSON escapes these characters and those below.
CONTENT, PREVIOUS, INPUTS_DIGEST, INPUTS = "\x01", "\x02", "\x03", "\x04"
# Begins a text that holds both texts of a row whole: they are not canonical, or not printable.
WHOLE = "\x05"
# The placeholder of a value in a shape; between parts of a block, between shapes, between values.
HOLE, PART, SHAPE, VALUE = "\x1a", "\x1c", "\x1d", "\x1e"
# A scalar or a list of numbers of JSON, but no key.
VALUES = re.compile(
    r'(?<=[:,\[])("(?:[^"\\]|\\.)*+"(?!:)|\[[-+.0-9eE,nul]+\]|[-0-9][-+.0-9eE]*+|true|false|null)'
)
# The values of a block, by the literal before each and their number behind it in the row.
Columns = dict[tuple[str, int], list[str]]
# The errors that a damaged block causes in the readers.
DAMAGES = (
    lzma.LZMAError, ValueError, LookupError, StopIteration, RuntimeError, TypeError, OverflowError,
    MemoryError,
)  # fmt: skip


def shorten(row: Recorded, before: str) -> str:
    """Return the short text of a row after the entry with the digest `before`.

    Its lines are the entry, the decision and the decision's inputs.
    """
    entry, decision = row.text, row.decision or ""
    head, escaped, tail = _apart(decision)
    inputs = json.loads(f'"{escaped}"')
    # Other escapes than canonical ones would not come back.
    is_canonical = ENCODER.encode(inputs) == f'"{escaped}"'
    if not is_canonical or not all(map(str.isprintable, (entry, head, inputs, tail))):
        return WHOLE + json.dumps([entry, row.decision])
    if before:
        entry = entry.replace(before, PREVIOUS)
    if row.decision is None:
        return entry
    entry = entry.replace(digest(decision), CONTENT)
    if not inputs:
        return f"{entry}\n{decision}"
    tail = tail.replace(digest(inputs), INPUTS_DIGEST)
    return f"{entry}\n{head}{INPUTS}{tail}\n{inputs}"


def restore(text: str, before: str) -> Recorded:
    """Return the row of a short text; that of an earlier version has the inputs within the decision."""
    if text.startswith(WHOLE):
        return Recorded(*json.loads(text[1:]))
    entry, *rest = text.split("\n", 2)
    if before:
        entry = entry.replace(PREVIOUS, before)
    if not rest:
        return Recorded(entry)
    decision, *inputs = rest
    if inputs:
        decision = decision.replace(INPUTS, ENCODER.encode(inputs[0]))
    if INPUTS_DIGEST in decision:
        mark = digest(inputs[0] if inputs else json.loads(f'"{_apart(decision)[1]}"'))
        decision = decision.replace(INPUTS_DIGEST, mark)
    return Recorded(entry.replace(CONTENT, digest(decision)), decision)


def _apart(decision: str) -> tuple[str, str, str]:
    """The text of a decision before, in and after its inputs as JSON escapes them; empty if there are none.

    Within strings a quote is escaped, so these marks only match outside of strings.
    """
    head, start, rest = decision.partition('"inputs":"')
    inputs, end, tail = rest.partition('","inputs_digest":"')
    if not (start and end and inputs):
        return decision, "", ""
    return f'{head}"inputs":', inputs, f',"inputs_digest":"{tail}'


def pack(rows: Sequence[Recorded]) -> bytes:
    """Return consecutive rows as a block of bytes."""
    shapes: dict[str, tuple[int, list[list[str]]]] = {}
    columns: Columns = {}
    order = []
    before = ""
    for row in rows:
        parts = VALUES.split(shorten(row, before))
        before = row.digest
        literals, values = parts[::2], parts[1::2]
        shape = HOLE.join(literals)
        if shape not in shapes:
            shapes[shape] = len(shapes), _columns_of(literals, columns)
        index, mine = shapes[shape]
        order.append(str(index))
        for column, value in zip(mine, values, strict=True):
            column.append(value)
    changed = (
        VALUE.join("" if value == last else value for last, value in pairwise(["", *column]))
        for column in columns.values()
    )
    body = PART.join([SHAPE.join(shapes), ",".join(order), *changed])
    return FORMAT + lzma.compress(body.encode(), filters=FILTERS)


def unpack(block: bytes) -> list[Recorded]:
    """Return the rows of a block, in order; ValueError if it is damaged."""
    try:
        if block[:1] == FORMAT_1:
            return [Recorded(*texts) for texts in blocks_v1.rows_of(block)]
        if block[:1] != FORMAT:
            raise ValueError(f"its format is {block[:1].hex() or 'not given'}, not {FORMAT.hex()}")
        rows: list[Recorded] = []
        for text in _texts(lzma.decompress(block[1:]).decode()):
            rows.append(restore(text, rows[-1].digest if rows else ""))
        return rows
    except DAMAGES as error:
        raise ValueError(f"it cannot be read: {error}") from error


def _texts(body: str) -> list[str]:
    """The short texts of a block's rows."""
    shapes, order, *changed = body.split(PART)
    columns: Columns = {}
    known = [(each.split(HOLE), _columns_of(each.split(HOLE), columns)) for each in shapes.split(SHAPE)]
    for column, values in zip(columns.values(), changed, strict=True):
        last = ""
        for value in values.split(VALUE):
            last = value or last
            column.append(last)
        # Rows take their values from the end.
        column.reverse()
    texts = []
    for index in order.split(","):
        literals, mine = known[int(index)]
        parts = [literals[0]]
        for column, literal in zip(mine, literals[1:], strict=True):
            parts += column.pop(), literal
        texts.append("".join(parts))
    return texts


def _columns_of(literals: Sequence[str], columns: Columns) -> list[list[str]]:
    """The columns of a shape's values; `columns` gets new ones."""
    counts: dict[str, int] = {}
    mine = []
    for literal in literals[:-1]:
        counts[literal] = counts.get(literal, 0) + 1
        mine.append(columns.setdefault((literal, counts[literal]), []))
    return mine
