"""The store: the ports DecisionLog and ControlStore, the profiles and the record, over one database.

Rows of the record are appended, and read as hot rows or from sealed segments.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from operator import attrgetter

from sqlalchemy import Connection, Engine, bindparam, func, insert, select, union

from ipa.adapters.signing import Keyring
from ipa.adapters.store import database
from ipa.adapters.store.database import RECORD_LOCK, GroupCommit, low_disk, reading, snapshot, writing
from ipa.adapters.store.keeper import Keeper
from ipa.adapters.store.rows import GROUP, MOST_REMEMBERED, ROWS, HotRow, HotRows, fold
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow, StateKind, upsert
from ipa.adapters.store.segments import SegmentReader, read_segments, verify
from ipa.adapters.store.sqlite_file import database_path, find_keyring
from ipa.adapters.store.state import (
    CONTROL,
    DECISION,
    PROFILE,
    AnswerRows,
    Keys,
    PipelineRows,
    PlanRows,
    RecordTable,
    StateRows,
    put_state,
    read_state,
)
from ipa.adapters.ttl_cache import LruCache, TtlCache
from ipa.control.audit.record import (
    MARK,
    NOTHING,
    Entry,
    EntryKind,
    Head,
    Recorded,
    SignedCheckpoint,
    Verified,
    of_applied,
    of_control,
    of_decision,
    of_ended,
)
from ipa.control.canonical import digest
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.snapshot import Snapshot
from ipa.control.loop.time_limit import COMPUTE_LOCK
from ipa.control.ports import Attribution, PipelineControl
from ipa.control.store_admin import DAY_S, MEGABYTE, PruneReport, Retention
from ipa.model.decision import Action, Decision
from ipa.model.errors import (
    ConfigurationError,
    ConflictError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.profile import StageProfile
from ipa.model.rounding import moment_to_ms
from ipa.settings import Settings

log = logging.getLogger("ipa.store")
# Built once: building a statement takes longer than reading a row.
_INSERT = insert(EntryRow)
_RECORDED = union(*(select(row.pipeline) for row in (EntryRow, HeadRow, SegmentRow)))
_NEWEST = select(
    select(func.max(EntryRow.seq)).scalar_subquery(), select(func.max(SegmentRow.last_seq)).scalar_subquery()
)
_DECISIONS = ROWS.where(
    EntryRow.decision_id.in_(bindparam("names", expanding=True)), EntryRow.kind == EntryKind.DECISION.value
).order_by(EntryRow.pipeline, EntryRow.number)
# The heads, and the digests of their rows; None of a row that is sealed.
_ENDS = (
    select(HeadRow.pipeline, HeadRow.number, HeadRow.digest, EntryRow.digest.label("row_digest"))
    .outerjoin(EntryRow, (EntryRow.pipeline == HeadRow.pipeline) & (EntryRow.number == HeadRow.number))
    .where(HeadRow.pipeline.in_(bindparam("names", expanding=True)))
)
# The allowed age of a control with `may_lag`: a thousand loops then read four times a second.
LAG_S = 0.25
KEEP = Retention()
# The interval between passes of the housekeeping: a segment takes half a second of CPU time.
EVERY_S = 300.0


class Journal:
    """The record of all pipelines: entries, with the decisions among them. Thread-safe."""

    def __init__(self, engine: Engine, records: RecordTable) -> None:
        self._engine, self.records = engine, records
        self._newest: LruCache[HotRow] = LruCache(MOST_REMEMBERED)
        self._sealed = SegmentReader()
        self._decided = GroupCommit(self._record_all, lambda: COMPUTE_LOCK.is_wanted)
        # The number of failed writes to the record.
        self.failures = 0

    def record(self, decision: Decision) -> None:
        """Record the decision durably, with its entry.

        Recording the same decision again does nothing (a retry after an unknown outcome). ConflictError:
        another decision has its id. UnavailableError: it is not on disk.
        """
        with self._count_failures():
            self._decided.add((decision, DECISION.text(decision)))

    def note(self, entry: Entry) -> None:
        """Append the entry to the record durably; UnavailableError: it is not on disk."""
        with self._recording() as connection:
            known = self._append(connection, [(entry, None)])
        self._remember(known)

    def _remember(self, committed: Mapping[str, HotRow]) -> None:
        """Cache each pipeline's newest row, as the dictionary of its next one."""
        for pipeline, row in committed.items():
            self._newest.put(pipeline, row)

    def _record_all(self, decided: Sequence[tuple[Decision, str]]) -> None:
        """Record the decisions, each with its text, in one transaction."""
        with writing(self._engine, RECORD_LOCK) as connection:
            recorded = self._hot_texts(connection, [decision.decision_id for decision, _ in decided])
            texts = {name: text for name, (_, text) in recorded.items()}
            new: list[tuple[Entry, str | None]] = []
            for decision, body in decided:
                name = decision.decision_id
                if name not in texts:
                    texts[name] = body
                    new.append((of_decision(decision, digest(body)), body))
                elif texts[name] != body:
                    raise ConflictError(f"another decision is already recorded as {name!r}")
            if not new:
                return
            known = self._append(connection, new)
        self._remember(known)

    @contextmanager
    def _recording(self) -> Iterator[Connection]:
        """A transaction that writes the record; it counts failures."""
        with self._count_failures(), writing(self._engine, RECORD_LOCK) as connection:
            yield connection

    @contextmanager
    def _count_failures(self) -> Iterator[None]:
        try:
            yield
        except (UnavailableError, ConfigurationError):
            self.failures += 1
            raise

    def _append(self, connection: Connection, new: Sequence[tuple[Entry, str | None]]) -> dict[str, HotRow]:
        """Append entries, each with the text of its decision, to the chains. Return each chain's newest row.

        The transaction must hold the record's lock, so that `seq` has the order of the commits: a reader that
        has read up to one `seq` has missed no earlier one. The caller caches the result after the commit.
        """
        seq = _newest_seq(connection)
        entries = [replace(entry, record=self.records.of(entry.pipeline)) for entry, _ in new]
        ends = connection.execute(_ENDS, {"names": sorted({entry.key for entry in entries})}).all()
        heads = {end.pipeline: (end.number, end.digest) for end in ends}
        known: dict[str, HotRow] = {}
        for end in ends:
            # The row before the next one if it is cached and not sealed.
            before = self._newest.get(end.pipeline)
            if before is not None and (before.number, before.row.digest) == (end.number, end.row_digest):
                known[end.pipeline] = before
        rows: list[dict[str, object]] = []
        for entry, (_, decision) in zip(entries, new, strict=True):
            name = entry.key
            number, previous = heads.get(name, (0, NOTHING))
            seq, number = seq + 1, number + 1
            row = Recorded(entry.text(seq, number, previous), decision)
            packed, known[name] = fold(row, number, known.get(name))
            heads[name] = number, row.digest
            facts = entry.facts if entry.kind is EntryKind.DECISION else {}
            rows.append(
                {
                    "seq": seq,
                    "pipeline": name,
                    "number": number,
                    "kind": entry.kind.value,
                    "decision_id": entry.decision_id,
                    "digest": row.digest,
                    "tick": facts["tick"] if facts else None,
                    "action": facts["action"].value if facts else None,
                    "frame": known[name].frame,
                    "packed": packed,
                }
            )
        connection.execute(_INSERT, rows)
        moved = [
            {"pipeline": name, "number": number, "digest": mark} for name, (number, mark) in heads.items()
        ]
        upsert(connection, HeadRow, moved)
        return known

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """Return the `limit` entries after `after`, oldest first, of the pipeline or of all.

        Damaged hot rows are logged and omitted.
        """
        hot, sealed = [EntryRow.seq > after], [SegmentRow.last_seq > after, SegmentRow.kept > 0]
        if pipeline is not None:
            record = self.records.of(pipeline)
            hot.append(EntryRow.pipeline == record)
            sealed.append(SegmentRow.pipeline == record)
        entries: list[Recorded] = []
        with snapshot(self._engine) as connection:
            newest = connection.execute(ROWS.where(*hot).order_by(EntryRow.seq).limit(limit)).all()
            end = newest[-1].seq if len(newest) == limit else math.inf
            for header in read_segments(connection, *sealed, order=SegmentRow.first_seq):
                if header.checkpoint.first_seq > end:
                    break
                entries += (
                    each for each in self._sealed.entries(connection, header) if after < each.seq <= end
                )
                entries = sorted(entries, key=attrgetter("seq"))[:limit]
                if len(entries) == limit:
                    end = entries[-1].seq
            hot_rows = HotRows(self._newest).read_rows(connection, (it for it in newest if it.seq <= end))
            entries += (Recorded(row.text) for row in hot_rows)
        return sorted(entries, key=attrgetter("seq"))[:limit]

    def newest_seq(self) -> int:
        """Return the `seq` of the newest entry of all pipelines; 0 without entries."""
        with reading(self._engine) as connection:
            return _newest_seq(connection)

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterator[SignedCheckpoint]:
        """Yield the checkpoints of entries after `after` that retention removed, oldest first."""
        wanted = [SegmentRow.last_seq > after, SegmentRow.kept <= SegmentRow.last - SegmentRow.first]
        if pipeline is not None:
            wanted.append(SegmentRow.pipeline == self.records.of(pipeline))
        with snapshot(self._engine) as connection:
            yield from read_segments(connection, *wanted, order=SegmentRow.first_seq)

    def recorded(self) -> Sequence[str]:
        """Return the names of all records, sorted."""
        with reading(self._engine) as connection:
            return sorted(connection.scalars(_RECORDED))

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """Return decisions, newest first; with `before_tick` those of earlier ticks."""
        before = math.inf if before_tick is None else before_tick

        def is_wanted(row: Recorded) -> bool:
            if row.decision is None:
                return False
            facts = row.values["facts"]
            return bool(facts["tick"] < before and (not applied_only or facts["action"] == Action.APPLY))

        with snapshot(self._engine) as connection:
            rows = self._newest_rows(connection, self.records.of(pipeline), before_tick, applied_only)
            texts = (row.decision or "" for row in rows if is_wanted(row))
            return [DECISION.value(text) for text in islice(texts, limit)]

    def _newest_rows(
        self, connection: Connection, record: str, before_tick: int | None, applied_only: bool
    ) -> Iterator[Recorded]:
        """The rows of the groups and segments that contain such decisions, newest first."""
        hot = [EntryRow.pipeline == record, EntryRow.kind == EntryKind.DECISION.value]
        sealed = [SegmentRow.pipeline == record, SegmentRow.kept > 0]
        if before_tick is not None:
            hot.append(EntryRow.tick < before_tick)
            sealed.append(SegmentRow.first_tick < before_tick)
        if applied_only:
            hot.append(EntryRow.action == Action.APPLY.value)
            sealed.append(SegmentRow.changes > 0)
        frames = select(EntryRow.frame).where(*hot).distinct().order_by(EntryRow.frame.desc())
        its = [EntryRow.pipeline == record]
        for frame in connection.scalars(frames).all():
            # By their numbers: a row whose frame was damaged is found in its place.
            group = ROWS.where(*its, EntryRow.number >= frame, EntryRow.number - GROUP < frame)
            rows = connection.execute(group.order_by(EntryRow.number)).all()
            yield from reversed(list(HotRows(self._newest).read_rows(connection, rows)))
            its = [EntryRow.pipeline == record, EntryRow.number < frame]
        for header in read_segments(connection, *sealed, order=SegmentRow.first.desc()):
            yield from reversed(self._sealed.rows(connection, header))

    def decision(self, decision_id: str) -> Decision:
        """Return the decision.

        NotFoundError: none has this id, retention removed it, or an earlier pipeline of its name made it.
        """
        with snapshot(self._engine) as connection:
            hot = self._hot_texts(connection, [decision_id]).get(decision_id)
            record, text = hot or self._sealed_text(connection, decision_id)
        decision = DECISION.value(text) if text else None
        if decision is None or self.records.of(decision.pipeline) != record:
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return decision

    def _hot_texts(self, connection: Connection, decision_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Record and text of the given decisions that are in hot rows, by their ids."""
        matches = connection.execute(_DECISIONS, {"names": decision_ids}).all()
        hot = HotRows(self._newest)
        try:
            rows = [(each, hot.read(connection, each)) for each in matches]
        except ValueError as error:
            names = ", ".join(sorted({each.pipeline for each in matches}))
            raise UnavailableError(
                f"the store holds a row of {names} that cannot be read: {error}",
                hint="`ipa history PIPELINE --verify` names it; restore the store from a backup.",
            ) from error
        return {each.decision_id: (each.pipeline, row.decision or "") for each, row in rows}

    def _sealed_text(self, connection: Connection, decision_id: str) -> tuple[str, str]:
        """The record and text of a sealed decision; its id joins pipeline, tick and more by hyphens."""
        parts = decision_id.split("-")
        for at in range(1, len(parts)):
            if not parts[at].isascii() or not parts[at].isdigit():
                continue
            # The id of a decision on a write's outcome has the tick before it.
            tick = int(parts[at][:15])
            wanted = SegmentRow.first_tick <= tick + 1, SegmentRow.last_tick >= tick, SegmentRow.kept > 0
            # A record of the pipeline, or PIPELINE@POLICY, of that name.
            name = "-".join(parts[:at])
            pipeline, mark, policy = name.partition("@")
            is_its = SegmentRow.pipeline.startswith(pipeline + MARK, autoescape=True)
            is_its &= SegmentRow.pipeline.endswith(mark + policy, autoescape=True)
            is_its |= SegmentRow.pipeline == name
            for header in read_segments(connection, is_its, *wanted, order=SegmentRow.last_seq.desc()):
                for row in self._sealed.rows(connection, header):
                    if row.decision is not None and row.values["decision_id"] == decision_id:
                        return header.checkpoint.pipeline, row.decision
        return "", ""


class Changes:
    """A hook of the loops: records that a change was accepted, became ready, failed or was rolled back.

    The decision behind a change is in the record before the change is written, so an outcome that cannot be
    recorded is only logged.
    """

    def __init__(self, note: Callable[[Entry], None]) -> None:
        self._note = note

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Record the change that ended in this tick, and the one that it started."""
        entries = []
        if snapshot.ended is not None and snapshot.ended.change is not None:
            entries.append(of_ended(snapshot.ended, decision.at))
        if decision.action is Action.APPLY and snapshot.phase is ActuationPhase.WAITING_READY:
            entries.append(of_applied(decision, decision.at, decision.by))
        try:
            for entry in entries:
                # Other loops may compute while this one waits for the disk.
                with COMPUTE_LOCK.away():
                    self._note(entry)
        except IpaError as error:
            log.error("%s: the outcome of a change cannot be recorded: %s", decision.pipeline, error)


def _newest_seq(connection: Connection) -> int:
    return max(seq or 0 for seq in connection.execute(_NEWEST).one())


class Store(Journal):
    """Decisions, controls and profiles in one database, and the record of decisions and people's actions.

    Safe for many threads and processes. `plans`, `answers`, and `given` (created pipelines) are for the API.
    """

    def __init__(
        self,
        engine: Engine,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic_s: Callable[[], float] = time.monotonic,
        *,
        retention: Retention = KEEP,
        keyring: Keyring | None = None,
    ) -> None:
        super().__init__(engine, RecordTable(engine, now))
        self._now = now
        self.retention = retention
        self.keyring = keyring or find_keyring(engine.url)
        self._state = StateRows(engine)
        self.keys = Keys(self._state)
        self.given = PipelineRows(self._state)
        self.plans = PlanRows(engine)
        self.answers = AnswerRows(engine)
        self._controls: TtlCache[Mapping[str, str]] = TtlCache(LAG_S, monotonic_s)
        # The report of the last pass of the keeper, and the error that ended it; empty if it succeeded.
        self.pruned = PruneReport()
        self.prune_error = ""

    def close(self) -> None:
        """Close every connection."""
        database.close_engine(self._engine)

    def verify(self, pipeline: str, anchor: Head | None = None, *, full: bool = False) -> Verified:
        """Verify the pipeline's record, and return its contents.

        RecordError names the first entry, decision or checkpoint that was changed, removed or inserted. An
        end that was truncated together with the head shows only against an `anchor` that was kept elsewhere.
        Sealed segments are verified by their signed checkpoints, with `full` row by row too.
        """
        return verify(self._engine, self.keyring, self.records.of(pipeline), anchor, full=full)

    def prune(
        self,
        now: datetime | None = None,
        retention: Retention | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> PruneReport:
        """Seal rows that are old enough, and remove those beyond the `retention`.

        Each transaction takes some tens of milliseconds and others can write between two of them, so it may
        run beside a service, also in another process. It ends early once `stop` is true; the next call
        continues. `now` and `retention` default to the store's own.
        ConfigurationError: the signing key is missing or cannot be read. UnavailableError: the database
        failed; earlier commits are kept.
        """
        now_s = (now or self._now()).timestamp()
        report = Keeper(self._engine, self.keyring, stop).prune(now_s, retention or self.retention)
        for pipeline, fault in report.damaged.items():
            if pipeline not in self.pruned.damaged:
                log.error("%s; nothing of it is sealed or removed", fault)
        if report.removed_decisions:
            words = "removed %d holds from the store, which freed %d kB"
            log.info(words, report.removed_decisions, report.freed_bytes // 1000)
        self.pruned, self.prune_error = report, ""
        return report

    def troubles(self) -> tuple[str, ...]:
        """Return why the retention is not applied; empty if it is."""
        return (*([self.prune_error] if self.prune_error else ()), *self.pruned.damaged.values())

    def check(self) -> None:
        """Do one cheap read; UnavailableError if it fails."""
        self._state.get(StateKind.CONTROL, "")

    def degraded(self) -> tuple[str, ...]:
        """Return why writes fail or soon may, each with its remedy; empty if all is well."""
        path = database_path(self._engine.url)
        low = low_disk(path) if path is not None else ""
        reasons = database.write_health(self._engine).reasons()
        # A write that failed for lack of space already reports the full disk.
        return (*reasons, low) if low and not any(low in reason for reason in reasons) else reasons

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """Return the pipeline's control; the default if none was set. `may_lag`: read a shared cache."""
        record = self.records.of(pipeline)
        if may_lag:
            fetch = lambda: self._state.all(StateKind.CONTROL)  # noqa: E731
            return _parse_control(self._controls.get(StateKind.CONTROL, fetch)[0].get(record))
        return _parse_control(self._state.get(StateKind.CONTROL, record))

    def set_control(self, pipeline: str, control: PipelineControl, attribution: Attribution) -> None:
        """Store the control, and record who changed it, both durably."""
        record = self.records.of(pipeline)
        with self._recording() as connection:
            before = _parse_control(read_state(connection, StateKind.CONTROL, record))
            at = moment_to_ms(self._now()).isoformat()
            known = self._append(connection, [(of_control(pipeline, before, control, attribution, at), None)])
            put_state(connection, StateKind.CONTROL, record, CONTROL.text(control), record)
        self._remember(known)
        self._controls.forget(StateKind.CONTROL)

    def end_record(self, pipeline: str) -> None:
        """Delete control, plans and answers of a removed pipeline; its record stays."""
        record = self.records.of(pipeline)
        self.records.end(pipeline)
        self._state.end(record)
        self._controls.forget(StateKind.CONTROL)

    def save_profile(self, profile: StageProfile) -> None:
        """Store the profile in place of the stage's former one."""
        record = self.records.of(profile.pipeline)
        self._state.put(StateKind.PROFILE, f"{record}/{profile.stage}", PROFILE.text(profile), record)

    def profiles(self, pipeline: str) -> Mapping[str, StageProfile]:
        """Return the newest profile of every stage of the pipeline, by stage name."""
        bodies = self._state.all(StateKind.PROFILE, self.records.of(pipeline))
        return {name.rpartition("/")[2]: PROFILE.value(body) for name, body in bodies.items()}


class Housekeeping:
    """The thread that seals and prunes the store if `leads()`. `now` is the clock of its decisions."""

    def __init__(
        self, store: Store, now: Callable[[], datetime], leads: Callable[[], bool], every_s: float = EVERY_S
    ) -> None:
        self._store, self._now, self._leads, self._every_s = store, now, leads, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the transaction under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.once()

    def once(self) -> PruneReport | None:
        """Make a pass and return its report. A failure is logged once, and listed in `Store.troubles`."""
        try:
            return self._store.prune(self._now(), stop=self._stop.is_set) if self._leads() else None
        except IpaError as error:
            self._fail(error.message)
        except Exception:
            # A bug must not end the thread: the store would grow without bound.
            log.exception("the store is not pruned")
            self._fail("pruning failed; the log has the cause")
        return None

    def _fail(self, why: str) -> None:
        if self._store.prune_error != why:
            log.error("the store is not pruned: %s", why)
        self._store.prune_error = why


@lru_cache(maxsize=4096)
def _parse_control(body: str | None) -> PipelineControl:
    """The control of the text; cached, since most pipelines have equal ones."""
    return PipelineControl() if body is None else CONTROL.value(body)


def open_store(
    store_url: str,
    access: database.Access = database.Access.WRITE,
    *,
    retention: Retention = KEEP,
    key_file: str = "",
) -> Store:
    """Open the store at the SQLAlchemy URL, at the newest schema. Errors: as `open_engine`.

    `key_file` holds the key that signs checkpoints; by default it is beside an SQLite store.
    """
    engine = database.open_engine(store_url, access)
    return Store(engine, retention=retention, keyring=find_keyring(engine.url, key_file))


def open_from(settings: Settings, access: database.Access = database.Access.WRITE) -> Store:
    """Open the store of the settings. Errors: as `open_engine`."""
    # 0 days: keep for ever; 0 MB: no bound.
    retention = Retention(
        decisions_s=settings.keep_decisions_days * DAY_S,
        changes_s=settings.keep_changes_days * DAY_S if settings.keep_changes_days else None,
        decisions_bytes=round(settings.keep_decisions_mb * MEGABYTE) if settings.keep_decisions_mb else None,
    )
    return open_store(settings.store_url, access, retention=retention, key_file=settings.store_key_file)
