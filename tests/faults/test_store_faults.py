"""A store that is slow, full, unavailable or altered: nothing is actuated, nothing lost, and ticks go on."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text

from ipa.adapters.store import Store, database, schema
from ipa.control.audit.reason_log import ReasonLog
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import UNHEALTHY, Change, Decision, Mode, ReasonCode
from ipa.model.errors import ConfigurationError, IpaError, RecordError
from tests.fakes.world import PIPELINE, Scenario, scenario
from tests.faults.table import Case


@dataclass
class RecordedWorld:
    """A loop over a real store in a file, whose writes are checked against the file as they are made."""

    path: Path
    engine: Engine
    world: Scenario
    unaudited: int = 0

    def rows(self) -> list[str]:
        """The decisions on disk, as another process reads them."""
        other = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        texts = [row[0] for row in other.execute(DECIDED)]
        other.close()
        return texts

    def check(self, change: Change) -> None:
        self.unaudited += change.decision_id not in self.rows()

    @property
    def writes(self) -> int:
        return len(self.world.workload.writes)


DECIDED = "SELECT decision_id FROM ipa_entries WHERE kind = 'decision' ORDER BY seq"
FILLER = """
INSERT INTO ipa_entries (seq, pipeline, number, kind, decision_id, digest, frame, packed)
SELECT max(seq) + 1, 'filler', max(seq) + 1, 'change', '', '', max(seq) + 1, zeroblob(100)
FROM ipa_entries
"""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def recorded_world(path: Path) -> Iterator[RecordedWorld]:
    engine = database.open_engine(url_of(path))
    store = Store(engine)
    store.set_control(PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE))
    # With the log of reasons, as the service has it.
    made = replace(scenario(25.0), store=store, hooks=(ReasonLog(),)).restarted("run")  # type: ignore[arg-type]
    recorded = RecordedWorld(path, engine, made)
    made.workload.before_write = recorded.check
    try:
        yield recorded
    finally:
        engine.dispose()


@contextmanager
def connecting(engine: Engine, connected: Callable[..., None]) -> Iterator[None]:
    """Connections are new, and made so."""
    engine.dispose()
    event.listen(engine, "connect", connected)
    yield
    event.remove(engine, "connect", connected)
    engine.dispose()


def full(recorded: RecordedWorld) -> AbstractContextManager[None]:
    """No page can be added: what SQLite says of a full disk."""

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        # What is left of the last page, so that the next decision does not fit.
        with suppress(sqlite3.OperationalError):
            while True:
                connection.execute(FILLER)

    return connecting(recorded.engine, connected)


def read_only(recorded: RecordedWorld) -> AbstractContextManager[None]:
    """Remounted read-only: every write is refused."""
    return connecting(recorded.engine, lambda connection, _: connection.execute("PRAGMA query_only = ON"))


@contextmanager
def not_growing(_recorded: RecordedWorld) -> Iterator[None]:
    """The system fails each write() to the log, so that SQLite says disk I/O error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fsync(is_kept: bool) -> Callable[[RecordedWorld], object]:
    """A commit whose fsync fails: of what was written nothing is sure, all of it or nothing is there."""

    @contextmanager
    def failing(recorded: RecordedWorld) -> Iterator[None]:
        dialect = recorded.engine.dialect
        real = dialect.do_commit

        def commit(connection: sqlite3.Connection) -> None:
            if is_kept:
                connection.commit()
            raise sqlite3.OperationalError("disk I/O error")

        dialect.do_commit = commit  # type: ignore[method-assign,assignment]
        yield
        dialect.do_commit = real  # type: ignore[method-assign]

    return failing


@contextmanager
def locked(recorded: RecordedWorld) -> Iterator[None]:
    """Another process is in a long transaction."""
    other = sqlite3.connect(recorded.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.close()


DISKS = {
    "full": full,
    "read-only": read_only,
    "I/O error at write": not_growing,
    "I/O error at fsync, nothing kept": fsync(False),
    "I/O error at fsync, all kept": fsync(True),
}


def held(decisions: Sequence[Decision]) -> set[ReasonCode]:
    return {decision.reason for decision in decisions}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked store is given up at once."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)


@pytest.mark.parametrize("trouble", DISKS)
def test_a3_no_write_where_the_audit_cannot_be_kept(case: Case, tmp_path: Path, trouble: str) -> None:
    case.title += f": {trouble}"
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        recorded.world.metrics.rate_rps = lambda _: 5.0
        recorded.world.ticks(2)
        before, writes = recorded.rows(), recorded.writes
        recorded.world.metrics.rate_rps = lambda _: 25.0
        with DISKS[trouble](recorded):  # type: ignore[operator]
            decisions = recorded.world.ticks(5)
        case.equal("reasons", {reason.value for reason in held(decisions)}, {"hold.audit_failed"})
        case.equal("writes without an audit record", recorded.writes - writes, 0)
        assert before
        lost = set(before) - set(recorded.rows())
        case.equal("rows lost", len(lost), 0)
        later = recorded.world.ticks(8)
        at = next(at for at, decision in enumerate(later, 1) if decision.action.value == "apply")
        case.at_most("MTTR ticks", at, 1)
        case.equal("unaudited writes", recorded.unaudited, 0)
        case.equal("writes after recovery", recorded.writes - writes, 1)


def test_a4_locked_by_another_process(case: Case, tmp_path: Path) -> None:
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        with locked(recorded):
            decisions = recorded.world.ticks(3)
        case.equal("reasons", {reason.value for reason in held(decisions)}, {"hold.audit_failed"})
        case.equal("writes while locked", recorded.writes, 0)
        case.equal("first action after", recorded.world.ticks(1)[0].action.value, "apply")
        case.equal("unaudited writes", recorded.unaudited, 0)


def test_a4_removed_while_in_use(case: Case, tmp_path: Path) -> None:
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(1)
        writes = recorded.writes
        recorded.world.metrics.rate_rps = lambda _: 5.0
        for file in tmp_path.iterdir():
            file.rename(tmp_path.parent / f"moved-{file.name}")
        decisions = recorded.world.ticks(12)
        case.equal("reasons", {reason.value for reason in held(decisions)}, {"hold.audit_failed"})
        case.equal("writes missing from the record", recorded.writes - writes, 0)
        case.equal("stores recreated", len([*tmp_path.iterdir()]), 0)
        with pytest.raises(IpaError, match="moved or removed"):
            Store(recorded.engine).control(PIPELINE.name)


def test_a4_damaged_while_in_use_and_at_start(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with recorded_world(path) as recorded:
        recorded.world.ticks(2)
        recorded.engine.dispose()
        writes = recorded.writes
        recorded.world.metrics.rate_rps = lambda _: 5.0
        contents = bytearray(path.read_bytes())
        contents[4096:] = b"\xff" * (len(contents) - 4096)
        path.write_bytes(contents)
        decisions = recorded.world.ticks(12)
        case.equal("reasons", {reason.value for reason in held(decisions)}, {"hold.audit_failed"})
        case.equal("writes", recorded.writes - writes, 0)
    with pytest.raises(IpaError, match="damaged"):
        database.open_engine(url_of(path))
    case.equal("file unchanged by the refusal", path.read_bytes() == contents, True)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this version one with one more step of the schema, which ends with the statement given."""

    def install(last: str) -> None:
        def step(connection: Connection) -> None:
            connection.execute(text("ALTER TABLE ipa_heads ADD COLUMN extra TEXT"))
            connection.execute(text("UPDATE ipa_heads SET extra = digest"))
            connection.execute(text(last))

        monkeypatch.setattr(schema, "STEPS", {**schema.STEPS, schema.NEWEST: step})
        monkeypatch.setattr(schema, "NEWEST", "9999")

    return install


def test_a4_an_older_schema_is_migrated_and_a_newer_refused(
    case: Case, tmp_path: Path, newer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite3"
    steps, newest = schema.STEPS, schema.NEWEST
    with recorded_world(path) as recorded:
        recorded.world.ticks(6)
        before = recorded.rows()
    newer("SELECT 1")
    with recorded_world(path) as recorded:
        case.equal("rows lost by migrating", len(set(before) - set(recorded.rows())), 0)
        case.note("rows", len(before))
        case.equal("chain of digests", Store(recorded.engine).verify(PIPELINE.name).decisions, len(before))
        recorded.world.ticks(2)
        case.equal("unaudited writes afterwards", recorded.unaudited, 0)
        after = recorded.rows()
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(schema, "NEWEST", newest)
    with pytest.raises(ConfigurationError, match="newer than this version"):
        database.open_engine(url_of(path))
    other = sqlite3.connect(path)
    count = len(other.execute(DECIDED).fetchall())
    other.close()
    case.equal("rows lost by the refusal", len(after) - count, 0)


def test_a4_a_migration_that_fails_changes_nothing(
    case: Case, tmp_path: Path, newer: Callable[[str], None]
) -> None:
    path = tmp_path / "s.sqlite3"
    with recorded_world(path) as recorded:
        recorded.world.ticks(3)
        before = recorded.rows()

    def dump() -> list[str]:
        other = sqlite3.connect(path)
        lines = [*other.iterdump()]
        other.close()
        return lines

    whole = dump()
    newer("SELECT 1 FROM nowhere")
    with pytest.raises(IpaError, match="nowhere"):
        database.open_engine(url_of(path))
    case.equal("lines changed", len(set(whole) ^ set(dump())), 0)
    case.note("rows", len(before))


TROUBLES = {**DISKS, "locked": locked}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_f6_it_decides_without_the_store_and_says_so(case: Case, tmp_path: Path, trouble: str) -> None:
    case.title += f": {trouble}"
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(2)
        # A service that starts while the store is in trouble, too.
        for world in (recorded.world, recorded.world.restarted("again")):
            with TROUBLES[trouble](recorded):  # type: ignore[operator]
                decisions = world.ticks(4)
            case.equal("ticks that decided", len([it for it in decisions if it.observed_rate_rps]), 4)
            case.equal("reasons", held(decisions), {ReasonCode.AUDIT_FAILED})
            case.equal("flagged as unhealthy", ReasonCode.AUDIT_FAILED in UNHEALTHY, True)
        case.at_least("failures counted", recorded.world.store.failures, 1)  # type: ignore[attr-defined]
        later = recorded.world.ticks(2)
        case.equal("reasons once it is well", ReasonCode.AUDIT_FAILED in held(later), False)
        case.equal("unaudited writes", recorded.unaudited, 0)


def test_f6_slow(case: Case, tmp_path: Path) -> None:
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        clock, tick_s = recorded.world.clock, recorded.world.settings.tick_s
        begun: list[float] = []

        def wait(*_: object) -> None:
            """Each transaction takes most of a tick, and a tick has several."""
            begun.append(clock.monotonic_s())
            clock.wait(0.8 * tick_s)

        event.listen(recorded.engine, "begin", wait)
        recorded.world.run(200.0)
        event.remove(recorded.engine, "begin", wait)
        snapshot = recorded.world.loop.snapshot()
        case.at_least("ticks", snapshot.tick, 5)
        case.at_least("ticks skipped and counted", snapshot.skipped_ticks, 1)
        case.equal("unaudited writes", recorded.unaudited, 0)
        case.note("transactions", len(begun))


@contextmanager
def by_hand(recorded: RecordedWorld) -> Iterator[sqlite3.Connection]:
    """The file, in the hands of somebody who may do anything with it."""
    recorded.engine.dispose()
    other = sqlite3.connect(recorded.path, isolation_level=None)
    yield other
    other.close()


def test_f6_history_deleted(case: Case, tmp_path: Path) -> None:
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(6)
        store = Store(recorded.engine)
        rows = store.verify(PIPELINE.name).entries
        with by_hand(recorded) as other:
            other.execute("DROP TRIGGER ipa_entries_no_delete")
            other.execute("DELETE FROM ipa_entries WHERE number = 2")
        for world in (recorded.world, recorded.world.restarted("again")):
            decisions = world.ticks(3)
            case.equal("ticks that failed", held(decisions) & {ReasonCode.AUDIT_FAILED}, set())
        with pytest.raises(RecordError, match="entry 2 was removed") as caught:
            store.verify(PIPELINE.name)
        case.note("message", caught.value.message)
        with by_hand(recorded) as other:
            other.execute("DELETE FROM ipa_entries")
        decisions = recorded.world.restarted("third").ticks(3)
        case.equal("ticks that failed", held(decisions) & {ReasonCode.AUDIT_FAILED}, set())
        with pytest.raises(RecordError, match="entry 1 was removed"):
            store.verify(PIPELINE.name)
        case.equal("unaudited writes", recorded.unaudited, 0)
        case.note("entries before", rows)


def test_f6_a_store_begun_anew_is_known_by_an_older_head(case: Case, tmp_path: Path) -> None:
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(3)
        anchor = Store(recorded.engine).verify(PIPELINE.name).head
    with recorded_world(tmp_path / "other.sqlite3") as recorded:
        store = Store(recorded.engine)
        world = replace(recorded.world, store=store).restarted("other")  # type: ignore[arg-type]
        store.set_control(PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE))
        world.ticks(6)
        assert store.verify(PIPELINE.name).entries > anchor.number
        with pytest.raises(RecordError, match=f"entry {anchor.number} does not have the digest of the anch"):
            store.verify(PIPELINE.name, anchor)
    case.note("chain head kept elsewhere", anchor.number)
