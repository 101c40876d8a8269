"""`ipa store` and `ipa doctor --store`: copies are verified, and nothing that is in use or full is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.store import Access, copies, open_store
from ipa.adapters.store.copies import back_up, restore
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.access import Grant, Role
from ipa.model.decision import Action, Mode
from ipa.model.errors import ConflictError, InputError, IpaError, RecordError
from ipa.settings import Settings
from tests.contract.store_harness import a_decision
from tests.fakes.commands import Ipa


def nothing(_words: str, _part: float) -> None:
    """A step that nobody watches."""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def settings_of(path: Path) -> Settings:
    return Settings(store_url=url_of(path))


def fill(url: str, decisions: int = 6) -> None:
    store = open_store(url)
    store.set_control(
        "ocr", PipelineControl(Mode.ACTIVE), Attribution(ControlAction.MODE, by="ada", why="release")
    )
    for tick in range(decisions):
        store.record(a_decision(tick, action=Action.APPLY if tick % 2 else Action.HOLD))
    store.record(a_decision(1, pipeline="video"))
    store.keys.create("ada", Grant(Role.OPERATOR), now=datetime(2026, 1, 1, tzinfo=UTC))
    store.given.keep("shop", {"name": "shop"})
    store.close()


def all_of(url: str) -> list[Any]:
    store = open_store(url)
    rows = [
        store.decisions("ocr"),
        store.decisions("video"),
        store.entries(0, 1000),
        store.control("ocr"),
        list(store.keys.all()),
        store.given.all(),
        store.verify("ocr"),
    ]
    store.close()
    return rows


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that `ipa` finds, with some of everything."""
    path = tmp_path / "s.sqlite3"
    fill(url_of(path))
    monkeypatch.setenv("IPA_STORE_URL", url_of(path))
    monkeypatch.chdir(tmp_path)
    return path


def cut_off(path: Path) -> None:
    """Have the record of one pipeline look as if its end had been removed."""
    other = sqlite3.connect(path)
    other.execute("UPDATE ipa_heads SET number = number + 1 WHERE pipeline = 'ocr'")
    other.commit()
    other.close()


def modes(folder: Path) -> set[str]:
    return {f"{stat.S_IMODE(each.stat().st_mode):o}" for each in folder.iterdir() if each.is_file()}


def test_a_backup_comes_back_as_it_was(store: Path, ipa: Ipa) -> None:
    before = all_of(url_of(store))
    made = json.loads(ipa("store", "backup", "copy.sqlite3", "-o", "json").out)
    assert made["contents"]["pipelines"] == 2 and made["contents"]["decisions"] == 7
    assert made["sha256"] == hashlib.sha256(Path("copy.sqlite3").read_bytes()).hexdigest()
    shutil.rmtree(store.parent / "other", ignore_errors=True)
    for each in store.parent.glob("s.sqlite3*"):
        each.unlink()
    out = ipa("store", "restore", "copy.sqlite3").out
    assert "is restored: 2 pipelines, 8 entries and 7 decisions" in out
    assert all_of(url_of(store)) == before
    assert modes(store.parent) == {"600"}
    assert not [*store.parent.glob(".*")]


def test_a_backup_never_overwrites(store: Path, ipa: Ipa) -> None:
    Path("copy.sqlite3").write_text("mine")
    assert "exists already" in ipa("store", "backup", "copy.sqlite3", code=4).err
    assert Path("copy.sqlite3").read_text() == "mine"
    err = ipa("store", "backup", "nowhere/copy.sqlite3", code=1).err
    assert "nowhere/copy.sqlite3 cannot be written" in err


def test_a_service_is_neither_held_up_nor_seen_half(store: Path) -> None:
    """A writer goes on between the steps of a backup, which has the store as it was at its start."""
    serving = open_store(url_of(store), Access.SERVE)
    written = 0

    def step(words: str, _part: float) -> None:
        nonlocal written
        if words.startswith("copying"):
            serving.record(a_decision(10 + written))
            written += 1

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(copies, "BATCH", 2)
        made = back_up(settings_of(store), store.with_name("copy.sqlite3"), step)
    assert written >= 5
    assert made.contents.decisions == 7
    assert serving.verify("ocr").decisions == 6 + written
    serving.close()


def test_a_store_in_use_is_not_replaced_whatever_is_said(store: Path, ipa: Ipa) -> None:
    ipa("store", "backup", "copy.sqlite3")
    serving = open_store(url_of(store), Access.SERVE)
    contents = store.read_bytes()
    assert "in use by an ipa service" in ipa("store", "restore", "copy.sqlite3", code=4).err
    assert store.read_bytes() == contents
    serving.close()


def test_a_store_that_is_not_empty_is_left_alone(store: Path, ipa: Ipa) -> None:
    ipa("store", "backup", "copy.sqlite3")
    before = all_of(url_of(store))
    err = ipa("store", "restore", "copy.sqlite3", code=4).err
    assert "is not empty: ipa_entries" in err and "s.sqlite3-wal" in err
    assert all_of(url_of(store)) == before


def test_a_damaged_store_is_left_alone_and_the_log_of_an_empty_one_goes(store: Path, tmp_path: Path) -> None:
    before = all_of(url_of(store))
    back_up(settings_of(store), tmp_path / "copy.sqlite3", nothing)
    empty = tmp_path / "empty"
    empty.mkdir()
    opened = open_store(url_of(tmp_path / "new.sqlite3"))
    for each in tmp_path.glob("new.sqlite3*"):
        shutil.copy(each, empty / each.name)
    opened.close()
    assert (empty / "new.sqlite3-wal").stat().st_size > 0
    restore(settings_of(empty / "new.sqlite3"), tmp_path / "copy.sqlite3", nothing)
    assert all_of(url_of(empty / "new.sqlite3")) == before
    store.write_bytes(b"not a database at all" * 500)
    with pytest.raises(ConflictError, match="it cannot be read"):
        restore(settings_of(store), tmp_path / "copy.sqlite3", nothing)
    assert store.read_bytes().startswith(b"not a database")


def test_a_backup_that_is_not_what_was_written_is_refused(store: Path, tmp_path: Path) -> None:
    copy, target = tmp_path / "copy.sqlite3", settings_of(tmp_path / "new.sqlite3")
    back_up(settings_of(store), copy, nothing)
    good = copy.read_bytes()
    cut_off(copy)
    with pytest.raises(RecordError, match="record of 'ocr' is damaged"):
        restore(target, copy, nothing)
    copy.write_bytes(good[: len(good) // 2])
    with pytest.raises(IpaError, match=r"cannot be used|damaged"):
        restore(target, copy, nothing)
    copy.write_bytes(good)
    assert restore(target, copy, nothing).contents.decisions == 7
    with pytest.raises(InputError, match="there is no backup"):
        restore(target, tmp_path / "none", nothing)
    assert not [*tmp_path.glob(".*")]


def test_a_damaged_store_has_no_backup(store: Path, ipa: Ipa) -> None:
    cut_off(store)
    assert "the record of 'ocr' is damaged" in ipa("store", "backup", "copy.sqlite3", code=1).err
    assert not [*store.parent.glob("*copy*")]
    assert "fail record: the record of 'ocr' is damaged" in ipa("doctor", "--store", code=1).out


def test_a_newer_backup_is_refused_and_an_older_migrated(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    back_up(settings_of(store), copy, nothing)
    other = sqlite3.connect(copy)
    other.execute("UPDATE ipa_schema_version SET version_num = '9999'")
    other.commit()
    other.close()
    with pytest.raises(IpaError, match="newer than this version"):
        restore(settings_of(tmp_path / "new.sqlite3"), copy, nothing)
    assert not (tmp_path / "new.sqlite3").exists()


def test_an_interrupted_backup_leaves_nothing(store: Path, tmp_path: Path) -> None:
    def interrupted(_words: str, _part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(settings_of(store), tmp_path / "copy.sqlite3", interrupted)
    assert [each.name for each in tmp_path.iterdir() if "copy" in each.name] == []


def test_reading_beside_a_writer_that_never_stops_ends(store: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        writer = open_store(url_of(store))
        tick = 100
        while not stop.is_set():
            writer.record(a_decision(tick))
            tick += 1
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(copies, "BATCH", 1)
            made = back_up(settings_of(store), tmp_path / "copy.sqlite3", nothing)
    finally:
        stop.set()
        thread.join()
    assert made.contents.decisions >= 7


def test_doctor_reads_the_store_whole(store: Path, ipa: Ipa) -> None:
    out = ipa("doctor", "--store").out
    assert "8 entries of 2 pipelines are unchanged" in out and "MB without a fault" in out
    store.chmod(0o644)
    findings = {each["name"]: each for each in json.loads(ipa("doctor", "--store", "-o", "json").out)}
    assert findings["rights of the store"]["remedy"].startswith(f"chmod 600 {store}")
    contents = bytearray(store.read_bytes())
    contents[-4096:] = b"\xff" * 4096
    store.write_bytes(contents)
    out = ipa("doctor", "--store", code=1).out
    assert "damaged" in out and "ipa store restore" in out


def test_doctor_of_a_store_that_is_not_there_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.setenv("IPA_STORE_URL", url_of(tmp_path / "none" / "s.sqlite3"))
    assert "does not exist yet" in ipa("doctor", "--store").out
    for verb in (["key", "list"], ["store", "backup", str(tmp_path / "copy")]):
        assert "there is no store" in ipa(*verb, code=1).err
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def server(postgres_url: str) -> Iterator[str]:
    yield postgres_url


@pytest.mark.xdist_group("postgresql")
def test_a_store_moves_to_postgresql_and_back(store: Path, server: str, tmp_path: Path) -> None:
    before = all_of(url_of(store))
    back_up(settings_of(store), tmp_path / "copy.sqlite3", nothing)
    restore(Settings(store_url=server), tmp_path / "copy.sqlite3", nothing)
    assert all_of(server) == before
    moved = open_store(server)
    moved.record(a_decision(20))
    moved.given.keep("shop", {"name": "shop", "sla": 2})
    moved.close()
    with pytest.raises(ConflictError, match="is not empty"):
        restore(Settings(store_url=server), tmp_path / "copy.sqlite3", nothing)
    made = back_up(Settings(store_url=server), tmp_path / "back.sqlite3", nothing)
    assert made.contents.decisions == 8
    restore(settings_of(tmp_path / "again.sqlite3"), tmp_path / "back.sqlite3", nothing)
    assert all_of(url_of(tmp_path / "again.sqlite3")) == all_of(server)
    assert stat.S_IMODE((tmp_path / "back.sqlite3").stat().st_mode) == 0o600
    assert not [*tmp_path.glob(".*")]


@pytest.mark.xdist_group("postgresql")
def test_doctor_reads_the_record_of_postgresql(
    server: str, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    fill(server)
    monkeypatch.setenv("IPA_STORE_URL", server)
    assert "8 entries of 2 pipelines" in ipa("doctor", "--store").out
    assert "ada" in ipa("key", "list").out
    reader = open_store(server, Access.READ)
    with pytest.raises(IpaError, match="read-only"):
        reader.record(a_decision(99))
    reader.close()
