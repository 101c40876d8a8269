"""The record: every change of it is found and named, on each database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, event, insert, text

from ipa.adapters.store import Store, database
from ipa.adapters.store.rows import fold
from ipa.adapters.store.schema import EntryRow
from ipa.control.audit.record import Recorded
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import Action, Mode
from ipa.model.errors import ConflictError, RecordError, UnavailableError
from tests.contract.store_harness import Reopen, a_decision, plain_engine

SAID = Attribution(ControlAction.PAUSE, "kim", "release")


@pytest.fixture
def filled(store: Store) -> Store:
    """Six entries of ocr, two of another pipeline among them."""
    for tick in range(1, 5):
        store.record(a_decision(tick, action=Action.APPLY if tick == 2 else Action.HOLD))
        if tick % 2:
            store.record(a_decision(tick, pipeline="other"))
    store.set_control("ocr", PipelineControl(paused=True, paused_reason="release", paused_by="kim"), SAID)
    store.record(a_decision(5))
    return store


@pytest.fixture
def hands(url: str, filled: Store) -> Iterator[Engine]:
    """The database without its guards, as one who owns it can make it."""
    engine = plain_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER ipa_entries_no_update"))
            connection.execute(text("DROP TRIGGER ipa_entries_no_delete"))
        else:
            connection.execute(text("DROP TRIGGER ipa_entries_guard ON ipa_entries"))
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0, statement


def test_decisions_and_deeds_are_one_chain(filled: Store) -> None:
    verified = filled.verify("ocr")
    assert (verified.decisions, verified.entries) == (5, 6)
    entries = [entry.values for entry in filled.entries(0, 100, "ocr")]
    assert [values["number"] for values in entries] == [1, 2, 3, 4, 5, 6]
    assert [values["kind"] for values in entries] == [*["decision"] * 4, "control", "decision"]
    change, pause = entries[1], entries[4]
    assert (change["by"], change["decision_id"], change["why"]) == ("ipa", "ocr-2", "λ 9 → 10 rps")
    assert (change["from"][0]["replicas"], change["to"][0]["replicas"]) == (1, 2)
    assert (pause["what"], pause["by"], pause["why"]) == ("pause", "kim", "release")
    assert pause["from"] == {"paused": False, "paused_by": "", "paused_reason": ""}
    assert pause["to"] == {"paused": True, "paused_by": "kim", "paused_reason": "release"}
    assert [entry.seq for entry in filled.entries(0, 100)] == list(range(1, 9))
    assert filled.newest_seq() == 8


def set_entry(what: str, seq: int) -> str:
    return f"UPDATE ipa_entries SET {what} WHERE seq = {seq}"


def set_head(what: str) -> str:
    return f"UPDATE ipa_heads SET {what} WHERE pipeline = 'ocr'"


def swapped(column: str, one: int, other: int) -> list[str]:
    """Two entries of ocr change places."""
    update = "UPDATE ipa_entries SET {0} = {2} WHERE {0} = {1} AND pipeline = 'ocr'"
    return [update.format(column, *step) for step in ((one, 100), (other, one), (100, other))]


# A row of nothing but zeros, in the databases' words for bytes.
ZEROS = {"sqlite": "zeroblob(64)", "postgresql": "decode(repeat('00', 64), 'hex')"}
DONE = {
    "entry 5 was changed": [set_entry("packed = {zeros}", 7)],
    "entry 3 was changed": [set_entry("digest = 'x'", 4)],
    "entry 1 was changed: its columns": [set_entry("kind = 'change'", 1)],
    "entry 2 was changed: its columns": [set_entry("decision_id = 'ocr-9'", 3)],
    "entry 1 was removed: entry 2 is": ["DELETE FROM ipa_entries WHERE seq = 1"],
    "entry 3 was removed: entry 4 is": ["DELETE FROM ipa_entries WHERE seq = 4"],
    "entry 6 was removed from the end: the head is entry 6": ["DELETE FROM ipa_entries WHERE seq = 8"],
    "entry 4 to 6 were removed from the end": ["DELETE FROM ipa_entries WHERE seq > 5"],
    "entry 1 to 6 were removed": ["DELETE FROM ipa_entries WHERE pipeline = 'ocr'"],
    "decision 'ocr-4' of entry 4 was changed": [set_entry("tick = 7", 6)],
    "decision 'ocr-1' of entry 1 was changed": [set_entry("action = 'apply'", 1)],
    "entry 3 was changed: its text": [set_entry("frame = 2", 4)],
    "its head was removed": ["DELETE FROM ipa_heads WHERE pipeline = 'ocr'"],
    "entry 3 was changed: its columns differ": swapped("seq", 4, 6),
    "entry 3 was chang": swapped("number", 3, 4),
    "entry 7 to 9 were removed": [set_head("number = 9")],
    "entry 6 does not have the digest of the head": [set_head("digest = 'x'")],
    "entry 6 was inserted after the end": [set_head("number = 5")],
}


@pytest.mark.parametrize("named", DONE)
def test_what_was_done_to_it_is_named(filled: Store, hands: Engine, named: str) -> None:
    zeros = ZEROS[hands.dialect.name]
    run(hands, *(statement.format(zeros=zeros) for statement in DONE[named]))
    with pytest.raises(RecordError, match=named):
        filled.verify("ocr")
    assert filled.verify("other").entries == 2


def test_an_entry_put_in_with_a_right_digest_is_found(filled: Store, hands: Engine) -> None:
    last = filled.entries(0, 100, "ocr")[-1]
    forged = last.text.replace('"number":6', '"number":7').replace(f'"seq":{last.seq}', '"seq":9')
    forged = forged.replace(last.values["previous"], last.digest).replace('"ocr-5"', '""')
    packed, row = fold(Recorded(forged), 7, None)
    with hands.begin() as connection:
        connection.execute(
            insert(EntryRow).values(
                seq=9, pipeline="ocr", number=7, kind="decision", decision_id="", digest=row.row.digest,
                frame=7, packed=packed,
            )
        )  # fmt: skip
    with pytest.raises(RecordError, match="entry 7"):
        filled.verify("ocr")


def test_a_tail_cut_with_its_head_shows_against_an_anchor(filled: Store, hands: Engine) -> None:
    anchor = filled.verify("ocr").head
    fifth = filled.entries(0, 100, "ocr")[4]
    run(
        hands,
        "DELETE FROM ipa_entries WHERE seq = 8",
        f"UPDATE ipa_heads SET number = 5, digest = '{fifth.digest}' WHERE pipeline = 'ocr'",
    )
    assert filled.verify("ocr").entries == 5  # nothing in the database tells
    with pytest.raises(RecordError, match="entry 6 was removed from the end: the anchor is entry 6"):
        filled.verify("ocr", anchor)
    filled.record(a_decision(9))
    with pytest.raises(RecordError, match="entry 6 does not have the digest of the anchor"):
        filled.verify("ocr", anchor)


def test_it_goes_on_after_a_tail_was_cut_and_still_shows_it(filled: Store, hands: Engine) -> None:
    run(hands, "DELETE FROM ipa_entries WHERE seq = 8")
    filled.record(a_decision(9))
    with pytest.raises(RecordError, match="entry 6 was removed: entry 7 is in its place"):
        filled.verify("ocr")


def test_a_control_without_its_entry_is_not_kept(
    filled: Store, hands: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)
    control, failures = filled.control("ocr"), filled.failures
    run(hands, "UPDATE ipa_heads SET number = 3 WHERE pipeline = 'ocr'")  # so that entry 4 is there already
    with pytest.raises(UnavailableError):
        filled.set_control("ocr", PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE, "kim"))
    assert (filled.control("ocr"), filled.failures) == (control, failures + 1)


def test_two_replicas_write_one_chain_in_the_order_of_their_commits(store: Store, reopen: Reopen) -> None:
    seqs: list[int] = []
    done = threading.Event()

    def write(writer: Store, pipeline: str) -> None:
        for tick in range(30):
            writer.record(a_decision(tick, pipeline=pipeline))
            writer.set_control("ocr", PipelineControl(), Attribution(ControlAction.RESUME, pipeline))

    def follow() -> None:
        """Never sees a later entry before an earlier one, as one would with numbers from a sequence."""
        last = True
        while last or not done.is_set():
            last = not done.is_set()
            seqs.extend(entry.seq for entry in store.entries(seqs[-1] if seqs else 0, 7))

    names = ("ocr", "video", "pages")
    writers = [threading.Thread(target=write, args=(reopen(), name)) for name in names]
    follower = threading.Thread(target=follow)
    for thread in (*writers, follower):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    follower.join()
    seqs.extend(entry.seq for entry in store.entries(seqs[-1], 1000))
    assert seqs == list(range(1, 181))
    assert [store.verify(name).entries for name in names] == [120, 30, 30]


def test_loops_that_record_at_once_share_transactions_and_each_chain_is_whole(store: Store) -> None:
    commits: list[object] = []
    event.listen(store._engine, "commit", commits.append)
    names, ticks = [f"p{number}" for number in range(8)], range(1, 21)

    def decide(name: str) -> None:
        for tick in ticks:
            store.record(a_decision(tick, pipeline=name))
            # On disk when it returns: what is written to the cluster next is in the record.
            assert store.decision(f"{name}-{tick}").tick == tick

    with ThreadPoolExecutor(len(names)) as pool:
        for done in [pool.submit(decide, name) for name in names]:
            done.result()
    assert [entry.seq for entry in store.entries(0, 1000)] == list(range(1, len(names) * len(ticks) + 1))
    assert {store.verify(name).entries for name in names} == {len(ticks)}
    assert len(commits) < len(names) * len(ticks)


def test_a_decision_that_cannot_be_recorded_takes_no_other_with_it(store: Store) -> None:
    store.record(a_decision(1))
    other = replace(a_decision(1), detail="another under its id")
    decisions = [a_decision(tick, pipeline="video") for tick in range(1, 6)]
    # One of them twice, as a retry after an unknown outcome.
    decisions[4] = decisions[3]
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(store.record, each) for each in (*decisions, other)]
    assert [type(each.exception()) for each in results] == [*[type(None)] * 5, ConflictError]
    assert (store.verify("ocr").entries, store.verify("video").entries) == (1, 4)
