"""Troubles of a store's file or URL, and that nothing is ever started afresh silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipa.adapters.store import database, open_store
from ipa.adapters.store.state import CONTROL
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.errors import ConfigurationError, UnavailableError


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
