"""Sealed segments of the record, runs of a pipeline's entries in one block with a checkpoint; verification.

A checkpoint states that the entries `first` to `last` of a pipeline follow the digest `previous` and end at
the digest `head`, with the number of decisions among them, the number of kept rows, and the digest of their
block. So the chain can be verified across rows that retention removed.

A segment was verified row by row before it was signed, so its signature, the digest of its block and its
place in the chain prove that it is unchanged; a full verification also recomputes every digest. Segments are
read in short transactions: a long one would keep the write-ahead log from being reused.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from ipa.adapters.signing import Keyring
from ipa.adapters.store.database import snapshot
from ipa.adapters.store.rows import CHECKED_ROWS, INDEXED, HotRows, pack, unpack
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.ttl_cache import LruCache
from ipa.control.audit.record import (
    Chain,
    Checkpoint,
    EntryKind,
    Head,
    Recorded,
    SignedCheckpoint,
    Verified,
    entries_digest,
)
from ipa.control.canonical import digest
from ipa.control.engine.tick import OUTCOME
from ipa.model.decision import Action
from ipa.model.errors import RecordError, UnavailableError

# Rows of a segment: each is read, 70 ms, to read one. A checkpoint takes a byte of each.
ROWS = 1024
# Bytes of a segment beside its block: columns and indexes.
ROW_BYTES = 700
# Cached lists of entries, compressed, of some 50 kB each: an export reads those of all pipelines at once.
MOST_REMEMBERED = 128
# Rows of one read: enough to be quick, few enough for memory.
BATCH = 500
# Rows, and segments of some 60 kB, in memory at once.
ROWS_TOGETHER, SEGMENTS_TOGETHER = 512, 64
_NAMES = tuple(each.name for each in fields(Checkpoint))
_HEADERS = [getattr(SegmentRow, name) for name in (*_NAMES, "key_id", "signature")]


def read_segments(
    connection: Connection, *conditions: Any, order: Any, most: int | None = None, blocks: bool = False
) -> Iterator[SignedCheckpoint]:
    """Yield the segments that meet these conditions, lazily; without `blocks` only their headers."""
    query = select(*_HEADERS, SegmentRow.block) if blocks else select(*_HEADERS)
    query = query.where(*conditions).order_by(order).limit(most)
    with connection.execute(query, execution_options={"yield_per": BATCH}) as rows:
        for row in rows:
            checkpoint = Checkpoint(*row[: len(_NAMES)])
            yield SignedCheckpoint(checkpoint, row.key_id, row.signature, bytes(row.block) if blocks else b"")


def last_sealed(connection: Connection, pipeline: str) -> Checkpoint | None:
    """Return the newest checkpoint of the pipeline."""
    is_mine = SegmentRow.pipeline == pipeline
    newest = read_segments(connection, is_mine, order=SegmentRow.last.desc(), most=1)
    return next((each.checkpoint for each in newest), None)


def size_bytes(segment: SignedCheckpoint) -> int:
    """Return the approximate size of the segment's row in bytes."""
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
    """The segment of the run, with these rows kept."""
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
    return SignedCheckpoint(checkpoint, *keyring.sign(checkpoint.text), block)


def stays(values: dict[str, Any]) -> bool:
    """True if the entry outlives holds: it is a change, its outcome, or a person's action."""
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


def verify(
    engine: Engine, keyring: Keyring, pipeline: str, anchor: Head | None = None, *, full: bool = False
) -> Verified:
    """Return the contents of the pipeline's record; RecordError names the first change.

    Entries that are recorded meanwhile may or may not be included.
    """
    chain, seq, was_signed = Chain(pipeline, anchor), 0, False
    is_mine, options = SegmentRow.pipeline == pipeline, {"yield_per": ROWS_TOGETHER}
    while True:
        with snapshot(engine) as connection:
            is_next = is_mine & (SegmentRow.last > chain.head.number)
            batch = list(
                read_segments(
                    connection, is_next, order=SegmentRow.first, most=SEGMENTS_TOGETHER, blocks=True
                )
            )
            for segment in batch:
                mine = segment.checkpoint
                is_signed = _follow(chain, segment, seq, keyring, was_signed=was_signed)
                anchored = anchor is not None and mine.first <= anchor.number < mine.last
                if full or anchored or not is_signed:
                    check_segment(segment, anchor)
                chain.skip(Head(mine.last, mine.head), mine.decisions, mine.removed, unchecked=not is_signed)
                seq, was_signed = mine.last_seq, was_signed or is_signed
            if batch:
                continue
            query = CHECKED_ROWS.where(INDEXED.pipeline == pipeline, INDEXED.number > chain.head.number)
            with connection.execute(query, execution_options=options) as rows:
                for _ in checked_rows(connection, chain, rows, seq):
                    pass
            head = select(HeadRow.number, HeadRow.digest).where(HeadRow.pipeline == pipeline)
            row = connection.execute(head).first()
            if row is None and chain.head.number:
                raise chain.fault("its head was removed")
            return chain.ended(Head(*row) if row else None)


def _follow(chain: Chain, segment: SignedCheckpoint, seq: int, keyring: Keyring, *, was_signed: bool) -> bool:
    """Check that the segment is the next of the chain, and unchanged; True if it is signed."""
    mine, number = segment.checkpoint, chain.head.number + 1
    if mine.first < number:
        raise chain.fault(f"the segment of {mine.where} was inserted: another has entry {number - 1}")
    if mine.first > number:
        is_one = mine.first == number + 1
        which = f"entry {number} was" if is_one else f"entries {number} to {mine.first - 1} were"
        raise chain.fault(f"{which} removed: the next segment is that of {mine.where}")
    is_signed = check_signature(chain, segment, keyring, was_signed=was_signed)
    if mine.previous != chain.head.digest:
        raise chain.fault(f"entry {number} does not follow the present entry {number - 1}")
    if mine.first_seq <= seq:
        raise chain.fault(f"entry {number} was moved: its `seq` is not above that of the entry before it")
    return is_signed


def check_signature(
    chain: Chain, segment: SignedCheckpoint, keyring: Keyring, *, was_signed: bool = False
) -> bool:
    """Check signature and block: True if a known key signed; False without a signature or without a key.

    The caller must verify the rows if it is False. `was_signed` refuses a segment without a signature.
    """
    mine, key_id = segment.checkpoint, segment.key_id
    is_signed = bool(key_id) and keyring.verifies(key_id, segment.signature, mine.text)
    if not is_signed and key_id and keyring.has(key_id):
        raise chain.fault(f"the checkpoint of {mine.where} was changed: its signature does not match")
    if not is_signed and not keyring.is_empty() and (key_id or was_signed):
        if not key_id:
            raise chain.fault(f"the checkpoint of {mine.where} has no signature, unlike those before it")
        raise RecordError(
            f"the checkpoint of {mine.where} of {chain.pipeline!r} is signed with the key {key_id}, "
            f"which is not in {keyring.path or 'IPA_STORE_KEY_FILE, which names no file'}",
            hint="Restore the key, or its public key, from a backup. If there never was such a key, "
            "the segment was inserted.",
        )
    if hashlib.sha256(segment.block).hexdigest() != mine.content:
        raise chain.fault(f"the block of {mine.where} was changed")
    return is_signed


def checked_rows(
    connection: Connection, chain: Chain, rows: Iterable[Any], before: int
) -> Iterator[Recorded]:
    """Check that each row of `CHECKED_ROWS` is the next of the chain, with a rising `seq`; yield it.

    RecordError names the first row that fails.
    """
    hot = HotRows()
    for each in rows:
        number = chain.head.number + 1
        if each.number != number:
            raise chain.fault(f"entry {number} was removed: entry {each.number} is in its place")
        try:
            row = hot.read(connection, each)
        except ValueError as error:
            raise chain.fault(f"entry {number} was changed: {error}") from error
        check_row(chain, each, row, before)
        before = int(each.seq)
        yield row


def check_row(chain: Chain, columns: Any, row: Recorded, before: int) -> None:
    """Check that the next row of the chain is unchanged, and its `seq` above `before`."""
    number = chain.head.number + 1
    try:
        values = chain.add(row.text, columns.digest)
    except (ValueError, KeyError, TypeError) as error:
        raise chain.fault(f"entry {number} was changed: {error}") from error
    names = "number", "seq", "kind", "decision_id"
    is_same = all(getattr(columns, name) == values[name] for name in names)
    is_its = columns.pipeline == columns.indexed_pipeline == chain.pipeline
    if not (is_same and is_its and columns.indexed_number == number):
        raise chain.fault(f"entry {number} was changed: its columns differ from its text")
    if columns.seq <= before:
        raise chain.fault(f"entry {number} was moved: its `seq` is not above that of the entry before it")
    _check_decision(chain, values, row.decision)
    facts, is_decision = values["facts"], values["kind"] == EntryKind.DECISION
    if is_decision and (facts["tick"], facts["action"]) != (columns.tick, columns.action):
        raise chain.fault(f"{_name(values)} was changed")


def check_segment(segment: SignedCheckpoint, anchor: Head | None = None) -> None:
    """Check the rows of a block against each other and the checkpoint; RecordError names the first fault."""
    mine = segment.checkpoint
    where = mine.where
    chain = Chain(mine.pipeline, anchor)
    chain.head = Head(mine.first - 1, mine.previous)
    try:
        rows = rows_in(segment)
    except (ValueError, LookupError, TypeError) as error:
        raise chain.fault(f"the block of {where} was changed: {error}") from error
    for row in rows:
        if not mine.is_whole and row.values["number"] > chain.head.number + 1:
            # Retention removed the rows before it; its predecessor's digest is in the block.
            chain.head = Head(row.values["number"] - 1, row.values["previous"])
        _check_decision(chain, chain.add(row.text, row.digest), row.decision)
    if entries_digest([row.digest for row in rows]) != mine.entries:
        raise chain.fault(f"the block of {where} does not have the entries of its checkpoint")
    if (len(rows), sum(row.decision is not None for row in rows)) != (mine.kept, mine.held + mine.changes):
        raise chain.fault(f"the block of {where} does not have the number of rows in its checkpoint")
    if mine.is_whole and chain.head.number != mine.last:
        raise chain.fault(f"the block of {where} ends at entry {chain.head.number}")
    if rows and chain.head.number == mine.last and chain.head.digest != mine.head:
        raise chain.fault(f"entry {mine.last} does not have the digest in its checkpoint")


def _check_decision(chain: Chain, values: dict[str, Any], decision: str | None) -> None:
    """Check that the decision is the one of the entry with these values."""
    if values["kind"] != EntryKind.DECISION:
        return
    if decision is None:
        raise chain.fault(f"{_name(values)} was removed")
    if digest(decision) != values["content"]:
        raise chain.fault(f"{_name(values)} was changed")


def _name(values: dict[str, Any]) -> str:
    return f"decision {values['decision_id']!r} of entry {values['number']}"
