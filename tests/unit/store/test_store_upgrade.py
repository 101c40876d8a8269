"""Stores of an earlier version: one with blocks of the present format goes on, others are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from experiments.growth.sizes import sizes_of
from ipa.adapters.store import keeper, open_store, segments
from ipa.adapters.store.database import current_schema
from ipa.adapters.store.schema import NEWEST
from ipa.control.store_admin import Retention
from ipa.model.errors import ConfigurationError
from tests.contract.store_harness import a_decision, plain_engine

TICKS = 40


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of schema 0009 with sealed and hot rows."""
    monkeypatch.setattr(segments, "ROWS", 16)
    monkeypatch.setattr(keeper, "HOT", 4)
    monkeypatch.setattr(keeper, "BETWEEN_S", 0.0)
    url = f"sqlite:///{tmp_path}/older.sqlite3"
    store = open_store(url)
    for tick in range(1, TICKS + 1):
        store.record(a_decision(tick))
    store.prune(retention=Retention(decisions_s=1e12))
    assert sizes_of(store).segments
    store.close()
    run(url, "UPDATE ipa_schema_version SET version_num = '0009'")
    return url


def run(url: str, *statements: str) -> None:
    engine = plain_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_its_record_goes_on(older: str) -> None:
    store = open_store(older)
    assert current_schema(older) == NEWEST
    store.record(a_decision(TICKS + 1))
    found = store.verify("ocr", full=True)
    assert (found.decisions, found.unchecked) == (TICKS + 1, 0)
    store.close()


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ("UPDATE ipa_schema_version SET version_num = '0008'",),
            "schema 0008; the oldest that can be upgraded is 0009",
        ),
        (
            ("DROP TRIGGER ipa_segments_no_update", "UPDATE ipa_segments SET block = x'0123'"),
            "[1-9] segments in a format of an earlier version",
        ),
    ],
)
def test_one_that_is_too_old_is_refused_and_left_alone(
    older: str, statements: tuple[str, ...], message: str
) -> None:
    run(older, *statements)

    def dump() -> list[str]:
        with closing(sqlite3.connect(older.removeprefix("sqlite:///"))) as connection:
            return [*connection.iterdump()]

    before = dump()
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_store(older)
    assert "the version of ipa that wrote it" in caught.value.hint
    assert dump() == before
