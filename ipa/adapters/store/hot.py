"""Hot rows: the newest rows of the record, each compressed against the pipeline's row before it.

A tick repeats most of the tick before it: DEFLATE with that as its dictionary leaves some hundred bytes.
Every `GROUP`th row is compressed alone (its `frame` is its own number). To read a row, the rows of its group
before it are read too.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from ipa.adapters.store.packing import Row, restore, shorten
from ipa.adapters.store.schema import EntryRow
from ipa.adapters.ttl_cache import LruCache
from ipa.control.canonical import digest

log = logging.getLogger("ipa.store")
# A row alone takes four times the bytes of one in a group; a read decompresses half a group, a millisecond.
GROUP = 64
# Newest rows that are cached, one per pipeline, of some 10 kB each.
MOST_REMEMBERED = 1000
# Raw, without a checksum: the digests detect damage.
RAW = -zlib.MAX_WBITS
LEVEL = 6
# The window of DEFLATE.
WINDOW_BYTES = 2**15


@dataclass(frozen=True, slots=True)
class HotRow:
    """A row, with `text` as the dictionary of the next row's compression."""

    number: int
    frame: int
    digest: str
    text: bytes


def fold(row: Row, number: int, before: HotRow | None) -> tuple[bytes, HotRow]:
    """Return the row compressed against the row before it, and the row for the compression of the next one.

    It is compressed alone if there is none before it, or the group is full.
    """
    if before is not None and number - before.frame >= GROUP:
        before = None
    text = shorten(row, before.digest if before else "").encode()
    if before is None:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW)
    else:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW, zdict=before.text)
    packed = packer.compress(text) + packer.flush()
    frame = before.frame if before else number
    return packed, HotRow(number, frame, row.digest, _dictionary(row, text, before))


def unfold(packed: bytes, before: HotRow | None) -> tuple[Row, bytes]:
    """Return the row, and the dictionary for the next one; ValueError if it is damaged."""
    unpacker = zlib.decompressobj(RAW, zdict=before.text) if before else zlib.decompressobj(RAW)
    try:
        text = unpacker.decompress(packed) + unpacker.flush()
        row = restore(text.decode(), before.digest if before else "")
        return row, _dictionary(row, text, before)
    except (zlib.error, ValueError) as error:
        raise ValueError(str(error)) from error


def _dictionary(row: Row, text: bytes, before: HotRow | None) -> bytes:
    """The text of a decision; for another entry, with the decision before it, which the next one repeats."""
    return text if row.decision is not None or before is None else (before.text + text)[-WINDOW_BYTES:]


class HotRows:
    """The reader of hot rows, with a cache of each pipeline's newest row. Thread-safe."""

    def __init__(self) -> None:
        self._newest: LruCache[HotRow] = LruCache(MOST_REMEMBERED)

    def newest(self, pipeline: str) -> HotRow | None:
        """Return the cached row of the pipeline; None if there is none."""
        return self._newest.get(pipeline)

    def remember(self, newest: dict[str, HotRow]) -> None:
        """Cache rows by pipeline, once they are committed."""
        for pipeline, known in newest.items():
            self._newest.put(pipeline, known)

    def rows(self, connection: Connection, found: Sequence[Any]) -> list[Row]:
        """Return the texts of rows of the query `ROWS`, in which a pipeline's rows have rising numbers.

        ValueError if one is damaged.
        """
        return [row for _, row in self.readable(connection, found, strict=True)]

    def readable(
        self, connection: Connection, found: Sequence[Any], *, strict: bool = False
    ) -> list[tuple[Any, Row]]:
        """Return each row with its texts; without `strict` a damaged row is logged and omitted."""
        known: dict[str, HotRow] = {}
        rows = []
        for each in found:
            try:
                row, known[each.pipeline] = self._read(connection, each, known.get(each.pipeline))
            except ValueError as error:
                if strict:
                    raise
                log.error("entry %d of %s cannot be read: %s", each.number, each.pipeline, error)
                continue
            rows.append((each, row))
        for pipeline, newer in known.items():
            if (mine := self.newest(pipeline)) is None or mine.number < newer.number:
                self._newest.put(pipeline, newer)
        return rows

    def _read(self, connection: Connection, found: Any, before: HotRow | None) -> tuple[Row, HotRow]:
        """The row, and its form for the decompression of the next one."""
        if found.frame == found.number:
            return _read(found, None)
        if before is None or before.number != found.number - 1:
            remembered = self.newest(found.pipeline)
            if remembered is not None and remembered.number == found.number - 1:
                row, known = _read(found, remembered)
                if digest(row.entry) == found.digest:
                    return row, known
            before = None
            group = {"its": found.pipeline, "first": found.frame, "end": found.number}
            for each in connection.execute(_GROUP, group):
                before = _read(each, before)[1]
            if before is None or before.number != found.number - 1:
                raise ValueError(f"row {found.number - 1} before it is missing")
        return _read(found, before)


def _read(found: Any, before: HotRow | None) -> tuple[Row, HotRow]:
    if before is None and found.frame != found.number:
        raise ValueError(f"row {found.frame}, the first of its group, is missing")
    row, text = unfold(found.packed, before)
    return row, HotRow(found.number, found.frame, found.digest, text)


ROWS = select(*EntryRow.__table__.c)
_GROUP = ROWS.where(
    EntryRow.pipeline == bindparam("its"),
    EntryRow.number >= bindparam("first"),
    EntryRow.number < bindparam("end"),
).order_by(EntryRow.number)
