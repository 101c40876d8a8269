"""Verification of a pipeline's record: sealed segments by their checkpoints, hot rows one by one.

A segment was verified row by row before it was signed, so its signature, the digest of its block and its
place in the chain prove that it is unchanged; `full` also unpacks every block and recomputes every digest.
Segments are read in short transactions: a long one would keep the write-ahead log from being reused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, select

from ipa.adapters.store.database import snapshot
from ipa.adapters.store.hot import ROWS, HotRows
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.segments import read_segments, rows_in
from ipa.adapters.store.signing import Keyring
from ipa.control.audit.checkpoints import SignedCheckpoint, entries_digest
from ipa.control.audit.record import Chain, EntryKind, Head, Recorded, Verified
from ipa.control.canonical import digest
from ipa.model.errors import RecordError

# Rows, and segments of some 40 kB, in memory at once.
ROWS_TOGETHER, SEGMENTS_TOGETHER = 512, 64


def verify(
    engine: Engine, keyring: Keyring, pipeline: str, anchor: Head | None = None, *, full: bool = False
) -> Verified:
    """Return the contents of the pipeline's record; RecordError names the first change.

    Entries that are recorded meanwhile may or may not be included.
    """
    walk = _Walk(keyring, Chain(pipeline, anchor), full=full)
    is_mine, order = SegmentRow.pipeline == pipeline, SegmentRow.first
    while True:
        with snapshot(engine) as connection:
            is_next = is_mine & (SegmentRow.last > walk.chain.head.number)
            most = SEGMENTS_TOGETHER
            found = list(read_segments(connection, is_next, order=order, most=most, blocks=True))
            for segment in found:
                walk.take_segment(segment)
            if not found:
                walk.take_rows(connection)
                kept = select(HeadRow.number, HeadRow.digest).where(HeadRow.pipeline == pipeline)
                row = connection.execute(kept).first()
                return walk.chain.ended(Head(*row) if row else None)


class _Walk:
    """The verification of a chain; each step takes the entries after the last verified one."""

    def __init__(self, keyring: Keyring, chain: Chain, *, full: bool) -> None:
        self._keyring, self.chain, self._full = keyring, chain, full
        self._seq = 0
        self._was_signed = False

    def take_segment(self, segment: SignedCheckpoint) -> None:
        """Verify the next segment."""
        mine, chain = segment.checkpoint, self.chain
        number = chain.head.number + 1
        if mine.first < number:
            raise chain.fault(f"the segment of {mine.where} was inserted: entry {number - 1} is in another")
        if mine.first > number:
            is_one = mine.first == number + 1
            which = f"entry {number} was" if is_one else f"entries {number} to {mine.first - 1} were"
            raise chain.fault(f"{which} removed: the next segment is that of {mine.where}")
        is_signed = self._check_signature(segment)
        self._was_signed |= is_signed
        check_block(chain, segment)
        if mine.previous != chain.head.digest:
            raise chain.fault(f"entry {number} does not follow the present entry {number - 1}")
        if mine.first_seq <= self._seq:
            raise chain.fault(f"entry {number} was moved before another")
        anchored = chain.anchor is not None and mine.first <= chain.anchor.number < mine.last
        if self._full or anchored or not is_signed:
            check_segment(segment, chain.anchor)
        chain.skip(Head(mine.last, mine.head), mine.decisions, mine.removed, unchecked=not is_signed)
        self._seq = mine.last_seq

    def _check_signature(self, segment: SignedCheckpoint) -> bool:
        """True if a known key signed the checkpoint; False if there is no signature, or no key."""
        where, key_id, keyring = segment.checkpoint.where, segment.key_id, self._keyring
        if key_id and keyring.verifies(key_id, segment.signature, segment.checkpoint.text):
            return True
        if key_id and keyring.has(key_id):
            raise self.chain.fault(f"the checkpoint of {where} was changed: its signature does not match")
        if keyring.is_empty() or not (key_id or self._was_signed):
            # Its rows are verified instead, and the result counts it as unsigned.
            return False
        if not key_id:
            raise self.chain.fault(f"the checkpoint of {where} has no signature, unlike those before it")
        raise RecordError(
            f"the checkpoint of {where} of {self.chain.pipeline!r} is signed with the key {key_id}, "
            f"which is not in {keyring.path or 'IPA_STORE_KEY_FILE, which names no file'}",
            hint="Restore the key, or its public key, from a backup. If there never was such a key, "
            "the segment was inserted.",
        )

    def take_rows(self, connection: Connection) -> None:
        """Verify the hot rows, which follow the segments."""
        chain = self.chain
        query = ROWS.where(EntryRow.pipeline == chain.pipeline, EntryRow.number > chain.head.number)
        options = {"yield_per": ROWS_TOGETHER}
        with connection.execute(query.order_by(EntryRow.number), execution_options=options) as rows:
            for _ in checked_rows(connection, chain, rows, self._seq):
                pass


def checked_rows(
    connection: Connection, chain: Chain, found: Iterable[Any], before: int
) -> Iterator[Recorded]:
    """Check that each row is the next of the chain, with a `seq` above that of the row before, and yield it.

    RecordError names the first row that is not.
    """
    hot = HotRows()
    for each in found:
        number = chain.head.number + 1
        if each.number != number:
            raise chain.fault(f"entry {number} was removed: entry {each.number} is in its place")
        try:
            [(_, row)] = hot.read(connection, [each])
        except ValueError as error:
            raise chain.fault(f"entry {number} was changed: {error}") from error
        check_row(chain, each, row, before)
        before = int(each.seq)
        yield row


def check_row(chain: Chain, found: Any, row: Recorded, before: int) -> None:
    """Check that the next row of the chain is unchanged, and its `seq` above `before`."""
    number = chain.head.number + 1
    try:
        values = chain.add(row.text, found.digest)
    except (ValueError, KeyError, TypeError) as error:
        raise chain.fault(f"entry {number} was changed: {error}") from error
    if (found.number, found.seq, found.kind, found.decision_id) != tuple(
        values[name] for name in ("number", "seq", "kind", "decision_id")
    ):
        raise chain.fault(f"entry {number} was changed: its columns differ from its text")
    if found.seq <= before:
        raise chain.fault(f"entry {number} was moved before another")
    _check_decision(chain, values, row.decision)
    facts, is_decision = values["facts"], values["kind"] == EntryKind.DECISION
    if is_decision and (facts["tick"], facts["action"]) != (found.tick, found.action):
        raise chain.fault(f"{_name(values)} was changed")


def check_block(chain: Chain, segment: SignedCheckpoint) -> None:
    """Check that the segment's block is the one of its checkpoint."""
    if hashlib.sha256(segment.block).hexdigest() != segment.checkpoint.content:
        raise chain.fault(f"the block of {segment.checkpoint.where} was changed")


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
