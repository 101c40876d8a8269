"""The newest rows of the record, each compressed against the row before it of the same pipeline.

A tick repeats most of the tick before it, so that DEFLATE with that as its dictionary leaves some hundred
bytes. Every `GROUP`th row stands alone (its `frame` is its own number): to read a row, those of its group
before it are read too.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import DecisionRow, EntryRow, SegmentRow
from ipa.control.canonical import digest

log = logging.getLogger("ipa.store")
# A row alone takes four times one of a group; a read of one decompresses half a group, a millisecond.
GROUP = 64
# Newest rows that are remembered, of some 10 kB each: one a pipeline.
MOST_REMEMBERED = 1000
# In the place of digests that follow from the texts. Canonical JSON escapes them.
CONTENT, PREVIOUS, INPUTS = "\x01", "\x02", "\x03"
# Raw: the digests say whether a text is what was written.
RAW = -zlib.MAX_WBITS
LEVEL = 6
# DEFLATE looks no further back.
WINDOW_BYTES = 2**15


@dataclass(frozen=True, slots=True)
class HotRow:
    """A row, and in `text` what the next one is compressed against."""

    number: int
    frame: int
    digest: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Folded:
    """A row as it is kept, and what the next one needs of it."""

    packed: bytes
    known: HotRow


def fold(row: Row, number: int, before: HotRow | None) -> Folded:
    """Return the row compressed against the one before it; alone without one, or if its group is full."""
    if before is not None and number - before.frame >= GROUP:
        before = None
    text = _shortened(row, before.digest if before else "").encode()
    if before is None:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW)
    else:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW, zdict=before.text)
    packed = packer.compress(text) + packer.flush()
    frame = before.frame if before else number
    return Folded(packed, HotRow(number, frame, row.digest, _dictionary(row, text, before)))


def unfold(packed: bytes, before: HotRow | None) -> tuple[Row, bytes]:
    """Return the row and what the next one is compressed against; ValueError if it is damaged."""
    unpacker = zlib.decompressobj(RAW, zdict=before.text) if before else zlib.decompressobj(RAW)
    try:
        text = unpacker.decompress(packed) + unpacker.flush()
        row = _restored(text.decode(), before.digest if before else "")
        return row, _dictionary(row, text, before)
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def _dictionary(row: Row, text: bytes, before: HotRow | None) -> bytes:
    """The text of a decision; of another entry with the decision before it, which the next one repeats."""
    return text if row.decision is not None or before is None else (before.text + text)[-WINDOW_BYTES:]


def _shortened(row: Row, before: str) -> str:
    """The texts in lines, without the digests that follow from them."""
    entry = row.entry.replace(before, PREVIOUS) if before else row.entry
    if row.decision is None:
        return entry
    entry = entry.replace(digest(row.decision), CONTENT)
    inputs = _inputs_digest(row.decision)
    decision = row.decision.replace(inputs, INPUTS) if inputs else row.decision
    return f"{entry}\n{decision}"


def _restored(text: str, before: str) -> Row:
    entry, newline, rest = text.partition("\n")
    if before:
        entry = entry.replace(PREVIOUS, before)
    if not newline:
        return Row(entry)
    decision = rest.replace(INPUTS, _inputs_digest(rest)) if INPUTS in rest else rest
    return Row(entry.replace(CONTENT, digest(decision)), decision)


def _inputs_digest(decision: str) -> str:
    """The digest of the inputs in the text of a decision; empty if there are none.

    Within strings a quote has a backslash before it, so that these marks are found outside of them alone.
    """
    _, start, rest = decision.partition('"inputs":"')
    inputs, end, _ = rest.partition('","inputs_digest":"')
    return digest(json.loads(f'"{inputs}"')) if start and end and inputs else ""


class HotRows:
    """Reads and writes hot rows; remembers the newest of each pipeline. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: OrderedDict[str, HotRow] = OrderedDict()

    def newest(self, pipeline: str) -> HotRow | None:
        """Return the newest row that is remembered of the pipeline."""
        with self._lock:
            return self._newest.get(pipeline)

    def remember(self, newest: dict[str, HotRow]) -> None:
        """Remember rows by pipeline, once they are committed."""
        with self._lock:
            for pipeline, known in newest.items():
                self._newest[pipeline] = known
                self._newest.move_to_end(pipeline)
            while len(self._newest) > MOST_REMEMBERED:
                self._newest.popitem(last=False)

    def rows(self, connection: Connection, found: Sequence[Any]) -> list[Row]:
        """Return the texts of rows of `ROWS`, those of a pipeline in rising order.

        ValueError if one is damaged. Rows of an older version are as they are.
        """
        return [row for _, row in self.readable(connection, found, strict=True)]

    def readable(
        self, connection: Connection, found: Sequence[Any], *, strict: bool = False
    ) -> list[tuple[Any, Row]]:
        """Return each row with its texts; without `strict` a damaged one is logged and left out."""
        known: dict[str, HotRow] = {}
        rows = []
        for each in found:
            if each.frame is None:
                rows.append((each, Row(each.body, each.decision)))
                continue
            try:
                row, known[each.pipeline] = self._read(connection, each, known.get(each.pipeline))
            except ValueError as error:
                if strict:
                    raise
                log.error("entry %d of %s cannot be read: %s", each.number, each.pipeline, error)
                continue
            rows.append((each, row))
        newer = {
            pipeline: each
            for pipeline, each in known.items()
            if (mine := self.newest(pipeline)) is None or mine.number < each.number
        }
        self.remember(newer)
        return rows

    def _read(self, connection: Connection, found: Any, before: HotRow | None) -> tuple[Row, HotRow]:
        """The row, and what the next one needs of it."""
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
        raise ValueError(f"row {found.frame}, on which it rests, is missing")
    row, text = unfold(found.packed, before)
    return row, HotRow(found.number, found.frame, found.digest, text)


# What is read of each row; `decision` is that of a row of an older version.
COLUMNS = (
    EntryRow.seq,
    EntryRow.pipeline,
    EntryRow.number,
    EntryRow.kind,
    EntryRow.decision_id,
    EntryRow.tick,
    EntryRow.action,
    EntryRow.frame,
    EntryRow.packed,
    EntryRow.body,
    EntryRow.digest,
)
_SEALED = (
    select(func.coalesce(func.max(SegmentRow.last), 0))
    .where(SegmentRow.pipeline == EntryRow.pipeline)
    .correlate(EntryRow)
    .scalar_subquery()
)
# Rows that no segment holds, with what an older version kept beside them.
ROWS = (
    select(
        *COLUMNS,
        DecisionRow.body.label("decision"),
        DecisionRow.pipeline.label("decided_pipeline"),
        DecisionRow.tick.label("decided_tick"),
        DecisionRow.at.label("decided_at"),
        DecisionRow.action.label("decided_action"),
        DecisionRow.reason.label("decided_reason"),
    )
    .outerjoin(
        DecisionRow,
        (DecisionRow.decision_id == EntryRow.decision_id)
        & EntryRow.frame.is_(None)
        & (EntryRow.kind == "decision"),
    )
    .where(EntryRow.number > _SEALED)
)
_GROUP = (
    select(*COLUMNS)
    .where(
        EntryRow.pipeline == bindparam("its"),
        EntryRow.number >= bindparam("first"),
        EntryRow.number < bindparam("end"),
    )
    .order_by(EntryRow.number)
)
