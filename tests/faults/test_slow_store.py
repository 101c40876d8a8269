"""F6: a store that is slow, full, unavailable, or has lost its history: it goes on deciding, and says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from ipa.adapters.store import Store, database
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import UNHEALTHY, Mode, ReasonCode
from ipa.model.errors import RecordError
from tests.fakes.world import PIPELINE
from tests.faults.table import Case
from tests.faults.test_store_faults import DISKS, RecordedWorld, held, locked, recorded_world

TROUBLES = {**DISKS, "locked": locked}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked store is given up at once."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)


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
