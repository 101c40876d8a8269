"""Sealed segments of the record: runs of a pipeline's entries in one block, each with a signed checkpoint.

A checkpoint states that the entries `first` to `last` of a pipeline follow the digest `previous` and end at
the digest `head`, with the number of decisions among them, the number of kept rows, and the digest of their
block. So the chain can be verified across rows that retention removed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from ipa.adapters.store.packing import Row, pack, unpack
from ipa.adapters.store.schema import EntryRow, SegmentRow
from ipa.adapters.store.signing import Keyring
from ipa.adapters.ttl_cache import LruCache
from ipa.control.audit.checkpoints import Checkpoint, entries_digest
from ipa.control.audit.record import EntryKind, Recorded
from ipa.control.engine.write_outcome import OUTCOME
from ipa.model.decision import Action
from ipa.model.errors import UnavailableError

# Rows of a segment: each is read, 0.2 s, to read one. A checkpoint takes a byte of each.
ROWS = 1024
# Cached lists of entries, compressed, of some 50 kB each: an export reads those of all pipelines at once.
MOST_REMEMBERED = 128
# Cached segments, of some ten megabytes each.
MOST_OPEN = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """A checkpoint, its signature and its block. `key_id` is empty if it is not signed."""

    checkpoint: Checkpoint
    key_id: str
    signature: str
    block: bytes

    @property
    def size_bytes(self) -> int:
        """The approximate bytes of its row."""
        return len(self.block) + ROW_BYTES

    def rows(self) -> list[Row]:
        """Return the kept rows. ValueError: the block is damaged."""
        return unpack(self.block) if self.checkpoint.kept else []


# Bytes of a segment beside its block: columns and indexes.
ROW_BYTES = 700
NAMES = tuple(each.name for each in fields(Checkpoint))
HEADERS = [getattr(SegmentRow, name) for name in (*NAMES, "key_id", "signature")]


def checkpoint_of(row: Any) -> Checkpoint:
    """Return the checkpoint of a row of `HEADERS`."""
    return Checkpoint(**{name: getattr(row, name) for name in NAMES})


def segment_of(row: Any) -> Segment:
    """Return the segment of a row of `HEADERS` and the block."""
    return Segment(checkpoint_of(row), row.key_id, row.signature, bytes(row.block))


def with_blocks() -> Select[Any]:
    """Return the query for segments with their blocks."""
    return select(*HEADERS, SegmentRow.block)


def last_sealed(connection: Connection, pipeline: str) -> Checkpoint | None:
    """Return the newest checkpoint of the pipeline."""
    query = select(*HEADERS).where(SegmentRow.pipeline == pipeline).order_by(SegmentRow.last.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else checkpoint_of(row)


def sealed(pipeline: str, rows: Sequence[Row], previous: str, keyring: Keyring) -> Segment:
    """Return the segment of consecutive rows, which the caller has verified."""
    entries = [values_of(row) for row in rows]
    # The times of decisions: outcomes of changes have the wall clock's time, also in simulated time.
    decided = [each for each in entries if each["kind"] == EntryKind.DECISION]
    times = [time_s(each["at"]) for each in decided or entries]
    run = {
        "pipeline": pipeline,
        "first": entries[0]["number"],
        "last": entries[-1]["number"],
        "first_seq": entries[0]["seq"],
        "last_seq": entries[-1]["seq"],
        "first_s": min(times),
        "last_s": max(times),
        "decisions": len(decided),
        "previous": previous,
        "head": rows[-1].digest,
    }
    return _segment(run, rows, keyring)


def thinned(old: Segment, keyring: Keyring, *, keep_changes: bool = True) -> Segment:
    """Return the segment without its holds, or without any row."""
    rows = [row for row in old.rows() if keep_changes and stays(values_of(row))]
    run = {name: getattr(old.checkpoint, name) for name in RUN}
    return _segment(run, rows, keyring)


# What a checkpoint says of the run of entries, whichever of them are kept.
RUN = (
    "pipeline", "first", "last", "first_seq", "last_seq", "first_s", "last_s", "decisions",
    "previous", "head",
)  # fmt: skip


def _segment(run: dict[str, Any], rows: Sequence[Row], keyring: Keyring) -> Segment:
    """The segment of a run of entries of which these rows are kept, signed if there is a key."""
    decided = [each for each in map(values_of, rows) if each["kind"] == EntryKind.DECISION]
    held = sum(not stays(each) for each in decided)
    ticks = [tick for each in decided if isinstance(tick := each["facts"].get("tick"), int)]
    block = pack(rows) if rows else b""
    checkpoint = Checkpoint(
        **run,
        first_tick=min(ticks, default=0),
        last_tick=max(ticks, default=0),
        held=held,
        changes=len(decided) - held,
        kept=len(rows),
        entries=entries_digest([row.digest for row in rows]),
        content=hashlib.sha256(block).hexdigest(),
    )
    key_id, signature = keyring.sign(checkpoint.text) if keyring.can_sign else ("", "")
    return Segment(checkpoint, key_id, signature, block)


def values_of(row: Row) -> dict[str, Any]:
    """Return the values of the row's entry."""
    return Recorded(0, row.entry, "").values


def stays(values: dict[str, Any]) -> bool:
    """True if the entry is kept longer than holds: a change, its outcome, or a person's action."""
    if values["kind"] != EntryKind.DECISION:
        return True
    is_outcome = str(values["decision_id"]).endswith(OUTCOME)
    return is_outcome or values["facts"].get("action") == Action.APPLY.value


def time_s(at: str) -> float:
    """Return the seconds since 1970 of a time in the record; 0 if it is not a time."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return 0.0


def put(connection: Connection, segment: Segment) -> None:
    """Insert a sealed segment, and remove the hot rows that it holds."""
    connection.execute(insert(SegmentRow).values(**_columns(segment)))
    mine = segment.checkpoint
    is_held = (EntryRow.pipeline == mine.pipeline) & (EntryRow.number <= mine.last)
    connection.execute(delete(EntryRow).where(is_held))


def put_in_place(connection: Connection, old: Segment, new: Segment) -> bool:
    """Replace the segment by a thinned one; False if it has changed meanwhile."""
    mine = old.checkpoint
    is_it = (SegmentRow.pipeline == mine.pipeline) & (SegmentRow.first == mine.first)
    is_same = is_it & (SegmentRow.content == mine.content)
    return connection.execute(update(SegmentRow).where(is_same).values(**_columns(new))).rowcount == 1


def _columns(segment: Segment) -> dict[str, Any]:
    header = {name: getattr(segment.checkpoint, name) for name in NAMES}
    return header | {
        "key_id": segment.key_id,
        "signature": segment.signature,
        "size_bytes": segment.size_bytes,
        "block": segment.block,
    }


class SegmentReader:
    """The reader of segments, with caches. Thread-safe."""

    def __init__(self) -> None:
        self._open: LruCache[list[tuple[dict[str, Any], Row]]] = LruCache(MOST_OPEN)
        self._entries: LruCache[bytes] = LruCache(MOST_REMEMBERED)

    def entries(self, connection: Connection, header: Any) -> list[Recorded]:
        """Return the kept entries of the header's segment, oldest first."""
        kept = self._entries.get(header.content)
        if kept is None:
            texts = (row.entry for _, row in self._rows(connection, header))
            kept = zlib.compress("\n".join(texts).encode(), 1)
            self._entries.put(header.content, kept)
        text = zlib.decompress(kept).decode()
        found = []
        for entry in text.split("\n") if text else ():
            row = Row(entry)
            found.append(Recorded(values_of(row)["seq"], entry, row.digest))
        return found

    def decisions(
        self, connection: Connection, header: Any, before_tick: int | None, *, applied_only: bool
    ) -> Iterator[str]:
        """Yield the texts of the segment's decisions, newest first."""
        for values, row in reversed(self._rows(connection, header)):
            facts = values["facts"]
            if row.decision is None or (applied_only and facts["action"] != Action.APPLY):
                continue
            if before_tick is None or facts["tick"] < before_tick:
                yield row.decision

    def decision(self, connection: Connection, header: Any, decision_id: str) -> str | None:
        """Return the text of the decision; None if the segment does not have it."""
        for values, row in self._rows(connection, header):
            if row.decision is not None and values["decision_id"] == decision_id:
                return row.decision
        return None

    def _rows(self, connection: Connection, header: Any) -> list[tuple[dict[str, Any], Row]]:
        """The rows of the segment's block, with the values of their entries. UnavailableError: damaged."""
        found = self._open.get(header.content)
        if found is None:
            is_it = (SegmentRow.pipeline == header.pipeline) & (SegmentRow.first == header.first)
            block = connection.scalar(select(SegmentRow.block).where(is_it))
            try:
                rows = unpack(bytes(block or b""))
                found = [(values_of(row), row) for row in rows]
            except ValueError as error:
                raise UnavailableError(
                    f"entries {header.first} to {header.last} of {header.pipeline!r} cannot be read: {error}",
                    hint=f"`ipa history {header.pipeline} --verify` names it; "
                    "restore the store from a backup.",
                ) from error
            self._open.put(header.content, found)
        return found
