"""Rows of the record as bytes, without loss: hot rows one by one, others in blocks.

A row's short text omits the digests that follow from its texts. A tick repeats most of the tick before it, so
a hot row is compressed with the row before it as dictionary, which leaves some hundred bytes. Every `GROUP`th
is compressed alone (its `frame` is its own number): reading a row reads the earlier rows of its group too.
"""

from __future__ import annotations

import json
import logging
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import aliased

from ipa.adapters.store import old_blocks
from ipa.adapters.store.schema import EntryRow
from ipa.adapters.ttl_cache import LruCache
from ipa.control.audit.record import Recorded
from ipa.control.canonical import ENCODER, digest

log = logging.getLogger("ipa.store")
# A row alone takes four times the bytes of one in a group; a read decompresses half a group, a millisecond.
GROUP = 64
# Raw, without a checksum: the digests detect damage.
RAW = -zlib.MAX_WBITS
LEVEL = 6
# The window of DEFLATE.
WINDOW_BYTES = 2**15
# Newest rows that are cached, one per pipeline, of some 20 kB each.
MOST_REMEMBERED = 1000
# The first byte of a block. Its LZMA takes a quarter of a millisecond a row; a higher preset saves a tenth.
FORMAT, PRESET = b"\x03", 2
# The placeholders of what follows from the texts. Canonical JSON escapes these characters and those below.
CONTENT, PREVIOUS, INPUTS_DIGEST, INPUTS = "\x01", "\x02", "\x03", "\x04"
# Begins a text that holds both texts of a row whole: they are not canonical, or not printable.
WHOLE = "\x05"
# Between the rows of a block.
BETWEEN = "\x1c"
# The errors that a damaged row or block causes in the readers.
DAMAGES = (
    lzma.LZMAError, zlib.error, ValueError, LookupError, StopIteration, RuntimeError, TypeError,
    OverflowError, MemoryError,
)  # fmt: skip
ROWS = select(*EntryRow.__table__.c)
# The same, found by the index of `INDEXED` and read from the table: verification compares the two.
INDEXED = aliased(EntryRow)
CHECKED_ROWS = (
    ROWS.add_columns(INDEXED.pipeline.label("indexed_pipeline"), INDEXED.number.label("indexed_number"))
    .join(INDEXED, INDEXED.seq == EntryRow.seq)
    .order_by(INDEXED.number)
)
# Built once: building a statement takes longer than reading a row.
_GROUP = ROWS.where(
    EntryRow.pipeline == bindparam("its"),
    EntryRow.number >= bindparam("first"),
    EntryRow.number < bindparam("end"),
).order_by(EntryRow.number)


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
    """Return the row of a short text; earlier versions wrote the inputs within the decision."""
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
    """The decision's text before, in and after its inputs as JSON escapes them; empty if there are none.

    Within strings a quote is escaped, so these marks only match outside of strings.
    """
    head, start, rest = decision.partition('"inputs":"')
    inputs, end, tail = rest.partition('","inputs_digest":"')
    if not (start and end and inputs):
        return decision, "", ""
    return f'{head}"inputs":', inputs, f',"inputs_digest":"{tail}'


def pack(rows: Sequence[Recorded]) -> bytes:
    """Return consecutive rows as a block of bytes."""
    befores = ["", *(row.digest for row in rows)]
    texts = [shorten(row, before) for row, before in zip(rows, befores, strict=False)]
    return FORMAT + lzma.compress(BETWEEN.join(texts).encode(), preset=PRESET)


def unpack(block: bytes) -> list[Recorded]:
    """Return the rows of a block, in order; ValueError if it is damaged."""
    rows: list[Recorded] = []
    try:
        if block[:1] == FORMAT:
            texts = lzma.decompress(block[1:]).decode().split(BETWEEN)
        else:
            texts = old_blocks.read_texts(block)
        for text in texts:
            rows.append(restore(text, rows[-1].digest if rows else ""))
    except DAMAGES as error:
        raise ValueError(f"it cannot be read: {error}") from error
    return rows


@dataclass(frozen=True, slots=True)
class HotRow:
    """A row in its group, with `text` as the dictionary of the next row's compression."""

    row: Recorded
    number: int
    frame: int
    text: bytes


def fold(row: Recorded, number: int, before: HotRow | None) -> tuple[bytes, HotRow]:
    """Return the row compressed against the row before it, and the row as the next one's dictionary.

    It is compressed alone if there is none before it, or the group is full.
    """
    if before is not None and number - before.frame >= GROUP:
        before = None
    text = shorten(row, before.row.digest if before else "").encode()
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW, zdict=before.text if before else b"")
    return packer.compress(text) + packer.flush(), _hot_row(row, number, text, before)


def unfold(packed: bytes, number: int, before: HotRow | None) -> HotRow:
    """Return the row of that number; one of DAMAGES if it is damaged."""
    unpacker = zlib.decompressobj(RAW, zdict=before.text if before else b"")
    text = unpacker.decompress(packed) + unpacker.flush()
    row = restore(text.decode(), before.row.digest if before else "")
    return _hot_row(row, number, text, before)


def _hot_row(row: Recorded, number: int, text: bytes, before: HotRow | None) -> HotRow:
    if before is None:
        return HotRow(row, number, number, text)
    # After an entry alone the next one repeats the decision before it.
    known = text if row.decision is not None else (before.text + text)[-WINDOW_BYTES:]
    return HotRow(row, number, before.frame, known)


class HotRows:
    """A reader of rows of the query `ROWS`, in which a pipeline's rows have rising numbers.

    `newest` are rows by pipeline that were read or written earlier.
    """

    def __init__(self, newest: LruCache[HotRow] | None = None) -> None:
        self._newest = newest
        self._known: dict[str, HotRow] = {}

    def read(self, connection: Connection, row: Any) -> Recorded:
        """Return the texts of the row; ValueError if it is damaged."""
        known = self._known.get(row.pipeline) or (self._newest and self._newest.get(row.pipeline))
        if not known or (known.number, known.row.digest) != (row.number, row.digest):
            try:
                known = unfold(row.packed, row.number, self._previous_row(connection, row, known or None))
            except DAMAGES as error:
                raise ValueError(str(error)) from error
            if (known.frame, known.row.digest) != (row.frame, row.digest):
                raise ValueError("its text has another digest, or it is in another group")
        self._known[row.pipeline] = known
        return known.row

    def read_rows(self, connection: Connection, rows: Iterable[Any]) -> Iterator[Recorded]:
        """Yield the rows; a damaged one is logged and omitted."""
        for each in rows:
            try:
                yield self.read(connection, each)
            except ValueError as error:
                log.error("entry %s of %s cannot be read: %s", each.number, each.pipeline, error)

    @staticmethod
    def _previous_row(connection: Connection, row: Any, known: HotRow | None) -> HotRow | None:
        """The row before this one in its group; None if this one is the first."""
        if row.frame == row.number:
            return None
        if known is not None and known.number == row.number - 1:
            return known
        known = None
        group = {"its": row.pipeline, "first": row.frame, "end": row.number}
        for each in connection.execute(_GROUP, group):
            known = unfold(each.packed, each.number, known)
        if known is None or (known.number, known.frame) != (row.number - 1, row.frame):
            raise ValueError(f"the rows {row.frame} to {row.number - 1} before it are incomplete")
        return known
