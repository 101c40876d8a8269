"""Sealed segments of the record: runs of a pipeline's entries in one block, each with a signed checkpoint.

A checkpoint states that the entries `first` to `last` of a pipeline follow the digest `previous` and end at
the digest `head`, with the number of decisions among them, the number of kept rows, and the digest of their
block. So the chain can be verified across rows that retention removed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ipa.adapters.store.rows import pack, unpack
from ipa.adapters.store.schema import EntryRow, SegmentRow
from ipa.adapters.store.signing import Keyring
from ipa.adapters.ttl_cache import LruCache
from ipa.control.audit.record import Checkpoint, EntryKind, Recorded, SignedCheckpoint, entries_digest
from ipa.control.engine.tick import OUTCOME
from ipa.model.decision import Action
from ipa.model.errors import UnavailableError

# Rows of a segment: each is read, 70 ms, to read one. A checkpoint takes a byte of each.
ROWS = 1024
# Bytes of a segment beside its block: columns and indexes.
ROW_BYTES = 700
# Cached lists of entries, compressed, of some 50 kB each: an export reads those of all pipelines at once.
MOST_REMEMBERED = 128
# Rows of one read: enough to be quick, few enough for memory.
BATCH = 500
_NAMES = tuple(each.name for each in fields(Checkpoint))
_HEADERS = [getattr(SegmentRow, name) for name in (*_NAMES, "key_id", "signature")]


def read_segments(
    connection: Connection, *conditions: Any, order: Any, most: int | None = None, blocks: bool = False
) -> Iterator[SignedCheckpoint]:
    """Yield the segments with these conditions, as they are consumed; without `blocks` only their headers."""
    query = select(*_HEADERS, SegmentRow.block) if blocks else select(*_HEADERS)
    query = query.where(*conditions).order_by(order).limit(most)
    with connection.execute(query, execution_options={"yield_per": BATCH}) as rows:
        for row in rows:
            checkpoint = Checkpoint(*row[: len(_NAMES)])
            yield SignedCheckpoint(checkpoint, row.key_id, row.signature, bytes(row.block) if blocks else b"")


def last_sealed(connection: Connection, pipeline: str) -> Checkpoint | None:
    """Return the newest checkpoint of the pipeline."""
    is_mine = SegmentRow.pipeline == pipeline
    found = read_segments(connection, is_mine, order=SegmentRow.last.desc(), most=1)
    return next((each.checkpoint for each in found), None)


def size_bytes(segment: SignedCheckpoint) -> int:
    """Return about the bytes of the segment's row."""
    return len(segment.block) + ROW_BYTES


def rows_in(segment: SignedCheckpoint) -> list[Recorded]:
    """Return the kept rows of a segment that was read with its block. ValueError: the block is damaged."""
    return unpack(segment.block) if segment.checkpoint.kept else []


def sealed(pipeline: str, rows: Sequence[Recorded], previous: str, keyring: Keyring) -> SignedCheckpoint:
    """Return the segment of consecutive rows, which the caller has verified."""
    entries = [row.values for row in rows]
    # The times of decisions: outcomes of changes have the wall clock's time, also in simulated time.
    decided = [each for each in entries if each["kind"] == EntryKind.DECISION]
    times = [time_s(each["at"]) for each in decided or entries]
    first, last = entries[0], entries[-1]
    run = Checkpoint(
        pipeline=pipeline,
        first=first["number"],
        last=last["number"],
        first_seq=first["seq"],
        last_seq=last["seq"],
        first_s=min(times),
        last_s=max(times),
        decisions=len(decided),
        previous=previous,
        head=rows[-1].digest,
    )
    return _signed(run, rows, keyring)


def thinned(old: SignedCheckpoint, keyring: Keyring, *, keep_changes: bool = True) -> SignedCheckpoint:
    """Return the segment without its holds, or without any row."""
    return _signed(
        old.checkpoint, [row for row in rows_in(old) if keep_changes and stays(row.values)], keyring
    )


def _signed(run: Checkpoint, rows: Sequence[Recorded], keyring: Keyring) -> SignedCheckpoint:
    """The segment of the run, of which these rows are kept."""
    decided = [each for each in (row.values for row in rows) if each["kind"] == EntryKind.DECISION]
    held = sum(not stays(each) for each in decided)
    ticks = [tick for each in decided if isinstance(tick := each["facts"].get("tick"), int)]
    block = pack(rows) if rows else b""
    checkpoint = replace(
        run,
        first_tick=min(ticks, default=0),
        last_tick=max(ticks, default=0),
        held=held,
        changes=len(decided) - held,
        kept=len(rows),
        entries=entries_digest([row.digest for row in rows]),
        content=hashlib.sha256(block).hexdigest(),
    )
    key_id, signature = keyring.sign(checkpoint.text) if keyring.can_sign else ("", "")
    return SignedCheckpoint(checkpoint, key_id, signature, block)


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


def put(connection: Connection, new: SignedCheckpoint, old: SignedCheckpoint | None = None) -> bool:
    """Insert a sealed segment and remove the hot rows that it holds, or replace `old` by a thinned one.

    False if `old` has changed meanwhile.
    """
    mine = new.checkpoint
    columns = asdict(new) | {"size_bytes": size_bytes(new)}
    columns |= columns.pop("checkpoint")
    if old is None:
        connection.execute(insert(SegmentRow).values(**columns))
        is_held = (EntryRow.pipeline == mine.pipeline) & (EntryRow.number <= mine.last)
        connection.execute(delete(EntryRow).where(is_held))
        return True
    is_same = _is_it(mine) & (SegmentRow.content == old.checkpoint.content)
    return connection.execute(update(SegmentRow).where(is_same).values(**columns)).rowcount == 1


def _is_it(checkpoint: Checkpoint) -> Any:
    return (SegmentRow.pipeline == checkpoint.pipeline) & (SegmentRow.first == checkpoint.first)


class SegmentReader:
    """The reader of segments by their headers, with a cache of entries. Thread-safe."""

    def __init__(self) -> None:
        self._entries: LruCache[bytes] = LruCache(MOST_REMEMBERED)

    def entries(self, connection: Connection, header: SignedCheckpoint) -> list[Recorded]:
        """Return the kept entries, oldest first, without decisions."""
        content = header.checkpoint.content
        packed = self._entries.get(content)
        if packed is None:
            packed = zlib.compress("\n".join(row.text for row in self.rows(connection, header)).encode(), 1)
            self._entries.put(content, packed)
        return [Recorded(text) for text in zlib.decompress(packed).decode().split("\n") if text]

    @staticmethod
    def rows(connection: Connection, header: SignedCheckpoint) -> list[Recorded]:
        """Return the kept rows, oldest first. UnavailableError: the block is damaged."""
        mine = header.checkpoint
        block = connection.scalar(select(SegmentRow.block).where(_is_it(mine)))
        try:
            return unpack(bytes(block or b""))
        except ValueError as error:
            raise UnavailableError(
                f"{mine.where} of {mine.pipeline!r} cannot be read: {error}",
                hint=f"`ipa history {mine.pipeline} --verify` names it; restore the store from a backup.",
            ) from error
