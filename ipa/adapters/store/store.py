"""The store: the ports DecisionLog, ControlStore and ProfileStore, and the record, over one database."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import Engine

from ipa.adapters.store import database
from ipa.adapters.store.codec import CONTROL, PROFILE
from ipa.adapters.store.database import low_disk
from ipa.adapters.store.journal import Journal
from ipa.adapters.store.keeper import Keeper, stats_of
from ipa.adapters.store.keys import Keys
from ipa.adapters.store.schema import StateKind
from ipa.adapters.store.segments import verify
from ipa.adapters.store.signing import Keyring, keyring_of
from ipa.adapters.store.sqlite_file import file_of
from ipa.adapters.store.state import (
    AnswerRows,
    PipelineRows,
    PlanRows,
    RecordTable,
    StateRows,
    put_state,
    read_state,
)
from ipa.adapters.ttl_cache import TtlCache
from ipa.control.audit.record import Head, Verified, of_control
from ipa.control.ports import Attribution, PipelineControl
from ipa.control.store_admin import DAY_S, MEGABYTE, PruneReport, Retention, StoreStats
from ipa.model.errors import IpaError
from ipa.model.profile import StageProfile
from ipa.model.rounding import moment_to_ms
from ipa.settings import Settings

# The allowed age of a control with `may_lag`: a thousand loops then read four times a second.
LAG_S = 0.25
KEEP = Retention()
# The interval between passes of the housekeeping: a segment takes half a second of CPU time.
EVERY_S = 300.0
log = logging.getLogger("ipa.store")


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
        self.keyring = keyring or keyring_of(engine.url)
        self._state = StateRows(engine)
        self.keys = Keys(self._state)
        self.given = PipelineRows(self._state)
        self.plans = PlanRows(engine)
        self.answers = AnswerRows(engine)
        self._controls: TtlCache[Mapping[str, str]] = TtlCache(LAG_S, monotonic_s)
        # The report of the last pass of the keeper, and the error that ended it; empty if it succeeded.
        self.pruned = PruneReport()
        self.prune_error = ""

    @property
    def url(self) -> str:
        """The URL of the store, including its password."""
        return self._engine.url.render_as_string(hide_password=False)

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

    def stats(self) -> StoreStats:
        """Return the store's size by kind."""
        return stats_of(self._engine, self.retention, self.keyring)

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
        path = file_of(self._engine.url)
        low = low_disk(path) if path is not None else ""
        reasons = database.health_of(self._engine).reasons()
        # A write that failed for lack of space reports it already.
        return (*reasons, low) if low and not any(low in reason for reason in reasons) else reasons

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """Return the pipeline's control; the default if none was set. With `may_lag` from a shared cache."""
        record = self.records.of(pipeline)
        if may_lag:
            fetch = lambda: self._state.all(StateKind.CONTROL)  # noqa: E731
            return _control_of(self._controls.get(StateKind.CONTROL, fetch)[0].get(record))
        return _control_of(self._state.get(StateKind.CONTROL, record))

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        """Store the control, and record who changed it, both durably."""
        record = self.records.of(pipeline)
        with self._recording() as connection:
            before = _control_of(read_state(connection, StateKind.CONTROL, record))
            at = moment_to_ms(self._now()).isoformat()
            known = self._append(connection, [(of_control(pipeline, before, control, said, at), None)])
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
        found = self._state.all(StateKind.PROFILE, self.records.of(pipeline))
        return {name.rpartition("/")[2]: PROFILE.value(body) for name, body in found.items()}


class Housekeeping:
    """The thread that seals and prunes the store if `leads()`. `now` is the clock of its decisions."""

    def __init__(
        self, store: Store, now: Callable[[], datetime], leads: Callable[[], bool], every_s: float = EVERY_S
    ) -> None:
        self._store, self._now, self._leads, self._every_s = store, now, leads, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Start."""
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
        """Make a pass; return its report. A failure is logged once, and is in `Store.troubles`."""
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
    # 0 days keep for ever, 0 MB set no bound.
    retention = Retention(
        decisions_s=settings.keep_decisions_days * DAY_S,
        changes_s=settings.keep_changes_days * DAY_S if settings.keep_changes_days else None,
        decisions_bytes=round(settings.keep_decisions_mb * MEGABYTE) if settings.keep_decisions_mb else None,
    )
    return open_store(settings.store_url, access, retention=retention, key_file=settings.store_key_file)
