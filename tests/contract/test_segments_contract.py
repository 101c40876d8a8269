"""Sealing and retention: reads see no difference, the chain verifies, and tampering is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from experiments.growth.sizes import sizes_of
from ipa.adapters.signing import Keyring
from ipa.adapters.store import Store, keeper, open_store, rows, segments
from ipa.adapters.store.database import open_engine
from ipa.adapters.store.keeper import Keeper
from ipa.control.audit.record import Head, Recorded, verify_lines
from ipa.control.canonical import canonical_json, digest
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.control.store_admin import DAY_S, Retention
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConfigurationError, NotFoundError, RecordError
from tests.contract.store_harness import Reopen, a_decision, plain_engine
from tests.contract.test_record_contract import run

START = datetime(2026, 11, 24, 10, tzinfo=UTC)
TICK_S = 10.0
TICKS = 60
# Every how many ticks something changes.
CHANGES = 7
# Beyond everything, and every decision kept until then.
LATER = START + timedelta(days=4000)
ALL = Retention(decisions_s=5000 * DAY_S)


# Of signatures and of rules of retention: nothing in it asks the database another question.
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of sixteen rows in groups of four, and no waiting between transactions."""
    monkeypatch.setattr(rows, "GROUP", 4)
    monkeypatch.setattr(segments, "ROWS", 16)
    monkeypatch.setattr(keeper, "HOT", 4)
    monkeypatch.setattr(keeper, "BETWEEN_S", 0.0)


def decided(tick: int, pipeline: str = "ocr", **changes: object) -> Decision:
    action = Action.APPLY if tick % CHANGES == 0 else Action.HOLD
    at = (START + timedelta(seconds=tick * TICK_S)).isoformat()
    return replace(a_decision(tick, pipeline=pipeline, action=action), at=at, **changes)  # type: ignore[arg-type]


def fill(
    store: Store, first: int = 1, last: int = TICKS, pipelines: tuple[str, ...] = ("ocr", "video")
) -> None:
    for tick in range(first, last + 1):
        for pipeline in pipelines:
            store.record(decided(tick, pipeline))
        if tick % 20 == 0:
            control = PipelineControl(paused=tick % 40 == 0, paused_reason=f"release {tick}", paused_by="kim")
            store.set_control("ocr", control, Attribution(ControlAction.PAUSE, "kim", f"release {tick}"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "signing.key"
    Keyring(path, may_make=True).sign("")
    return path


@pytest.fixture
def signed(store: Store, key: Path, url: str) -> Iterator[Store]:
    """The store, filled, with a key on either database."""
    signed_store = Store(open_engine(url), now=lambda: START, keyring=Keyring(key))
    fill(signed_store)
    yield signed_store
    signed_store.close()


def pages(store: Store) -> list[Recorded]:
    """Every entry, seven at a time."""
    entries: list[Recorded] = []
    while page := store.entries(entries[-1].seq if entries else 0, 7):
        entries.extend(page)
    return entries


def answers_of(store: Store) -> dict[str, object]:
    """The views of the record."""
    return {
        "decisions": store.decisions("ocr", limit=1000),
        "page": store.decisions("ocr", limit=9, before_tick=31),
        "applied": store.decisions("ocr", limit=5, applied_only=True),
        "applied before": store.decisions("ocr", limit=2, before_tick=30, applied_only=True),
        "one": store.decision("ocr-13"),
        "entries": store.entries(0, 1000),
        "some": store.entries(33, 21),
        "of one": store.entries(12, 30, "video"),
        "page by page": pages(store),
        "newest": store.newest_seq(),
        "verified": store.verify("ocr", full=True),
    }


def test_reads_see_no_difference_once_rows_are_sealed(
    signed: Store, reopen: Reopen, key: Path, url: str
) -> None:
    before = answers_of(signed)
    report = signed.prune(START)
    assert report.is_done and report.sealed_segments == 6
    assert report.sealed_entries == 2 * 48
    again = open_store(url, key_file=str(key))
    for store in (signed, again):
        after = answers_of(store)
        for name, what in before.items():
            assert after[name] == what, name
    assert signed.verify("ocr").unchecked == 0
    # And the chain goes on.
    fill(signed, TICKS + 1, 2 * TICKS)
    assert [it.seq for it in again.entries(0, 1000)] == list(range(1, signed.newest_seq() + 1))
    signed.prune(START)
    assert signed.verify("ocr", full=True) == signed.verify("ocr")
    assert signed.verify("ocr").decisions == 2 * TICKS
    again.close()


def test_holds_go_and_changes_and_acts_stay(signed: Store) -> None:
    signed.prune(START)
    whole = {entry.seq: entry for entry in signed.entries(0, 1000)}
    report = signed.prune(START + timedelta(days=30, seconds=TICK_S * TICKS))
    assert report.removed_decisions > 50
    assert report.removed_changes == 0
    decisions = signed.decisions("ocr", limit=1000)
    sealed = [it for it in decisions if it.tick <= 40]
    assert sealed and {it.tick for it in sealed} == {7, 14, 21, 28, 35}
    assert [it.tick for it in signed.decisions("ocr", limit=100, applied_only=True)] == [
        56,
        49,
        42,
        35,
        28,
        21,
        14,
        7,
    ]
    entries = signed.entries(0, 1000)
    assert all(whole[entry.seq] == entry for entry in entries)
    acts = [entry for entry in entries if entry.values["kind"] == "control"]
    assert [entry.values["why"] for entry in acts] == ["release 20", "release 40", "release 60"]
    with pytest.raises(NotFoundError):
        signed.decision("ocr-1")
    assert signed.decision("ocr-14").tick == 14
    for full in (False, True):
        verified = signed.verify("ocr", full=full)
        assert (verified.decisions, verified.unchecked) == (TICKS, 0)
        assert verified.removed == TICKS - len(decisions)


@ON_SQLITE
def test_an_outcome_that_holds_stays_and_delays_no_other(signed: Store) -> None:
    """A segment with one is thinned once; what is younger has its turn."""
    for tick in range(TICKS + 1, TICKS + 3):
        signed.record(replace(decided(tick), decision_id=f"ocr-{tick}-outcome"))
    fill(signed, TICKS + 3, 2 * TICKS, ("ocr",))
    signed.prune(START)
    report = signed.prune(LATER)
    assert report.is_done and report.thinned_segments == sizes_of(signed).segments
    held = [it.decision_id for it in signed.decisions("ocr", limit=1000) if it.action is Action.HOLD]
    assert held == ["ocr-62-outcome", "ocr-61-outcome"]
    assert signed.verify("ocr", full=True).removed > 0


def test_changes_go_when_told(signed: Store) -> None:
    signed.prune(START)
    later = START + timedelta(days=40)
    signed.prune(later)
    fill(signed, TICKS + 1, 2 * TICKS)
    signed.prune(later)
    assert signed.verify("ocr", full=True).decisions == 2 * TICKS
    before = len(signed.decisions("ocr", limit=1000))
    report = signed.prune(later, Retention(changes_s=DAY_S))
    assert report.removed_changes > 0
    assert len(signed.decisions("ocr", limit=1000)) < before
    assert signed.verify("ocr", full=True).decisions == 2 * TICKS


def test_too_many_bytes_thin_the_oldest_first(signed: Store) -> None:
    signed.prune(START)
    whole = keeper.whole_bytes(signed._engine)
    report = signed.prune(START, Retention(decisions_bytes=whole - 1000))
    assert signed.pruned.is_bounded
    assert 0 < report.removed_decisions < 60
    assert keeper.whole_bytes(signed._engine) <= whole - 1000
    ticks = [[it.tick for it in signed.decisions(name, limit=1000)] for name in ("ocr", "video")]
    # The oldest of either; both are as old.
    assert not all(1 in each for each in ticks)
    assert all(set(range(45, TICKS + 1)) <= set(each) for each in ticks)
    assert signed.verify("ocr").removed + signed.verify("video").removed == report.removed_decisions


def test_a_pass_that_ends_anywhere_loses_nothing(signed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers_of(signed)
    passes = 0
    while True:
        passes += 1
        calls = iter(range(passes))
        report = Keeper(
            signed._engine, signed.keyring, stop=lambda calls=calls: next(calls, None) is None
        ).prune(START.timestamp(), Retention())
        assert answers_of(signed) == before
        if report.is_done:
            break
    assert passes > 3
    assert sizes_of(signed).segments == 6


def test_two_keepers_and_writers_beside_each_other(
    signed: Store, reopen: Reopen, key: Path, url: str
) -> None:
    import threading

    other = open_store(url, key_file=str(key))
    errors: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> threading.Thread:
        def work() -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)

        return threading.Thread(target=work)

    def keep(store: Store) -> None:
        for _ in range(4):
            store.prune(START)

    def check() -> None:
        for _ in range(6):
            other.verify("ocr", full=True)
            seqs = [it.seq for it in other.entries(0, 10_000)]
            assert seqs == list(range(1, len(seqs) + 1))

    threads = [
        guarded(lambda: keep(signed)),
        guarded(lambda: keep(other)),
        guarded(lambda: fill(signed, TICKS + 1, 2 * TICKS)),
        guarded(check),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    signed.prune(START)
    assert signed.verify("ocr", full=True).decisions == 2 * TICKS
    other.close()


def test_a_pipeline_that_records_no_more_is_sealed_whole_and_goes_on(signed: Store) -> None:
    signed.prune(LATER, ALL)
    assert sizes_of(signed).hot_rows == 0
    whole = signed.verify("ocr", full=True)
    assert whole.decisions == TICKS
    fill(signed, TICKS + 1, TICKS + 6)
    assert [it.tick for it in signed.decisions("ocr", limit=3)] == [TICKS + 6, TICKS + 5, TICKS + 4]
    assert signed.verify("ocr", full=True).decisions == TICKS + 6


@ON_SQLITE
def test_an_export_verifies_past_what_was_removed(signed: Store, key: Path, tmp_path: Path) -> None:
    signed.prune(START)
    signed.prune(START + timedelta(seconds=30 * TICK_S), Retention(decisions_s=10.0))

    def lines() -> list[str]:
        return [*(it.line() for it in signed.checkpoints(0)), *(it.line() for it in signed.entries(0, 1000))]

    whole = lines()
    head = signed.verify("ocr").head
    verified = verify_lines(whole, {"ocr": head}, Keyring(key).verifies)
    assert verified["ocr"] == signed.verify("ocr")
    assert verified["ocr"].removed > 0
    assert verify_lines(whole, {})["ocr"].unchecked > 0
    # Without the checkpoints it looks cut out, and so does a change that is missing within one.
    for at, line in enumerate(whole):
        if '"checkpoint":{' in line and '"first":1,' in line:
            with pytest.raises(RecordError, match="was removed"):
                verify_lines(whole[:at] + whole[at + 1 :], {})
        if '"decision_id":"ocr-7"' in line:
            with pytest.raises(RecordError, match="does not have the entries of the checkpoint of"):
                verify_lines(whole[:at] + whole[at + 1 :], {})
            changed = json.loads(line)
            changed["entry"]["why"] = "something else"
            changed["digest"] = digest(canonical_json(changed["entry"]))
            with pytest.raises(RecordError, match="does not have the entries of the checkpoint of"):
                verify_lines([*whole[:at], json.dumps(changed), *whole[at + 1 :]], {})
    with pytest.raises(RecordError, match="is not signed with a known key"):
        verify_lines([line.replace('"kept":', '"kept":1') for line in whole], {}, Keyring(key).verifies)
    with pytest.raises(RecordError, match="is not signed with a known key"):
        verify_lines(whole, {}, Keyring(another_key(tmp_path)).verifies)
    # All of it removed, the checkpoints alone tell where the chain is.
    signed.prune(LATER, Retention(changes_s=1.0))
    assert signed.entries(0, 1000) == []
    assert signed.verify("ocr").head == head


def test_the_database_removes_only_what_is_sealed(signed: Store, url: str) -> None:
    signed.prune(START)
    engine = plain_engine(url)
    for statement in (
        "DELETE FROM ipa_entries",
        "DELETE FROM ipa_segments",
        "UPDATE ipa_segments SET head = previous",
        "UPDATE ipa_segments SET held = held + 1, signature = 'x'",
        "UPDATE ipa_segments SET last = last + 1, signature = 'x'",
        "UPDATE ipa_entries SET digest = ''",
    ):
        with pytest.raises(DBAPIError, match="only ever added to"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()
    assert signed.verify("ocr", full=True).decisions == TICKS


@pytest.fixture
def hands(url: str, signed: Store) -> Iterator[Engine]:
    """The database without its guards, after sealing and thinning some of it."""
    signed.prune(START)
    signed.prune(START + timedelta(seconds=20 * TICK_S), Retention(decisions_s=10.0))
    assert not signed.verify("ocr", full=True).unchecked
    engine = plain_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            for name in (
                "entries_no_update",
                "entries_no_delete",
                "segments_no_update",
                "segments_no_delete",
            ):
                connection.execute(text(f"DROP TRIGGER ipa_{name}"))
        else:
            connection.execute(text("DROP TRIGGER ipa_entries_guard ON ipa_entries"))
            connection.execute(text("DROP TRIGGER ipa_segments_guard ON ipa_segments"))
    yield engine
    engine.dispose()


def set_segment(what: str, first: int) -> str:
    return f"UPDATE ipa_segments SET {what} WHERE pipeline = 'ocr' AND first = {first}"


DONE = {
    "the checkpoint of entries 1 to 16 was changed": set_segment("decisions = decisions - 1", 1),
    "the checkpoint of entries 17 to 32 was changed": set_segment("held = held - 1", 17),
    "the checkpoint of entries 17 to 32 was changed: its sig": set_segment("signature = 'x'", 17),
    "the checkpoint of entries 17 to 32 has no signature": set_segment("key_id = ''", 17),
    "the checkpoint of entries 17 to 32 of 'ocr' is signed with the key abc": set_segment(
        "key_id = 'abc'", 17
    ),
    "the block of entries 17 to 32 was changed": set_segment(
        "block = (SELECT block FROM ipa_segments WHERE pipeline = 'ocr' AND first = 33)", 17
    ),
    "entries 17 to 32 were removed: the next segment is that of entries 33 to": (
        "DELETE FROM ipa_segments WHERE pipeline = 'ocr' AND first = 17"
    ),
    "entries 1 to 16 were removed": "DELETE FROM ipa_segments WHERE pipeline = 'ocr' AND first = 1",
    "entry 33 was removed: entry 49 is in its place": (
        "DELETE FROM ipa_segments WHERE pipeline = 'ocr' AND first = 33"
    ),
    "entry 1 was removed: entry 49 is in its place": "DELETE FROM ipa_segments WHERE pipeline = 'ocr'",
    "entry 49 to 63 were removed from the end": "DELETE FROM ipa_entries WHERE pipeline = 'ocr'",
    "entry 53 was removed: entry 54": "DELETE FROM ipa_entries WHERE pipeline = 'ocr' AND number = 53",
}


def test_what_was_done_to_a_segment_is_named(signed: Store, hands: Engine) -> None:
    """By the checkpoints and row by row, on one store that is put right between: filling one is slow."""
    tables = ("segments", "entries")
    with hands.begin() as connection:
        for table in tables:
            connection.execute(text(f"CREATE TABLE ipa_kept_{table} AS SELECT * FROM ipa_{table}"))
    for named, done in DONE.items():
        run(hands, done)
        for full in (False, True):
            with pytest.raises(RecordError, match=named):
                signed.verify("ocr", full=full)
            assert signed.verify("video", full=full).decisions == TICKS
        with hands.begin() as connection:
            for table in tables:
                connection.execute(text(f"DELETE FROM ipa_{table}"))
                connection.execute(text(f"INSERT INTO ipa_{table} SELECT * FROM ipa_kept_{table}"))
        assert signed.verify("ocr", full=True).decisions == TICKS


def test_a_segment_of_another_pipeline_or_key_is_found(
    signed: Store, hands: Engine, tmp_path: Path, url: str
) -> None:
    run(hands, "UPDATE ipa_segments SET pipeline = 'x' WHERE pipeline = 'ocr' AND first = 17")
    run(hands, "UPDATE ipa_segments SET pipeline = 'ocr' WHERE pipeline = 'video' AND first = 17")
    with pytest.raises(RecordError, match="the checkpoint of entries 17 to 32 was changed"):
        signed.verify("ocr")
    foreign = open_store(url, key_file=str(another_key(tmp_path)))
    with pytest.raises(RecordError, match=r"which is not in .*other\.key"):
        foreign.verify("video")
    foreign.close()


def another_key(folder: Path) -> Path:
    path = folder / "other.key"
    Keyring(path, may_make=True).sign("")
    return path


@ON_SQLITE
def test_keys_that_were_used_before_verify_and_the_first_signs(
    signed: Store, key: Path, tmp_path: Path, url: str
) -> None:
    signed.prune(START)
    other = another_key(tmp_path)
    other.write_bytes(other.read_bytes() + key.read_bytes())
    store = open_store(url, key_file=str(other))
    fill(store, TICKS + 1, 2 * TICKS)
    store.prune(START)
    assert store.verify("ocr").unchecked == 0
    assert store.keyring.sign("")[0] != signed.keyring.sign("")[0]
    store.close()


@ON_SQLITE
def test_without_a_key_nothing_is_signed_and_it_says_so(store: Store, url: str, key: Path) -> None:
    bare = Store(store._engine, keyring=Keyring(None))
    fill(bare)
    bare.prune(START)
    bare.prune(START + timedelta(days=40))
    verified = bare.verify("ocr")
    assert (verified.decisions, verified.unchecked) == (TICKS, sizes_of(bare).segments // 2)
    # Once there is a key, what comes is signed, and what was not is still told.
    signed = open_store(url, key_file=str(key))
    fill(signed, TICKS + 1, 2 * TICKS)
    signed.prune(START)
    assert signed.verify("ocr", full=True).decisions == 2 * TICKS
    assert signed.verify("ocr").unchecked > 0
    # Whoever has no key can check no signature of it, and prunes nothing.
    assert bare.verify("ocr").unchecked > verified.unchecked
    with pytest.raises(ConfigurationError, match="there is no key in"):
        bare.prune(START)
    signed.close()


def test_a_row_that_was_changed_is_never_sealed(
    signed: Store, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = plain_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER ipa_entries_no_update"))
        else:
            connection.execute(text("DROP TRIGGER ipa_entries_guard ON ipa_entries"))
        connection.execute(text("UPDATE ipa_entries SET tick = 99 WHERE decision_id = 'ocr-5'"))
    engine.dispose()
    signed.prune(START)
    assert "decision 'ocr-5' of entry 5 was changed" in caplog.text
    assert any("'ocr-5'" in trouble for trouble in signed.troubles())
    with pytest.raises(RecordError, match="decision 'ocr-5' of entry 5 was changed"):
        signed.verify("ocr")
    assert signed.verify("video").decisions == TICKS
    assert sizes_of(signed).segments == 3


def test_an_anchor_is_met_within_a_segment_and_past_removed_rows(signed: Store, hands: Engine) -> None:
    entries = {entry.values["number"]: entry for entry in signed.entries(0, 1000, "ocr")}
    for number in (7, 20, 48, 55):
        assert signed.verify("ocr", Head(number, entries[number].digest)).decisions == TICKS
        with pytest.raises(RecordError, match=f"entry {number} does not have the digest of the anchor"):
            signed.verify("ocr", Head(number, "0" * 64))
    with pytest.raises(RecordError, match="the anchor is entry 900"):
        signed.verify("ocr", Head(900, "0" * 64))


def test_the_key_is_made_once_beside_the_store_for_its_owner_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.sqlite3"
    stores = [open_store(url) for _ in range(2)]
    path = tmp_path / "s.sqlite3.key"
    assert not path.exists()
    fill(stores[0])
    stores[0].prune(START)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in tmp_path.glob("*.key*")} == {"s.sqlite3.key"}
    assert stores[1].verify("ocr").unchecked == 0
    key_bytes = path.read_bytes()
    path.unlink()
    for store in stores:
        store.close()
    again = open_store(url)
    with pytest.raises(ConfigurationError, match=r"is signed with the key .* there is no key in"):
        again.prune(START)
    path.write_bytes(key_bytes)
    again.close()
    again = open_store(url)
    again.prune(START)
    again.close()


def test_statistics_count_what_was_removed(signed: Store) -> None:
    signed.prune(START, ALL)
    before = sizes_of(signed)
    report = signed.prune(LATER)
    after = sizes_of(signed)
    assert (after.decisions, after.hot_rows) == (before.changes, 0)
    assert (report.removed_decisions, after.changes) == (2 * TICKS - before.changes, before.changes)
