"""The store: the ports DecisionLog, ControlStore and ProfileStore, and the record, over one database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import Connection, Engine, and_, bindparam, delete, func, insert, select, union

from ipa.adapters.store import database, series
from ipa.adapters.store.api_state import AnswerRows, PipelineRows, PlanRows
from ipa.adapters.store.codec import CONTROL, DECISION, PROFILE
from ipa.adapters.store.group_commit import GroupCommit
from ipa.adapters.store.health import low_disk
from ipa.adapters.store.journal import Item, Journal, newest_seq
from ipa.adapters.store.keeper import Keeper
from ipa.adapters.store.keys import Keys
from ipa.adapters.store.record_table import RecordTable
from ipa.adapters.store.schema import (
    ControlRow,
    DecisionRow,
    EntryRow,
    HeadRow,
    ProfileRow,
    SegmentRow,
)
from ipa.adapters.store.series import Hour
from ipa.adapters.store.signing import Keyring, keyring_of
from ipa.adapters.store.sqlite_file import file_of
from ipa.adapters.store.stats import stats_of
from ipa.adapters.store.verifying import verify
from ipa.adapters.ttl_cache import TtlCache
from ipa.control.audit.checkpoints import SignedCheckpoint
from ipa.control.audit.record import Entry, Head, Recorded, Verified, of_control, of_decision
from ipa.control.canonical import digest
from ipa.control.loop.compute_lock import COMPUTE_LOCK
from ipa.control.ports import Attribution, PipelineControl
from ipa.control.store_admin import PruneReport, Retention, StoreStats, retention_from
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError
from ipa.model.profile import StageProfile
from ipa.model.rounding import moment_to_ms
from ipa.settings import Settings

# The allowed age of a control with `may_lag`: a thousand loops then read four times a second.
LAG_S = 0.25
KEEP = Retention()
# Above every time in the record, and a number in both databases.
LATEST_S = 1e11


class Store:
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
        self._engine, self._now = engine, now
        self.retention = retention
        self.keyring = keyring or keyring_of(engine.url)
        self._journal = Journal()
        self.keeper = Keeper(engine, self.keyring)
        self.keys = Keys(engine)
        self.plans = PlanRows(engine)
        self.answers = AnswerRows(engine)
        self.given = PipelineRows(engine)
        self.records = RecordTable(engine, now)
        self._decided = GroupCommit(self._record_all, lambda: COMPUTE_LOCK.is_wanted)
        self._said: TtlCache[Mapping[str, str]] = TtlCache(LAG_S, monotonic_s)
        # The number of failed writes to the record.
        self.failures = 0

    @property
    def url(self) -> str:
        """The URL of the store, including its password."""
        return self._engine.url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Write waiting plans, and close every connection."""
        self.plans.close()
        database.close_engine(self._engine)

    def record(self, decision: Decision) -> None:
        """Record the decision durably, with its entry.

        Recording the same decision again does nothing (a retry after an unknown outcome). ConflictError:
        another decision has its id. UnavailableError: it is not on disk.
        """
        with self._counted():
            self._decided.add((decision, DECISION.text(decision)))

    def note(self, entry: Entry) -> None:
        """Append the entry to the record durably; UnavailableError: it is not on disk."""
        with self._recording() as connection:
            known = self._journal.append(connection, [Item(self._placed(entry))])
        self._journal.hot.remember(known)

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """Return the `limit` entries after `after`, oldest first, of the pipeline or of all."""
        with database.snapshot(self._engine) as connection:
            record = None if pipeline is None else self.records.of(pipeline)
            return self._journal.entries(connection, after, limit, record)

    def newest_seq(self) -> int:
        """Return the `seq` of the newest entry of all pipelines; 0 without entries."""
        with database.reading(self._engine) as connection:
            return newest_seq(connection)

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterator[SignedCheckpoint]:
        """Yield the checkpoints of entries after `after` that retention removed, oldest first."""
        with database.snapshot(self._engine) as connection:
            record = None if pipeline is None else self.records.of(pipeline)
            yield from self._journal.checkpoints(connection, after, record)

    def verify(self, pipeline: str, anchor: Head | None = None, *, full: bool = False) -> Verified:
        """Verify the pipeline's record, and return its contents.

        RecordError names the first entry, decision or checkpoint that was changed, removed or inserted. An
        end that was truncated together with the head shows only against an `anchor` that was kept elsewhere.
        Sealed segments are verified by their signed checkpoints, with `full` row by row too.
        """
        return verify(self._engine, self.keyring, self.records.of(pipeline), anchor, full=full)

    def series(self, pipeline: str, since_s: float = 0.0, until_s: float = math.inf) -> Sequence[Hour]:
        """Return the pipeline's hours from `since_s` to `until_s` (since 1970 UTC), oldest first.

        An hour is available once its decisions are sealed, some hours later.
        """
        with database.reading(self._engine) as connection:
            return series.read(connection, self.records.of(pipeline), since_s, min(until_s, LATEST_S))

    def recorded(self) -> Sequence[str]:
        """Return the names of all records, sorted."""
        with database.reading(self._engine) as connection:
            return sorted(connection.scalars(_RECORDED))

    def _record_all(self, decided: Sequence[tuple[Decision, str]]) -> None:
        """Record the decisions, each with its text, in one transaction."""
        with database.writing(self._engine, database.RECORD_LOCK) as connection:
            kept = self._journal.texts(connection, [decision.decision_id for decision, _ in decided])
            new: dict[str, Item] = {}
            for decision, body in decided:
                name = decision.decision_id
                if name not in kept:
                    kept[name] = body
                    new[name] = Item(self._placed(of_decision(decision, digest(body))), decision, body)
                elif kept[name] != body:
                    raise ConflictError(f"another decision is already recorded as {name!r}")
            if not new:
                return
            known = self._journal.append(connection, list(new.values()))
        self._journal.hot.remember(known)

    def _placed(self, entry: Entry) -> Entry:
        """The entry with the name of the record that its pipeline writes now."""
        return replace(entry, record=self.records.of(entry.pipeline))

    @contextmanager
    def _recording(self) -> Iterator[Connection]:
        """A transaction that writes the record; failures are counted."""
        with self._counted(), database.writing(self._engine, database.RECORD_LOCK) as connection:
            yield connection

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (UnavailableError, ConfigurationError):
            self.failures += 1
            raise

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """Return decisions, newest first; with `before_tick` those of earlier ticks."""
        found: list[Decision] = []
        record = self.records.of(pipeline)
        with database.snapshot(self._engine) as connection:
            texts = self._journal.decisions(connection, record, before_tick, applied_only=applied_only)
            for decision in map(DECISION.value, texts):
                is_applied = decision.action is Action.APPLY or not applied_only
                if is_applied and (before_tick is None or decision.tick < before_tick):
                    found.append(decision)
                if len(found) == limit:
                    break
        return found

    def decision(self, decision_id: str) -> Decision:
        """Return the decision.

        NotFoundError: there is none, retention removed it, or an earlier pipeline of its name made it.
        """
        with database.snapshot(self._engine) as connection:
            kept = self._journal.decision(connection, decision_id)
        found = None if kept is None else DECISION.value(kept[1])
        if kept is None or found is None or self.records.of(found.pipeline) != kept[0]:
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return found

    def stats(self) -> StoreStats:
        """Return the store's size by kind, its growth and its projection. It reads the hot rows once."""
        return stats_of(self._engine, self.retention, self.keyring, is_bounded=self.keeper.is_bounded)

    def prune(
        self,
        now: datetime | None = None,
        retention: Retention | None = None,
        *,
        within_s: float | None = None,
    ) -> PruneReport:
        """Seal rows that are old enough, and remove those beyond the `retention`.

        Each transaction takes some tens of milliseconds and others can write between two of them, so it may
        run beside a service, also in another process. It ends early after `within_s` seconds; the next call
        continues. `now` and `retention` default to the store's own.
        ConfigurationError: the signing key is missing or cannot be read. UnavailableError: the database
        failed; earlier commits are kept.
        """
        now_s = (now or self._now()).timestamp()
        return self.keeper.prune(now_s, retention or self.retention, within_s)

    def troubles(self) -> tuple[str, ...]:
        """Return why the retention is not applied; empty if it is."""
        return self.keeper.troubles()

    def check(self) -> None:
        """Do one cheap read; UnavailableError if it fails."""
        with database.reading(self._engine) as connection:
            connection.scalar(_ANY_CONTROL)

    def degraded(self) -> tuple[str, ...]:
        """Return why writes fail or soon may, each with its remedy; empty if all is well."""
        path = file_of(self._engine.url)
        low = low_disk(path) if path is not None else ""
        reasons = database.health_of(self._engine).reasons()
        # A write that failed for lack of space reports it already.
        return (*reasons, low) if low and not any(low in reason for reason in reasons) else reasons

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """Return the pipeline's control; the default if none was set. With `may_lag` from a shared cache."""
        if may_lag:
            body = self._said.get(ControlRow, self._all_said)[0].get(self.records.of(pipeline))
        else:
            with database.reading(self._engine) as connection:
                body = connection.scalar(_CONTROL, {"its": self.records.of(pipeline)})
        return _control_of(body)

    def _all_said(self) -> Mapping[str, str]:
        with database.reading(self._engine) as connection:
            return dict(connection.execute(_CONTROLS).all())

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        """Store the control, and record who changed it, both durably."""
        body, record = CONTROL.text(control), self.records.of(pipeline)
        with self._recording() as connection:
            before = connection.scalar(select(ControlRow.body).where(ControlRow.pipeline == record))
            at = moment_to_ms(self._now()).isoformat()
            entry = of_control(pipeline, _control_of(before), control, said, at)
            known = self._journal.append(connection, [Item(replace(entry, record=record))])
            database.upsert(connection, ControlRow, {"pipeline": record}, {"body": body})
        self._journal.hot.remember(known)
        self._said.forget(ControlRow)

    def end_record(self, pipeline: str) -> None:
        """Delete control, plans and answers of a removed pipeline; its record stays."""
        record = self.records.of(pipeline)
        self.records.end(pipeline)
        self.plans.end(record)
        self.answers.end(record)
        with database.writing(self._engine, database.lock_of("controls", record)) as connection:
            connection.execute(delete(ControlRow).where(ControlRow.pipeline == record))
        self._said.forget(ControlRow)

    def save_profile(self, profile: StageProfile) -> int:
        """Store the profile, and return its revision, from 1; the same one if nothing changed."""
        body = PROFILE.text(profile)
        mark = digest(f"{body}\0")
        record = self.records.of(profile.pipeline)
        with database.writing(
            self._engine, database.lock_of("profiles", f"{record}/{profile.stage}")
        ) as connection:
            newest = _newest_profile(connection, record, profile.stage)
            if newest is not None and newest[1] == mark:
                return newest[0]
            revision = 1 if newest is None else newest[0] + 1
            connection.execute(
                insert(ProfileRow).values(
                    pipeline=record, stage=profile.stage, revision=revision, digest=mark, body=body
                )
            )
        return revision

    def profile(self, pipeline: str, stage: str) -> StageProfile:
        """Return the newest profile; NotFoundError if there is none."""
        with database.reading(self._engine) as connection:
            newest = _newest_profile(connection, self.records.of(pipeline), stage)
        if newest is None:
            raise NotFoundError(
                f"there is no profile of stage {stage!r} of pipeline {pipeline!r}",
                hint="`ipa profile` measures one.",
            )
        return PROFILE.value(newest[2])

    def profiles(self, pipeline: str) -> Mapping[str, StageProfile]:
        """Return the newest profile of every stage of the pipeline, by stage name."""
        record = self.records.of(pipeline)
        newest = (
            select(ProfileRow.stage, func.max(ProfileRow.revision).label("revision"))
            .where(ProfileRow.pipeline == record)
            .group_by(ProfileRow.stage)
            .subquery()
        )
        is_newest = and_(ProfileRow.stage == newest.c.stage, ProfileRow.revision == newest.c.revision)
        query = select(ProfileRow.stage, ProfileRow.body).join(newest, is_newest)
        query = query.where(ProfileRow.pipeline == record).order_by(ProfileRow.stage)
        with database.reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {stage: PROFILE.value(body) for stage, body in rows}


# Built once: building a statement takes longer than reading a row.
_RECORDED = union(*(select(row.pipeline) for row in (EntryRow, HeadRow, DecisionRow, SegmentRow)))
_CONTROLS = select(ControlRow.pipeline, ControlRow.body)
_ANY_CONTROL = select(ControlRow.pipeline).limit(1)
_CONTROL = select(ControlRow.body).where(ControlRow.pipeline == bindparam("its"))


def _newest_profile(connection: Connection, pipeline: str, stage: str) -> tuple[int, str, str] | None:
    row = connection.execute(
        select(ProfileRow.revision, ProfileRow.digest, ProfileRow.body)
        .where(ProfileRow.pipeline == pipeline, ProfileRow.stage == stage)
        .order_by(ProfileRow.revision.desc())
        .limit(1)
    ).first()
    return None if row is None else (row[0], row[1], row[2])


@lru_cache(maxsize=4096)
def _control_of(body: str | None) -> PipelineControl:
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
    return Store(engine, retention=retention, keyring=keyring_of(engine.url, key_file))


def open_from(settings: Settings, access: database.Access = database.Access.WRITE) -> Store:
    """Open the store of the settings. Errors: as `open_engine`."""
    return open_store(
        settings.store_url, access, retention=retention_from(settings), key_file=settings.store_key_file
    )
