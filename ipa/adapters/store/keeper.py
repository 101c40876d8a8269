"""Sealing of the record, and its retention, in small transactions beside those of the loops.

The keeper reads, verifies and packs outside of writing transactions. Each writing transaction checks that the
rows which it replaces are still there, so that two keepers do no harm. Exactly the verified rows are sealed:
a changed row is never signed.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, ScalarSelect, func, select

from ipa.adapters.store import segments, series
from ipa.adapters.store.database import RECORD_LOCK, reading, snapshot, writing
from ipa.adapters.store.hot import ROWS as HOT_ROWS
from ipa.adapters.store.hot import HotRows
from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.signing import Keyring
from ipa.adapters.store.verifying import check_row, check_segment
from ipa.control.audit.checkpoints import Checkpoint
from ipa.control.audit.record import NOTHING, Chain, Head, Recorded
from ipa.control.store_admin import DAY_S, PruneReport, Retention
from ipa.model.errors import ConfigurationError, RecordError

log = logging.getLogger("ipa.store")
# Rows that stay unsealed beyond those of a segment: pages and streams read these most.
HOT = 128
# The age at which the rows of a pipeline that records no more are sealed.
SEAL_AFTER_S = DAY_S
# Segments that are merged when they are thinned: most keep a few rows.
RUN = 32
# The pause between two transactions: a waiting writer of SQLite retries within this time.
BETWEEN_S = 0.05
# Bytes of a hot row beside its texts: columns and indexes.
HOT_ROW_BYTES = 350
SAMPLE = 200


@dataclass(slots=True)
class _Spent:
    """The progress of a pass."""

    report: PruneReport
    until_s: float | None
    stop: Callable[[], bool]

    @property
    def is_over(self) -> bool:
        return self.stop() or (self.until_s is not None and time.monotonic() >= self.until_s)

    def add(self, **counts: int) -> None:
        self.report = replace(
            self.report, **{name: getattr(self.report, name) + count for name, count in counts.items()}
        )


class Keeper:
    """The process that seals and prunes a store."""

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self._engine, self._keyring = engine, keyring
        # The fault by pipeline of damaged records: nothing of them is sealed or removed.
        self.damaged: dict[str, str] = {}
        # True if the size bound, not the age, decided what the last pass removed.
        self.is_bounded = False
        # The error that ended the last pass; empty if it succeeded.
        self.failed = ""
        # `whole_bytes` after the last pass.
        self.record_bytes = 0
        # The newest number of each pipeline at the last pass.
        self._numbers: dict[str, int] = {}

    def prune(
        self,
        now_s: float,
        retention: Retention,
        within_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> PruneReport:
        """Seal rows, then remove those beyond the retention, until `within_s` is over or `stop` is true."""
        until_s = None if within_s is None else time.monotonic() + within_s
        spent = _Spent(PruneReport(), until_s, stop)
        self._check_key()
        with reading(self._engine) as connection:
            heads = {
                row.pipeline: row.number
                for row in connection.execute(select(HeadRow.pipeline, HeadRow.number))
            }
        self._seal_all(heads, now_s, spent)
        if not spent.is_over:
            self._thin_all(now_s, retention, spent)
        oldest_s = now_s - retention.series_s
        with reading(self._engine) as connection:
            has_older = series.has_older(connection, oldest_s)
        if has_older and not spent.is_over:
            with self._writing(spent) as connection:
                spent.add(removed_series=series.prune(connection, oldest_s))
        return replace(spent.report, is_done=not spent.is_over)

    def is_empty(self) -> bool:
        """True if no decision was recorded yet."""
        with reading(self._engine) as connection:
            return connection.execute(select(HeadRow.pipeline).limit(1)).first() is None

    def is_due(self, now_s: float, retention: Retention) -> bool:
        """True if a pass would seal or remove something. It reads only the ends of indexes."""
        changes_s, most = retention.changes_s, retention.decisions_bytes
        older = [(SegmentRow.held > 0) & (SegmentRow.last_s < now_s - retention.decisions_s)]
        if changes_s is not None:
            kept = (SegmentRow.held == 0) & (SegmentRow.kept > 0)
            older.append(kept & (SegmentRow.last_s < now_s - changes_s))
        with reading(self._engine) as connection:
            is_grown = HeadRow.number - newest_sealed() >= segments.ROWS + HOT
            grown = select(HeadRow.pipeline).where(is_grown, HeadRow.pipeline.not_in(self.damaged))
            queries = [grown]
            for each in older:
                queries.append(
                    select(SegmentRow.pipeline).where(each, SegmentRow.pipeline.not_in(self.damaged))
                )
            if any(connection.execute(query.limit(1)).first() is not None for query in queries):
                return True
            if series.has_older(connection, now_s - retention.series_s):
                return True
            held = select(SegmentRow.pipeline).where(
                SegmentRow.held > 0, SegmentRow.pipeline.not_in(self.damaged)
            )
            may_shrink = connection.execute(held.limit(1)).first() is not None
        return may_shrink and most is not None and self.whole_bytes() > most

    def troubles(self) -> tuple[str, ...]:
        """Return why the retention is not applied; empty if it is."""
        return (*([self.failed] if self.failed else ()), *self.damaged.values())

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

    def _seal_all(self, heads: dict[str, int], now_s: float, spent: _Spent) -> None:
        for pipeline, number in heads.items():
            with self._noting(pipeline):
                while pipeline not in self.damaged and not spent.is_over:
                    if not self._seal(pipeline, number, now_s, spent):
                        break

    @contextmanager
    def _noting(self, pipeline: str) -> Iterator[None]:
        """Note a RecordError as the pipeline's fault: sealing would hide the damage."""
        try:
            yield
        except RecordError as error:
            log.error("%s; nothing of it is sealed or removed", error.message)
            self.damaged[pipeline] = error.message

    def _seal(self, pipeline: str, number: int, now_s: float, spent: _Spent) -> bool:
        """Seal the oldest rows of the pipeline; False if there are too few."""
        with reading(self._engine) as connection:
            before = segments.last_sealed(connection, pipeline)
            done = before.last if before else 0
        if before is not None:
            self._clear(before, spent)
        if number <= done:
            return False
        with snapshot(self._engine) as connection:
            if number - done < segments.ROWS + HOT and not self._is_old(connection, pipeline, number, now_s):
                return False
            rows = self._verified(connection, pipeline, before)
        if not rows:
            return False
        segment = segments.sealed(pipeline, rows, before.head if before else NOTHING, self._keyring)
        hours = series.hours_of(rows)
        with self._writing(spent) as connection:
            last = segments.last_sealed(connection, pipeline)
            if (last.last if last else 0) != done or _goes_on(connection, segment.checkpoint):
                return False
            segments.put(connection, segment)
            series.add(connection, pipeline, hours)
        spent.add(sealed_segments=1, sealed_entries=len(rows))
        self._clear(segment.checkpoint, spent)
        return True

    def _clear(self, done: Checkpoint, spent: _Spent) -> None:
        """Remove the sealed rows, also those that an interrupted pass left."""
        while not spent.is_over:
            with reading(self._engine) as connection:
                if not segments.has_rows(connection, done):
                    return
            with self._writing(spent) as connection:
                segments.clear(connection, done)

    def _is_old(self, connection: Connection, pipeline: str, number: int, now_s: float) -> bool:
        """True if the pipeline's newest row is so old that no more are expected."""
        before = self._numbers.get(pipeline, number)
        self._numbers[pipeline] = number
        if before != number:
            return False
        query = HOT_ROWS.where(EntryRow.pipeline == pipeline).order_by(EntryRow.number.desc()).limit(1)
        found = connection.execute(query).all()
        try:
            rows = HotRows().rows(connection, found)
        except ValueError as error:
            raise Chain(pipeline).fault(f"entry {number} was changed: {error}") from error
        return any(
            now_s - segments.time_s(Recorded(0, row.entry, "").values["at"]) > SEAL_AFTER_S for row in rows
        )

    @staticmethod
    def _verified(connection: Connection, pipeline: str, before: Checkpoint | None) -> list[Row]:
        """The next rows to seal, verified; RecordError if one was changed."""
        chain = Chain(pipeline)
        if before is not None:
            chain.head = Head(before.last, before.head)
        first = chain.head.number + 1
        query = HOT_ROWS.where(
            EntryRow.pipeline == pipeline, EntryRow.number.between(first, first + segments.ROWS - 1)
        )
        found = connection.execute(query.order_by(EntryRow.number)).all()
        after = connection.execute(
            select(EntryRow.number, EntryRow.frame).where(
                EntryRow.pipeline == pipeline, EntryRow.number == first + len(found)
            )
        ).first()
        # A row is decompressed with the rows of its group before it, so groups are sealed as a whole.
        end = after.frame if after is not None and after.frame is not None else first + len(found)
        found = [each for each in found if each.number < end]
        try:
            rows = HotRows().rows(connection, found)
        except ValueError as error:
            raise chain.fault(f"one of entries {first} to {end - 1} was changed: {error}") from error
        seq = before.last_seq if before else 0
        for each, row in zip(found, rows, strict=True):
            check_row(chain, each, row, seq)
            seq = each.seq
        return rows

    def _thin_all(self, now_s: float, retention: Retention, spent: _Spent) -> None:
        """Thin by age, then by size."""
        while not spent.is_over and self._thin(now_s - retention.decisions_s, spent):
            pass
        self.record_bytes = self.whole_bytes()
        if retention.decisions_bytes is not None:
            most = retention.decisions_bytes
            self.is_bounded = self.record_bytes > most
            while self.record_bytes > most and not spent.is_over and self._thin(None, spent):
                self.record_bytes = self.whole_bytes()
        if retention.changes_s is not None:
            while not spent.is_over and self._drop_changes(now_s - retention.changes_s, spent):
                pass

    def _thin(self, before_s: float | None, spent: _Spent) -> bool:
        """Remove the holds of the oldest segments with holds; False if none is old enough."""
        query = select(SegmentRow.pipeline, SegmentRow.first).where(
            SegmentRow.held > 0, SegmentRow.pipeline.not_in(self.damaged)
        )
        if before_s is not None:
            query = query.where(SegmentRow.last_s < before_s)
        with reading(self._engine) as connection:
            oldest = connection.execute(query.order_by(SegmentRow.last_s).limit(1)).first()
            if oldest is None:
                return False
            run = self._run(connection, oldest.pipeline, oldest.first, before_s)
        with self._noting(oldest.pipeline):
            self._replace(run, spent, keep_changes=True)
        return True

    def _run(
        self, connection: Connection, pipeline: str, first: int, before_s: float | None
    ) -> list[segments.Segment]:
        """Adjacent segments to thin into one, starting with an earlier thinned one if that is small."""
        is_mine = SegmentRow.pipeline == pipeline
        before = connection.execute(
            segments.with_blocks()
            .where(is_mine, SegmentRow.first < first)
            .order_by(SegmentRow.first.desc())
            .limit(1)
        ).first()
        after = segments.with_blocks().where(is_mine, SegmentRow.first >= first).order_by(SegmentRow.first)
        found = [
            segments.segment_of(row)
            for row in connection.execute(after.limit(1 if before_s is None else RUN))
        ]
        run: list[segments.Segment] = []
        if before is not None and before.held == 0 and before.kept < segments.ROWS:
            run.append(segments.segment_of(before))
        count = run[0].checkpoint.kept if run else 0
        for segment in found:
            mine = segment.checkpoint
            stay = mine.kept - mine.held
            if before_s is not None and mine.last_s >= before_s:
                break
            if mine is not found[0].checkpoint and count + stay > segments.ROWS:
                break
            run.append(segment)
            count += stay
        return run

    def _drop_changes(self, before_s: float, spent: _Spent) -> bool:
        """Remove every row of the oldest segment before `before_s`; False if there is none."""
        query = segments.with_blocks().where(
            SegmentRow.held == 0,
            SegmentRow.kept > 0,
            SegmentRow.last_s < before_s,
            SegmentRow.pipeline.not_in(self.damaged),
        )
        with reading(self._engine) as connection:
            oldest = connection.execute(query.order_by(SegmentRow.last_s).limit(1)).first()
        if oldest is None:
            return False
        with self._noting(oldest.pipeline):
            self._replace([segments.segment_of(oldest)], spent, keep_changes=False)
        return True

    def _replace(self, run: list[segments.Segment], spent: _Spent, *, keep_changes: bool) -> None:
        """Replace the run by one segment."""
        for segment in run:
            self._check(segment)
        new = segments.thinned(run, self._keyring, keep_changes=keep_changes)
        with self._writing(spent) as connection:
            is_done = segments.put_in_place(connection, new, run)
        if is_done:
            old = [each.checkpoint for each in run]
            spent.add(
                thinned_segments=len(run),
                removed_decisions=sum(each.held for each in old) - new.checkpoint.held,
                removed_changes=sum(each.changes for each in old) - new.checkpoint.changes,
                freed_bytes=sum(each.size_bytes for each in run) - new.size_bytes,
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

    def whole_bytes(self) -> int:
        """About the bytes of decisions and entries, those without what stays of thinned segments."""
        with reading(self._engine) as connection:
            whole = select(func.sum(SegmentRow.size_bytes)).where(SegmentRow.held > 0)
            return int(connection.scalar(whole) or 0) + hot_bytes(connection)[1]

    @contextmanager
    def _writing(self, spent: _Spent) -> Iterator[Connection]:
        """A transaction of the record; its time counts, and others have theirs after it."""
        with writing(self._engine, RECORD_LOCK) as connection:
            began_s = time.monotonic()
            yield connection
        took_s = time.monotonic() - began_s
        spent.report = replace(spent.report, longest_write_s=max(spent.report.longest_write_s, took_s))
        time.sleep(BETWEEN_S)


def newest_sealed() -> ScalarSelect[int]:
    """The number up to which the pipeline of a `HeadRow` is sealed, as a subquery."""
    return (
        select(func.coalesce(func.max(SegmentRow.last), 0))
        .where(SegmentRow.pipeline == HeadRow.pipeline)
        .correlate(HeadRow)
        .scalar_subquery()
    )


def hot_bytes(connection: Connection) -> tuple[int, int]:
    """Return how many rows are not sealed, and about the bytes that they take, by the newest of them."""
    done = newest_sealed()
    rows = int(connection.scalar(select(func.coalesce(func.sum(HeadRow.number - done), 0))) or 0)
    newest = select(func.length(EntryRow.packed)).where(EntryRow.packed.is_not(None))
    sizes = connection.scalars(newest.order_by(EntryRow.seq.desc()).limit(SAMPLE)).all()
    return rows, round(rows * (sum(sizes) / len(sizes) + HOT_ROW_BYTES)) if sizes else 0


def _goes_on(connection: Connection, checkpoint: Checkpoint) -> bool:
    """True if a row was recorded meanwhile that is read by those of the segment."""
    query = select(EntryRow.frame).where(
        EntryRow.pipeline == checkpoint.pipeline, EntryRow.number == checkpoint.last + 1
    )
    frame = connection.scalar(query)
    return frame is not None and frame <= checkpoint.last
