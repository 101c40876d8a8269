"""Writes of many threads in one transaction: each returns once its own is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ipa.adapters.store import database
from ipa.adapters.store.database import GroupCommit

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
