"""Sealing of the record, and its retention, in small transactions beside those of the loops.

The keeper reads, verifies and packs outside of writing transactions. Each writing transaction checks that
what it replaces is still there, so that two keepers do no harm. Exactly the verified rows are sealed: a
changed row is never signed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, Engine, func, select

from ipa.adapters.store import segments
from ipa.adapters.store.database import RECORD_LOCK, reading, snapshot, writing
from ipa.adapters.store.hot import ROWS, HotRows
from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.signing import Keyring
from ipa.adapters.store.verifying import check_row, check_segment
from ipa.control.audit.checkpoints import Checkpoint
from ipa.control.audit.record import NOTHING, Chain, Head
from ipa.control.store_admin import DAY_S, PruneReport, Retention
from ipa.model.errors import ConfigurationError, RecordError

log = logging.getLogger("ipa.store")
# Rows that stay unsealed beyond those of a segment: pages and streams read these most.
HOT = 128
# The age at which the rows of a pipeline that records no more are sealed.
SEAL_AFTER_S = DAY_S
# The pause between two transactions: a waiting writer of SQLite retries within this time.
BETWEEN_S = 0.05
# Bytes of a hot row beside its texts: columns and indexes.
HOT_ROW_BYTES = 350


class Keeper:
    """One pass that seals and prunes a store, until `within_s` is over or `stop` is true."""

    def __init__(self, engine: Engine, keyring: Keyring, stop: Callable[[], bool] = lambda: False) -> None:
        self._engine, self._keyring, self._stop = engine, keyring, stop
        self._until_s: float | None = None
        self._report = PruneReport()
        # The fault by pipeline of damaged records: nothing of them is sealed or removed.
        self._damaged: dict[str, str] = {}

    def prune(self, now_s: float, retention: Retention, within_s: float | None = None) -> PruneReport:
        """Seal rows, then remove those beyond the retention."""
        self._until_s = None if within_s is None else time.monotonic() + within_s
        self._check_key()
        with reading(self._engine) as connection:
            heads = connection.execute(select(HeadRow.pipeline, HeadRow.number)).all()
        for pipeline, number in heads:
            with self._noting(pipeline):
                while not self._is_over() and self._seal(pipeline, number, now_s):
                    pass
        is_held, most = SegmentRow.held > 0, retention.decisions_bytes
        self._thin_all(is_held & (SegmentRow.last_s < now_s - retention.decisions_s))
        size_bytes = whole_bytes(self._engine)
        is_bounded = most is not None and size_bytes > most
        if is_bounded:
            self._thin_all(is_held, size_bytes - (most or 0))
            size_bytes = whole_bytes(self._engine)
        if retention.changes_s is not None:
            is_kept = (SegmentRow.held == 0) & (SegmentRow.kept > 0)
            self._thin_all(is_kept & (SegmentRow.last_s < now_s - retention.changes_s), keep_changes=False)
        return replace(
            self._report,
            is_done=not self._is_over(),
            damaged=self._damaged,
            record_bytes=size_bytes,
            is_bounded=is_bounded,
        )

    def _is_over(self) -> bool:
        return self._stop() or (self._until_s is not None and time.monotonic() >= self._until_s)

    def _count(self, **counts: int) -> None:
        self._report = replace(
            self._report, **{name: getattr(self._report, name) + count for name, count in counts.items()}
        )

    def _check_key(self) -> None:
        """ConfigurationError if the store is signed and its key is missing: a new key could not verify it."""
        with reading(self._engine) as connection:
            query = select(SegmentRow.key_id).order_by(SegmentRow.last_seq.desc()).limit(1)
            key_id = connection.scalar(query)
        if key_id and self._keyring.is_empty():
            path = self._keyring.path or "IPA_STORE_KEY_FILE, which names no file"
            raise ConfigurationError(
                f"the record is signed with the key {key_id}, and there is no key in {path}",
                hint="Restore the key file from a backup. If the key is lost, put a new one there (`openssl "
                "genpkey -algorithm ed25519`); verification then names the entries it cannot check.",
            )

    @contextmanager
    def _noting(self, pipeline: str) -> Iterator[None]:
        """Note a RecordError as the pipeline's fault: sealing would hide the damage."""
        try:
            yield
        except RecordError as error:
            log.error("%s; nothing of it is sealed or removed", error.message)
            self._damaged[pipeline] = error.message

    def _seal(self, pipeline: str, number: int, now_s: float) -> bool:
        """Seal the oldest rows of the pipeline, whose newest has the number; False if there are too few."""
        with snapshot(self._engine) as connection:
            before = segments.last_sealed(connection, pipeline)
            done = before.last if before else 0
            if number <= done:
                return False
            if number - done < segments.ROWS + HOT and not self._is_old(connection, pipeline, number, now_s):
                return False
            rows = self._verified(connection, pipeline, before)
        if not rows:
            return False
        segment = segments.sealed(pipeline, rows, before.head if before else NOTHING, self._keyring)
        with self._writing() as connection:
            last = segments.last_sealed(connection, pipeline)
            if (last.last if last else 0) != done or _goes_on(connection, segment.checkpoint):
                return False
            segments.put(connection, segment)
        self._count(sealed_segments=1, sealed_entries=len(rows))
        return True

    @staticmethod
    def _is_old(connection: Connection, pipeline: str, number: int, now_s: float) -> bool:
        """True if the pipeline's newest row is so old that no more are expected."""
        newest = ROWS.where(EntryRow.pipeline == pipeline, EntryRow.number == number)
        rows = _read(connection, newest, Chain(pipeline), f"entry {number}")
        return any(now_s - segments.time_s(segments.values_of(row)["at"]) > SEAL_AFTER_S for _, row in rows)

    @staticmethod
    def _verified(connection: Connection, pipeline: str, before: Checkpoint | None) -> list[Row]:
        """The next rows to seal, verified; RecordError if one was changed."""
        chain = Chain(pipeline)
        if before is not None:
            chain.head = Head(before.last, before.head)
        first, is_mine = chain.head.number + 1, EntryRow.pipeline == pipeline
        end = first + segments.ROWS
        # A row is decompressed with the rows of its group before it, so groups are sealed as a whole.
        frame = connection.scalar(select(EntryRow.frame).where(is_mine, EntryRow.number == end))
        end = end if frame is None else frame
        query = ROWS.where(is_mine, EntryRow.number >= first, EntryRow.number < end)
        found = _read(
            connection, query.order_by(EntryRow.number), chain, f"one of entries {first} to {end - 1}"
        )
        seq = before.last_seq if before else 0
        for each, row in found:
            check_row(chain, each, row, seq)
            seq = each.seq
        return [row for _, row in found]

    def _thin_all(
        self,
        condition: ColumnElement[bool],
        excess_bytes: float = math.inf,
        *,
        keep_changes: bool = True,
    ) -> None:
        """Remove the holds, or every row, of the segments with the condition, the oldest first.

        It ends once segments of so many bytes were thinned.
        """
        while not self._is_over() and excess_bytes > 0:
            query = segments.with_blocks().where(condition, SegmentRow.pipeline.not_in(self._damaged))
            with reading(self._engine) as connection:
                row = connection.execute(query.order_by(SegmentRow.last_s).limit(1)).first()
            if row is None:
                return
            with self._noting(row.pipeline):
                old = segments.segment_of(row)
                self._thin(old, keep_changes=keep_changes)
                excess_bytes -= old.size_bytes

    def _thin(self, old: segments.Segment, *, keep_changes: bool) -> None:
        self._check(old)
        new = segments.thinned(old, self._keyring, keep_changes=keep_changes)
        with self._writing() as connection:
            is_done = segments.put_in_place(connection, old, new)
        if is_done:
            self._count(
                thinned_segments=1,
                removed_decisions=old.checkpoint.held - new.checkpoint.held,
                removed_changes=old.checkpoint.changes - new.checkpoint.changes,
                freed_bytes=old.size_bytes - new.size_bytes,
            )

    def _check(self, segment: segments.Segment) -> None:
        """RecordError if the segment is not as it was sealed: nothing may be made of it."""
        mine = segment.checkpoint
        if not segment.key_id:
            check_segment(segment)
        elif not self._keyring.verifies(segment.key_id, segment.signature, mine.text):
            raise Chain(mine.pipeline).fault(f"the checkpoint of {mine.where} is not signed by this service")
        if hashlib.sha256(segment.block).hexdigest() != mine.content:
            raise Chain(mine.pipeline).fault(f"the block of {mine.where} was changed")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of the record; its time counts, and others have theirs after it."""
        with writing(self._engine, RECORD_LOCK) as connection:
            began_s = time.monotonic()
            yield connection
        longest_s = max(self._report.longest_write_s, time.monotonic() - began_s)
        self._report = replace(self._report, longest_write_s=longest_s)
        time.sleep(BETWEEN_S)


def whole_bytes(engine: Engine) -> int:
    """Return about the bytes of decisions and entries, those without what stays of thinned segments."""
    with reading(engine) as connection:
        whole = select(func.sum(SegmentRow.size_bytes)).where(SegmentRow.held > 0)
        return int(connection.scalar(whole) or 0) + hot_bytes(connection)[1]


def hot_bytes(connection: Connection) -> tuple[int, int]:
    """Return how many rows are not sealed, and about the bytes that they take."""
    size = func.coalesce(func.sum(func.length(EntryRow.packed)), 0)
    rows, packed_bytes = connection.execute(select(func.count(), size).select_from(EntryRow)).one()
    return rows, int(packed_bytes) + rows * HOT_ROW_BYTES


def _read(connection: Connection, query: object, chain: Chain, what: str) -> list:  # type: ignore[type-arg]
    """The hot rows of the query, each with its texts; RecordError if one was changed."""
    try:
        return HotRows().readable(connection, connection.execute(query).all(), strict=True)  # type: ignore
    except ValueError as error:
        raise chain.fault(f"{what} was changed: {error}") from error


def _goes_on(connection: Connection, checkpoint: Checkpoint) -> bool:
    """True if a row was recorded meanwhile that is read by those of the segment."""
    query = select(EntryRow.frame).where(
        EntryRow.pipeline == checkpoint.pipeline, EntryRow.number == checkpoint.last + 1
    )
    frame = connection.scalar(query)
    return frame is not None and frame <= checkpoint.last
