"""Sealing of the record, and its retention, in small transactions between those of the loops.

The keeper reads, verifies and packs outside of writing transactions. Each writing transaction checks that
the rows that it replaces are still there, so that two keepers do no harm. Only verified rows are sealed: a
changed row is never signed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, func, select

from ipa.adapters.signing import Keyring
from ipa.adapters.store import segments
from ipa.adapters.store.database import RECORD_LOCK, reading, snapshot, writing
from ipa.adapters.store.rows import CHECKED_ROWS, INDEXED, ROWS, HotRows
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.segments import check_segment, check_signature, checked_rows
from ipa.control.audit.record import NOTHING, Chain, Head
from ipa.control.store_admin import DAY_S, PruneReport, Retention
from ipa.model.errors import ConfigurationError, RecordError

# Rows that stay unsealed beyond those of a segment: pages and streams read these most.
HOT = 128
# The age at which the rows of a pipeline that records no more are sealed.
SEAL_AFTER_S = DAY_S
# The pause between two transactions: a waiting writer of SQLite retries within this time.
BETWEEN_S = 0.05
# Bytes of a hot row beside its texts: columns and indexes.
HOT_ROW_BYTES = 350


class Keeper:
    """One pass that seals and prunes a store, until `stop` is true."""

    def __init__(self, engine: Engine, keyring: Keyring, stop: Callable[[], bool] = lambda: False) -> None:
        self._engine, self._keyring, self._stop = engine, keyring, stop
        self._counts = Counter[str]()
        self._longest_write_s = 0.0
        # The fault by pipeline of damaged records: nothing of them is sealed or removed.
        self._damaged: dict[str, str] = {}

    def prune(self, now_s: float, retention: Retention) -> PruneReport:
        """Seal rows, then remove those beyond the retention."""
        self._keyring.reload()
        with reading(self._engine) as connection:
            query = select(SegmentRow.key_id).order_by(SegmentRow.last_seq.desc()).limit(1)
            key_id = connection.scalar(query)
            heads = connection.execute(select(HeadRow.pipeline, HeadRow.number)).all()
        # A new key could not verify what is signed.
        if key_id and self._keyring.is_empty():
            path = self._keyring.path or "IPA_STORE_KEY_FILE, which names no file"
            raise ConfigurationError(
                f"the record is signed with the key {key_id}, and there is no key in {path}",
                hint="Restore the key file from a backup. If the key is lost, put a new one there (`openssl "
                "genpkey -algorithm ed25519`); verification then names the entries it cannot check.",
            )
        for pipeline, number in heads:
            with self._noting(pipeline):
                while not self._stop() and self._seal(pipeline, number, now_s):
                    pass
        is_held, most = SegmentRow.held > 0, retention.decisions_bytes
        self._thin_all(is_held & (SegmentRow.last_s < now_s - retention.decisions_s))
        size_bytes = whole_bytes(self._engine)
        is_bounded = most is not None and size_bytes > most
        if is_bounded:
            self._thin_all(is_held, size_bytes - (most or 0))
            size_bytes = whole_bytes(self._engine)
        if retention.changes_s is not None:
            has_rows = (SegmentRow.held == 0) & (SegmentRow.kept > 0)
            self._thin_all(has_rows & (SegmentRow.last_s < now_s - retention.changes_s), keep_changes=False)
        return PruneReport(
            **self._counts,
            longest_write_s=self._longest_write_s,
            is_done=not self._stop(),
            damaged=self._damaged,
            record_bytes=size_bytes,
            is_bounded=is_bounded,
        )

    @contextmanager
    def _noting(self, pipeline: str) -> Iterator[None]:
        """Note a RecordError as the pipeline's damage and end the block: sealing would hide the damage."""
        try:
            yield
        except RecordError as error:
            self._damaged[pipeline] = error.message

    def _seal(self, pipeline: str, number: int, now_s: float) -> bool:
        """Seal the pipeline's oldest rows; `number` is that of its newest. False if there are too few."""
        is_mine = EntryRow.pipeline == pipeline
        with snapshot(self._engine) as connection:
            before = segments.last_sealed(connection, pipeline)
            chain = Chain(pipeline)
            chain.head = head = Head(before.last, before.head) if before else Head(0, NOTHING)
            if number <= head.number:
                return False
            is_full = number - head.number >= segments.ROWS + HOT
            if not is_full and now_s - _newest_s(connection, pipeline) <= SEAL_AFTER_S:
                return False
            # A row is decompressed with the rows of its group before it, so groups are sealed as a whole.
            wanted = INDEXED.number > head.number, EntryRow.frame <= head.number + segments.ROWS
            oldest = connection.execute(CHECKED_ROWS.where(INDEXED.pipeline == pipeline, *wanted)).all()
            rows = list(checked_rows(connection, chain, oldest, before.last_seq if before else 0))
        if not rows:
            return False
        segment = segments.sealed(pipeline, rows, head.digest, self._keyring)
        last = segment.checkpoint.last
        with self._writing() as connection:
            newest = segments.last_sealed(connection, pipeline)
            # Decompressing a row that was recorded meanwhile may need rows of the segment.
            query = select(EntryRow.frame).where(is_mine, EntryRow.number == last + 1)
            frame = connection.scalar(query)
            if (newest.last if newest else 0) != head.number or (frame is not None and frame <= last):
                return False
            segments.put(connection, segment)
        self._counts.update(sealed_segments=1, sealed_entries=len(rows))
        return True

    def _thin_all(
        self, condition: ColumnElement[bool], excess_bytes: float = math.inf, *, keep_changes: bool = True
    ) -> None:
        """Remove the holds, or every row, of the segments that meet the condition, the oldest first.

        It ends once segments with this many bytes were thinned.
        """
        while not self._stop() and excess_bytes > 0:
            wanted: tuple[Any, ...] = condition, SegmentRow.pipeline.not_in(self._damaged)
            with reading(self._engine) as connection:
                oldest = segments.read_segments(
                    connection, *wanted, order=SegmentRow.last_s, most=1, blocks=True
                )
                old = next(oldest, None)
            if old is None:
                return
            pipeline, mine = old.checkpoint.pipeline, old.checkpoint
            with self._noting(pipeline):
                # A segment that was changed after sealing must not be thinned.
                if not check_signature(Chain(pipeline), old, self._keyring):
                    check_segment(old)
                new = segments.thinned(old, self._keyring, keep_changes=keep_changes)
                with self._writing() as connection:
                    is_done = segments.put(connection, new, old)
                if is_done:
                    self._counts.update(
                        thinned_segments=1,
                        removed_decisions=mine.held - new.checkpoint.held,
                        removed_changes=mine.changes - new.checkpoint.changes,
                        freed_bytes=len(old.block) - len(new.block),
                    )
                excess_bytes -= segments.size_bytes(old)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of the record. Its time is counted, and others get their turn after it."""
        with writing(self._engine, RECORD_LOCK) as connection:
            began_s = time.monotonic()
            yield connection
        self._longest_write_s = max(self._longest_write_s, time.monotonic() - began_s)
        time.sleep(BETWEEN_S)


def _newest_s(connection: Connection, pipeline: str) -> float:
    """The time of the row that begins the pipeline's newest group; RecordError if it was changed."""
    begins = ROWS.where(EntryRow.pipeline == pipeline, EntryRow.number == EntryRow.frame)
    row = connection.execute(begins.order_by(EntryRow.number.desc()).limit(1)).first()
    try:
        return segments.time_s(HotRows().read(connection, row).values["at"]) if row else math.inf
    except ValueError as error:
        raise Chain(pipeline).fault(f"entry {row.number if row else 0} was changed: {error}") from error


def whole_bytes(engine: Engine) -> int:
    """Return the approximate bytes of decisions and entries, without what thinned segments still hold."""
    packed = func.coalesce(func.sum(func.length(EntryRow.packed)), 0)
    with reading(engine) as connection:
        whole = select(func.sum(SegmentRow.size_bytes)).where(SegmentRow.held > 0)
        sealed_bytes = int(connection.scalar(whole) or 0)
        rows, packed_bytes = connection.execute(select(func.count(), packed).select_from(EntryRow)).one()
    return sealed_bytes + int(packed_bytes) + int(rows) * HOT_ROW_BYTES
