"""R8: the store after a hundred pipelines and thirty days: it ends, and what is left still verifies."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text

from experiments.growth.run import projected_bytes
from experiments.growth.sizes import sizes_of
from ipa.adapters.store import Store, keeper, segments
from ipa.adapters.store.database import open_engine, reading
from ipa.adapters.store.schema import SegmentRow
from ipa.adapters.store.state import DECISION
from ipa.adapters.store.store import Changes
from ipa.control.audit.replay import ReplayOutcome, inputs_in, replay
from ipa.control.canonical import digest
from ipa.control.engine.tick import read_inputs
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.control.store_admin import DAY_S, Retention
from ipa.model.decision import Action, Mode
from ipa.model.errors import RecordError
from tests.contract.store_harness import a_decision, plain_engine
from tests.fakes.world import PIPELINE, Scenario, ours, profiled, scenario
from tests.faults.table import Case

# Ticks of the loop that is measured; 8640 are a day.
TICKS = int(os.environ.get("IPA_FAULT_TICKS", "300"))
HUNDRED = 100
LATER = datetime(2036, 1, 1, tzinfo=UTC)


@dataclass
class Grown:
    """A loop over a real store, under a load that is never the same twice."""

    path: Path
    engine: Engine
    store: Store
    world: Scenario

    def pages(self) -> tuple[int, int]:
        """The bytes of the file, and those of them that are free."""
        other = sqlite3.connect(self.path)
        size, free, page = (
            other.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        other.close()
        return size * page, free * page


@contextmanager
def grown(path: Path, *, rate_rps: float = 25.0, noise_rps: float = 0.5) -> Iterator[Grown]:
    engine = open_engine(f"sqlite:///{path}")
    # What is measured is room, not the disk's time.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    engine.dispose()
    store = Store(engine)
    store.set_control(
        PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE, "kim")
    )
    made = replace(scenario(rate_rps), store=store, hooks=(Changes(store.note),))  # type: ignore[arg-type]
    made.metrics.rate_rps = lambda at_s: rate_rps + random.Random(int(at_s)).uniform(-noise_rps, noise_rps)
    try:
        yield Grown(path, engine, store, made.restarted("00c0ffee"))
    finally:
        store.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "BETWEEN_S", 0.0)


def test_r8_what_a_held_tick_adds(case: Case, tmp_path: Path, quick: None) -> None:
    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(64)
        before, _ = recorded.pages()
        decisions = recorded.world.ticks(TICKS)
        held = [it for it in decisions if it.action is Action.HOLD]
        case.at_least("of them held ratio", len(held) / TICKS, 0.95)
        plain = sum(len(DECISION.text(it)) for it in decisions) / TICKS
        case.note("bytes of a decision as text", round(plain))
        grew = (recorded.pages()[0] - before) / TICKS
        case.at_most("bytes a held tick adds, tables and indexes", round(grew), 1000)
        recorded.store.prune(recorded.world.clock.now(), Retention(decisions_bytes=None))
        assert keeper_seals(recorded) >= 0
        sizes = sizes_of(recorded.store)
        case.note("bytes of a decision, sealed", round(sizes.sealed_bytes / sizes.decisions, 1))


def keeper_seals(recorded: Grown) -> int:
    """Seal all that there is, as once a pipeline records no more; how many rows are sealed."""
    recorded.store.prune(LATER, Retention(decisions_s=40 * 365 * DAY_S))
    return sizes_of(recorded.store).sealed_rows


def test_r8_what_a_hundred_pipelines_come_to(case: Case, tmp_path: Path, quick: None) -> None:
    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(2 * TICKS)
        keeper_seals(recorded)
        sealed = sizes_of(recorded.store)
        recorded.store.prune(LATER)
        pruned, retention = sizes_of(recorded.store), recorded.store.retention
        month, year = (
            projected_bytes(sealed, pruned, retention, HUNDRED * DAY_S / 5.0, days) for days in (30, 365)
        )
        case.at_most("GB after 30 days", round(month / 1e9, 2), 2.0)
        case.at_most("GB after a year", round(year / 1e9, 2), 25.0)


def test_r8_the_size_bound_ends_it(
    case: Case, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "ROWS", 64)
    monkeypatch.setattr(keeper, "HOT", 8)
    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(3 * 64 + 8)
        recorded.store.prune(recorded.world.clock.now())
        most = keeper.whole_bytes(recorded.engine) + 2000
        sizes, files = [], []
        for _ in range(3):
            recorded.world.ticks(64)
            recorded.store.prune(recorded.world.clock.now(), Retention(decisions_bytes=most))
            sizes.append(keeper.whole_bytes(recorded.engine))
            files.append(recorded.pages()[0])
        case.at_most("bytes of the record against its bound", round(max(sizes) / most, 2), 1.0)
        # Pages that are free are used again; the last round adds nothing to the file.
        case.at_most("file, last round against the one before", round(files[-1] / files[-2], 3), 1.02)
        case.equal("bound told", recorded.store.pruned.is_bounded, True)
        recorded.store.verify(PIPELINE.name, full=True)


def test_r8_the_chain_verifies_across_pruning(case: Case, tmp_path: Path, quick: None) -> None:
    with grown(tmp_path / "s.sqlite3", noise_rps=12.0) as recorded:
        scattered = recorded.world.metrics.rate_rps
        # A load that only scatters changes little.
        recorded.world.metrics.rate_rps = lambda at_s: scattered(at_s) * (1 if int(at_s) // 200 % 2 else 0.3)
        decisions = recorded.world.ticks(250)
        keeper_seals(recorded)
        anchor = recorded.store.verify(PIPELINE.name).head
        case.equal(
            "decisions replayed from their segments that differ", differing(recorded, decisions[::7]), 0
        )
        recorded.store.prune(LATER)
        verified = recorded.store.verify(PIPELINE.name, anchor, full=True)
        case.equal("decisions the chain speaks of", verified.decisions, len(decisions))
        changes = sum(it.action is Action.APPLY for it in decisions)
        case.at_least("changes among them", changes, 5)
        case.equal("decisions removed", verified.removed, len(decisions) - changes)
        case.equal("changes kept", len(recorded.store.decisions(PIPELINE.name, limit=1000)), changes)
        case.equal("checkpoints without a signature", verified.unchecked, 0)
        # It goes on, and so does what an earlier head says of it.
        recorded.world.ticks(3)
        recorded.store.verify(PIPELINE.name, anchor, full=True)
        case.equal(
            "changes replayed from what is left that differ", differing(recorded, decisions, Action.APPLY), 0
        )


def differing(recorded: Grown, decisions: list, action: Action | None = None) -> int:  # type: ignore[type-arg]
    """The number of decisions that differ when they are taken again from what the store holds."""
    known = profiled()
    policy = ours()
    count = 0
    for decision in decisions:
        if action is not None and decision.action is not action:
            continue
        stored = recorded.store.decision(decision.decision_id)
        assert stored == decision
        inputs = inputs_in(stored)
        assert digest(stored.inputs) == stored.inputs_digest and read_inputs(stored.inputs) == inputs
        count += replay(stored, inputs, PIPELINE, policy, known.predict).outcome is not ReplayOutcome.SAME  # type: ignore[union-attr, arg-type]
    return count


FORGED = {
    "first_seq": "first_seq + 1", "last_seq": "last_seq - 1", "first_s": "first_s - 1",
    "last_s": "last_s + 1", "first_tick": "first_tick + 1", "last_tick": "last_tick + 1",
    "decisions": "decisions - 1", "held": "held + 1",
    "changes": "changes + 1", "kept": "kept - 1", "previous": "head", "head": "previous",
    "content": "head", "entries": "head",
    "last": "last - 1", "signature": "'AAAA'", "key_id": "'0123456789abcdef'", "block": "zeroblob(10)",
}  # fmt: skip


def test_r8_every_change_of_a_checkpoint_is_named(case: Case, tmp_path: Path, quick: None) -> None:
    with grown(tmp_path / "s.sqlite3", noise_rps=12.0) as recorded:
        recorded.world.ticks(70)
        keeper_seals(recorded)
        recorded.store.prune(LATER)
        engine = plain_engine(f"sqlite:///{recorded.path}")
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER ipa_segments_no_update"))
        named = 0
        for column, value in FORGED.items():
            with engine.connect() as connection, connection.begin() as transaction:
                whole = connection.execute(text(f"SELECT {column} FROM ipa_segments")).scalar()
                transaction.commit()
            with engine.begin() as connection:
                connection.execute(text(f"UPDATE ipa_segments SET {column} = {value}"))
            with pytest.raises(RecordError) as caught:
                recorded.store.verify(PIPELINE.name)
            named += "entries 1 to" in caught.value.message or "entry 1" in caught.value.message
            with engine.begin() as connection:
                connection.execute(text(f"UPDATE ipa_segments SET {column} = :whole"), {"whole": whole})
        engine.dispose()
        case.equal("columns forged", len(FORGED), len(SegmentRow.__table__.columns) - 3)
        case.equal("of them named", named, len(FORGED))
        assert recorded.store.verify(PIPELINE.name, full=True).removed > 0


@pytest.mark.live
def test_r8_no_tick_waits_for_it(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS", 256)
    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(segments.ROWS + keeper.HOT + 1)
        reports = []
        thread = threading.Thread(
            target=lambda: reports.append(recorded.store.prune(recorded.world.clock.now()))
        )
        thread.start()
        decisions = 0
        while thread.is_alive():
            decisions += sum(it.reason.value != "hold.audit_failed" for it in recorded.world.ticks(1))
        thread.join()
        case.at_least("rows sealed meanwhile", reports[0].sealed_entries, 192)
        case.at_least("ticks meanwhile", decisions, 1)
        case.at_most("s, the longest of them", round(reports[0].longest_write_s, 3), 0.5)
        log_bytes = Path(f"{recorded.path}-wal").stat().st_size
        case.at_most("MB of the write-ahead log", round(log_bytes / 1e6, 1), 12.0)
        recorded.store.verify(PIPELINE.name, full=True)


def test_r8_verification_takes_no_more_memory_for_a_longer_chain(
    case: Case, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "ROWS", 64)

    def peak(recorded: Grown) -> int:
        tracemalloc.start()
        recorded.store.verify(PIPELINE.name, full=True)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(128)
        keeper_seals(recorded)
        peak(recorded)
        short = peak(recorded)
        recorded.world.ticks(256)
        keeper_seals(recorded)
        case.at_most("peak of three times the chain", round(peak(recorded) / short, 2), 1.5)


def test_r8_pruning_is_cheap_where_there_is_nothing_to_do(case: Case, tmp_path: Path) -> None:
    with grown(tmp_path / "s.sqlite3") as recorded:
        recorded.world.ticks(80)
        recorded.store.prune(recorded.world.clock.now())
        writes: list[object] = []
        event.listen(recorded.engine, "commit", writes.append)
        recorded.store.prune(recorded.world.clock.now() + timedelta(seconds=10))
        case.equal("transactions that write", len(writes), 0)
        with reading(recorded.engine) as connection:
            case.equal("rows", connection.scalar(text("SELECT count(*) FROM ipa_segments")), 0)
        assert a_decision(1)
