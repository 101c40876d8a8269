"""Housekeeping: passes are made beside the loops, and their failures are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from experiments.growth.sizes import sizes_of
from ipa.adapters.store import Store, open_store
from ipa.adapters.store.store import Housekeeping
from ipa.control.store_admin import Retention
from tests.contract.store_harness import a_decision

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
