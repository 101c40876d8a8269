"""Readiness of the service: the store is asked once in a while, however many ask and how often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from ipa.bootstrap.service import CHECKED_S, StoreCheck
from ipa.model.errors import UnavailableError
from ipa.service.service import DependencyCheck
from tests.fakes.clock import VirtualClock

READY = DependencyCheck("store", True, required=True)


class CountingStore:
    """A store that counts its checks."""

    def __init__(self) -> None:
        self.times = 0
        self.gone = False

    def check(self) -> None:
        self.times += 1
        if self.gone:
            raise UnavailableError("disk full")


def test_what_was_found_counts_for_at_most_five_seconds() -> None:
    clock, store = VirtualClock(), CountingStore()
    check = StoreCheck(store.check, clock)
    assert [check() for _ in range(100)] == [READY] * 100
    store.gone = True
    clock.wait(CHECKED_S - 0.1)
    assert check() == READY and store.times == 1
    clock.wait(0.1)
    assert check() == check() == DependencyCheck("store", False, "disk full", required=True)
    assert store.times == 2 and CHECKED_S <= 5.0
    store.gone = False
    clock.wait(CHECKED_S)
    assert check() == READY


def test_those_who_ask_at_once_have_one_answer() -> None:
    store, begun, go_on = CountingStore(), Event(), Event()

    def slow() -> None:
        store.check()
        begun.set()
        assert go_on.wait(10.0)

    check = StoreCheck(slow, VirtualClock())
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(check) for _ in range(8)]
        assert begun.wait(10.0)
        go_on.set()
        assert [answer.result(10.0) for answer in answers] == [READY] * 8
    assert store.times == 1
