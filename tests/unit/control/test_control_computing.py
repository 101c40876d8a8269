"""Loops that compute one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ipa.control.loop.time_limit import ComputeLock

# Only ever waited for by a test that fails.
LONG_S = 30.0


def started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_one_computes_at_a_time() -> None:
    computing, inside, most = ComputeLock(LONG_S), 0, 0
    lock = threading.Lock()

    def run() -> None:
        nonlocal inside, most
        for _ in range(50):
            with computing.turn():
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    for thread in [started(run) for _ in range(4)]:
        thread.join(LONG_S)
    assert (inside, most) == (0, 1)


def test_others_compute_while_one_waits_for_something_else() -> None:
    computing, computed = ComputeLock(LONG_S), threading.Event()

    def other() -> None:
        with computing.turn():
            computed.set()

    with computing.turn():
        thread = started(other)
        with computing.away():
            assert computed.wait(LONG_S)
            thread.join(LONG_S)
        # And it is this one's turn again.
        third = started(other)
        third.join(0.01)
        assert third.is_alive()
    third.join(LONG_S)
    assert not third.is_alive()


def test_nobody_waits_for_ever_for_one_that_hangs() -> None:
    computing, hangs, goes_on = ComputeLock(0.01), threading.Event(), threading.Event()

    def hanging() -> None:
        with computing.turn():
            hangs.set()
            goes_on.wait(LONG_S)

    thread = started(hanging)
    assert hangs.wait(LONG_S)
    with computing.turn(), computing.away():
        # Without a turn of its own there is none to give away, nor to take from the other.
        pass
    goes_on.set()
    thread.join(LONG_S)
    with computing.turn():
        assert not thread.is_alive()


def test_it_is_wanted_while_someone_is_at_it_or_waits_for_it() -> None:
    computing, goes_on = ComputeLock(LONG_S), threading.Event()

    def other() -> None:
        with computing.turn():
            goes_on.wait(LONG_S)

    with computing.away():
        assert not computing.is_wanted
    with computing.turn():
        assert computing.is_wanted
        with computing.away():
            assert not computing.is_wanted
        waiting = started(other)
        while len(computing._inside) < 2:
            waiting.join(0.001)
    assert computing.is_wanted
    goes_on.set()
    waiting.join(LONG_S)
    assert not computing.is_wanted
