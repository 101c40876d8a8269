"""The SQLite store: troubles of its file, transactions of many threads, housekeeping, packed rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from experiments.growth.sizes import sizes_of
from ipa.adapters.store import Store, database, open_store
from ipa.adapters.store import rows as packing
from ipa.adapters.store.database import GroupCommit
from ipa.adapters.store.rows import HotRow, fold, pack, restore, shorten, unfold, unpack
from ipa.adapters.store.state import CONTROL, DECISION
from ipa.adapters.store.store import Housekeeping
from ipa.control.audit.record import Recorded, of_decision
from ipa.control.canonical import canonical_json, digest
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.control.store_admin import Retention
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConfigurationError, UnavailableError
from tests.amounts import many
from tests.contract.store_harness import a_decision


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def made(path: Path) -> Path:
    store = open_store(url_of(path))
    store.set_control(
        "ocr", PipelineControl(paused=True, paused_reason="release"), Attribution(ControlAction.MODE)
    )
    store.close()
    return path


def test_a_commit_waits_for_the_disk_and_readers_do_not_wait(tmp_path: Path) -> None:
    engine = database.open_engine(url_of(tmp_path / "s.sqlite3"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000
    engine.dispose()


@pytest.mark.parametrize("contents", [b"not a database at all" * 200, b""], ids=["garbage", "emptied"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "s.sqlite3"
    path.write_bytes(contents)
    with pytest.raises(UnavailableError, match=r"s\.sqlite3"):
        open_store(url_of(path))
    assert path.read_bytes() == contents


def test_a_read_only_store_says_so(tmp_path: Path) -> None:
    path = made(tmp_path / "s.sqlite3")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        open_store(f"sqlite:///file:{path}?mode=ro&uri=true")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqlite://", "memory"),
        ("sqlite:///:memory:", "memory"),
        ("mysql://x/y", "mysql"),
        ("nonsense", "cannot be read"),
        ("sqlite:////proc/nothing/here.sqlite3", "folder"),
    ],
)
def test_a_url_that_cannot_hold_decisions_is_refused(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        open_store(url)


def test_a_database_that_does_not_answer_is_unavailable_and_keeps_its_password() -> None:
    with pytest.raises(UnavailableError) as caught:
        open_store("postgresql://kim:secret@127.0.0.1:9/ipa")
    assert "secret" not in str(caught.value)


def test_a_damaged_row_is_named() -> None:
    with pytest.raises(UnavailableError, match="PipelineControl"):
        CONTROL.value("{")
    with pytest.raises(UnavailableError, match="PipelineControl"):
        CONTROL.value('{"mode": "sideways"}')


WAIT_S = 300.0


class Disk:
    """Keeps groups. The first write waits until `go_on`."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.writes = GroupCommit(self._write)

    def _write(self, items: Sequence[str]) -> None:
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        self.groups.append(sorted(items))

    def crowd(self, pool: ThreadPoolExecutor, items: Sequence[str]) -> list[Future[None]]:
        """One that is being written, and the others when they all wait behind it."""
        first = pool.submit(self.writes.add, "first")
        assert self.begun.wait(WAIT_S)
        others = [pool.submit(self.writes.add, item) for item in items]
        waiting = threading.Event()
        while len(self.writes._waiting) < len(items):
            waiting.wait(0.001)
        self.go_on.set()
        return [first, *others]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def test_only_so_many_are_written_together(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MOST_TOGETHER", 4)
    disk = Disk()
    for each in disk.crowd(pool, [f"{number}" for number in range(10)]):
        each.result(WAIT_S)
    assert sorted(len(group) for group in disk.groups) == [1, 2, 4, 4]
    assert len({item for group in disk.groups for item in group}) == 11


def test_who_comes_while_others_are_about_to_waits_a_moment_for_them(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LINGER_S", WAIT_S)
    disk, about_to = Disk(), True
    disk.go_on.set()
    disk.writes = GroupCommit(disk._write, lambda: about_to)
    first = pool.submit(disk.writes.add, "first")
    others = [pool.submit(disk.writes.add, item) for item in "ab"]
    waiting = threading.Event()
    while len(disk.writes._waiting) < 3:
        waiting.wait(0.001)
    assert disk.groups == []
    about_to = False
    for each in (first, *others):
        each.result(WAIT_S)
    assert disk.groups == [["a", "b", "first"]]


def test_nobody_waits_longer_than_a_moment_for_who_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LINGER_S", 0.0)
    disk = Disk()
    disk.go_on.set()
    disk.writes = GroupCommit(disk._write, lambda: True)
    disk.writes.add("a")
    assert disk.groups == [["a"]]


START = datetime(2026, 11, 24, 10, tzinfo=UTC)
TICKS = 40
LATER = START + timedelta(days=2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/s.sqlite3", retention=Retention())
    event.listen(
        opened._engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF")
    )
    for tick in range(1, TICKS + 1):
        at = (START + timedelta(seconds=10 * tick)).isoformat()
        opened.record(replace(a_decision(tick), at=at))
    yield opened
    opened.close()


def test_a_pass_seals_what_records_no_more(store: Store) -> None:
    report = Housekeeping(store, lambda: LATER, lambda: True).once()
    assert report is not None and report.is_done and report == store.pruned
    assert (report.sealed_entries, sizes_of(store).segments) == (TICKS, 1)
    assert report.record_bytes > 0 and not report.is_bounded
    assert store.verify("ocr", full=True).unchecked == 0
    assert store.troubles() == ()


def test_a_standby_makes_no_pass(store: Store) -> None:
    assert Housekeeping(store, lambda: LATER, lambda: False).once() is None
    assert sizes_of(store).segments == 0


def test_a_key_that_is_gone_is_told_once_and_kept(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = Housekeeping(store, lambda: LATER, lambda: True)
    keeping.once()
    (tmp_path / "s.sqlite3.key").unlink()
    for _ in range(2):
        assert keeping.once() is None
    assert [record.message for record in caplog.records if "there is no key" in record.message] == [
        f"the store is not pruned: {store.troubles()[0]}"
    ]


def test_it_makes_passes_until_it_is_closed(store: Store) -> None:
    sealed = threading.Event()

    def leads() -> bool:
        if sizes_of(store).segments:
            sealed.set()
        return True

    keeping = Housekeeping(store, lambda: LATER, leads, every_s=0.001)
    keeping.start()
    assert sealed.wait(300.0)
    keeping.close()
    assert sizes_of(store).segments == 1


def test_a_bug_ends_no_thread_and_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "prune", lambda *_args, **_options: 1 / 0)
    assert Housekeeping(store, lambda: LATER, lambda: True).once() is None
    assert store.troubles() == ("pruning failed; the log has the cause",)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NUMBERS = st.lists(
    st.none() | st.integers(-9, 9) | st.floats(0, 100, allow_nan=False), min_size=8, max_size=12
)
VALUE = st.recursive(
    SCALAR | NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
DOCUMENT = st.dictionaries(TEXT, VALUE, max_size=4)


@st.composite
def rows(draw: st.DrawFn) -> list[Recorded]:
    """Chained rows: entries alone, decisions with and without inputs, and texts that are not canonical."""
    recorded: list[Recorded] = []
    inputs = [canonical_json(each) for each in draw(st.lists(DOCUMENT, min_size=1, max_size=3))]
    for number in range(1, draw(st.integers(1, 12)) + 1):
        before = recorded[-1].digest if recorded and draw(st.booleans()) else ""
        decision = None
        if draw(st.booleans()):
            text = draw(st.sampled_from(["", "no json", *inputs]))
            mark = digest(text) if text and draw(st.booleans()) else draw(TEXT)
            decision = canonical_json(
                {"inputs": text, "inputs_digest": mark, "tick": number, "plan": draw(VALUE)}
            )
        content = digest(decision) if decision and draw(st.booleans()) else draw(TEXT)
        entry = {"content": content, "number": number, "previous": before, "what": draw(VALUE)}
        text = canonical_json(entry)
        recorded.append(Recorded(draw(st.sampled_from([text, text, text, f" {text}", draw(TEXT)])), decision))
    return recorded


@settings(max_examples=many(20), deadline=None)
@given(rows())
def test_packed_rows_come_back_byte_for_byte(recorded: list[Recorded]) -> None:
    assert unpack(pack(recorded)) == recorded
    before = ["", *(row.digest for row in recorded)]
    assert [
        restore(shorten(row, mark), mark) for row, mark in zip(recorded, before, strict=False)
    ] == recorded


@settings(max_examples=many(20), deadline=None)
@given(rows())
def test_rows_compressed_against_each_other_come_back_byte_for_byte(recorded: list[Recorded]) -> None:
    known: HotRow | None = None
    written = []
    for number, row in enumerate(recorded, 1):
        packed, known = fold(row, number, known)
        written.append((packed, known))
    before: HotRow | None = None
    for number, (packed, wanted) in enumerate(written, 1):
        before = unfold(packed, number, before)
        assert before == wanted


def test_every_group_begins_with_a_row_that_stands_alone() -> None:
    known: HotRow | None = None
    frames = []
    for number in range(1, 2 * packing.GROUP + 2):
        _, known = fold(Recorded(f'{{"number":{number}}}'), number, known)
        frames.append(known.frame)
    assert sorted(set(frames)) == [1, packing.GROUP + 1, 2 * packing.GROUP + 1]


def decided(ticks: int) -> list[Recorded]:
    recorded: list[Recorded] = []
    for tick in range(1, ticks + 1):
        load = [float(17 * at % 23) for at in range(tick, tick + 120)]
        inputs = canonical_json({"load": load, "now_s": 10.0 * tick, "tick": tick})
        action = Action.APPLY if tick % 50 == 0 else Action.HOLD
        decision: Decision = replace(
            a_decision(tick, action=action),
            at=f"2026-11-24T{tick // 360 % 24:02d}:{tick // 6 % 60:02d}:{tick % 6}0+00:00",
            inputs=inputs,
            inputs_digest=digest(inputs),
        )
        text = DECISION.text(decision)
        before = recorded[-1].digest if recorded else ""
        recorded.append(Recorded(of_decision(decision, digest(text)).text(tick, tick, before), text))
    return recorded


def test_what_repeats_takes_no_room() -> None:
    recorded = decided(512)
    plain = sum(len(row.text) + len(row.decision or "") for row in recorded)
    assert plain / len(recorded) > 2000
    # Of each row only its load's newest rate, its time and its tick are new, and they follow a rule.
    assert len(pack(recorded)) / len(recorded) < 60
    known: HotRow | None = None
    sizes = []
    for number, row in enumerate(recorded, 1):
        packed, known = fold(row, number, known)
        sizes.append(len(packed))
    assert sum(sizes) / len(sizes) < 200


@given(st.data())
def test_a_damaged_block_is_a_value_error_or_other_rows(data: st.DataObject) -> None:
    block = bytearray(pack(decided(3)))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(1, len(block)))
    try:
        unpacked = unpack(bytes(block[:cut]))
    except ValueError:
        return
    assert all(isinstance(row, Recorded) for row in unpacked)


def test_garbage_is_no_block() -> None:
    others = [bytes([kind]) + b"garbage" for kind in range(4)]
    for garbage in (b"", b"\x01", b"\x04" + pack(decided(2))[1:], *others):
        with pytest.raises(ValueError, match=r"it cannot be read|its format"):
            unpack(garbage)
