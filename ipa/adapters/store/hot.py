"""Hot rows: the newest rows of the record, each compressed against the pipeline's row before it.

A tick repeats most of the tick before it: DEFLATE with that as its dictionary leaves some hundred bytes.
Every `GROUP`th row is compressed alone (its `frame` is its own number). To read a row, the rows of its group
before it are read too.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from ipa.adapters.store.packing import restore, shorten
from ipa.adapters.store.schema import EntryRow
from ipa.adapters.ttl_cache import LruCache
from ipa.control.audit.record import Recorded

log = logging.getLogger("ipa.store")
# A row alone takes four times the bytes of one in a group; a read decompresses half a group, a millisecond.
GROUP = 64
# Newest rows that are cached, one per pipeline, of some 20 kB each.
MOST_REMEMBERED = 1000
# Raw, without a checksum: the digests detect damage.
RAW = -zlib.MAX_WBITS
LEVEL = 6
# The window of DEFLATE.
WINDOW_BYTES = 2**15
ROWS = select(*EntryRow.__table__.c)
# Built once: building a statement takes longer than reading a row.
_GROUP = ROWS.where(
    EntryRow.pipeline == bindparam("its"),
    EntryRow.number >= bindparam("first"),
    EntryRow.number < bindparam("end"),
).order_by(EntryRow.number)


@dataclass(frozen=True, slots=True)
class HotRow:
    """A row in its group, with `text` as the dictionary of the next row's compression."""

    row: Recorded
    number: int
    frame: int
    text: bytes


def fold(row: Recorded, number: int, before: HotRow | None) -> tuple[bytes, HotRow]:
    """Return the row compressed against the row before it, and the row for the compression of the next one.

    It is compressed alone if there is none before it, or the group is full.
    """
    if before is not None and number - before.frame >= GROUP:
        before = None
    text = shorten(row, before.row.digest if before else "").encode()
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW, zdict=before.text if before else b"")
    return packer.compress(text) + packer.flush(), _hot_row(row, number, text, before)


def unfold(packed: bytes, number: int, before: HotRow | None) -> HotRow:
    """Return the row of that number; ValueError if it is damaged."""
    unpacker = zlib.decompressobj(RAW, zdict=before.text if before else b"")
    try:
        text = unpacker.decompress(packed) + unpacker.flush()
        row = restore(text.decode(), before.row.digest if before else "")
    except (zlib.error, ValueError) as error:
        raise ValueError(str(error)) from error
    return _hot_row(row, number, text, before)


def _hot_row(row: Recorded, number: int, text: bytes, before: HotRow | None) -> HotRow:
    if before is None:
        return HotRow(row, number, number, text)
    # After an entry alone the next one repeats the decision before it.
    known = text if row.decision is not None else (before.text + text)[-WINDOW_BYTES:]
    return HotRow(row, number, before.frame, known)


class HotRows:
    """The reader of hot rows, with a cache of each pipeline's newest row. Thread-safe."""

    def __init__(self) -> None:
        self._newest: LruCache[HotRow] = LruCache(MOST_REMEMBERED)

    def newest(self, pipeline: str) -> HotRow | None:
        """Return the cached row of the pipeline; None if there is none."""
        return self._newest.get(pipeline)

    def remember(self, newest: Mapping[str, HotRow]) -> None:
        """Cache committed rows by pipeline, in place of older ones."""
        for pipeline, row in newest.items():
            if (known := self.newest(pipeline)) is None or known.number < row.number:
                self._newest.put(pipeline, row)

    def read(
        self, connection: Connection, found: Sequence[Any], *, strict: bool = True
    ) -> list[tuple[Any, Recorded]]:
        """Return rows of the query `ROWS`, in which a pipeline's rows have rising numbers, with their texts.

        ValueError if one is damaged; without `strict` it is logged and omitted.
        """
        known: dict[str, HotRow] = {}
        rows = []
        for each in found:
            before = known.get(each.pipeline) or self.newest(each.pipeline)
            try:
                known[each.pipeline] = row = _read(connection, each, before)
            except ValueError as error:
                if strict:
                    raise
                log.error("entry %d of %s cannot be read: %s", each.number, each.pipeline, error)
                continue
            rows.append((each, row.row))
        self.remember(known)
        return rows


def _read(connection: Connection, found: Any, known: HotRow | None) -> HotRow:
    """The row of the query; `known` is a row of its pipeline that was read before."""
    if known is not None and (known.number, known.row.digest) == (found.number, found.digest):
        return known
    if found.frame == found.number:
        return unfold(found.packed, found.number, None)
    if known is None or known.number != found.number - 1:
        known = None
        group = {"its": found.pipeline, "first": found.frame, "end": found.number}
        for each in connection.execute(_GROUP, group):
            known = unfold(each.packed, each.number, known)
        if known is None or (known.number, known.frame) != (found.number - 1, found.frame):
            raise ValueError(f"the rows {found.frame} to {found.number - 1} before it are not all there")
    return unfold(found.packed, found.number, known)
