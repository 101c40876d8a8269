"""A loop that is woken ticks at once; a service that stops wakes everyone."""

from __future__ import annotations

import threading

import pytest

from ipa.control.loop.scheduler import StopSignal, SystemClock
from tests.fakes.world import Scenario, scenario


def test_a_woken_loop_ticks_at_once_and_counts_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scenario(5.0)
    waits, began = wake_after(made, monkeypatch, {2: 1.5})
    made.run(22.0)
    assert began == [0.0, 5.0, 6.5, 11.5, 16.5, 21.5]
    assert waits == [5.0] * 6
    assert made.loop.snapshot().skipped_ticks == 0


def test_a_loop_woken_during_a_tick_ticks_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scenario(5.0)
    _, began = wake_after(made, monkeypatch, {1: 0.0})
    made.run(12.0)
    assert began == [0.0, 0.0, 5.0, 10.0]


def wake_after(
    made: Scenario, monkeypatch: pytest.MonkeyPatch, early: dict[int, float]
) -> tuple[list[float], list[float]]:
    """Waits asked for and times of ticks; the n-th wait is ended by a wake after `early[n]` seconds."""
    waits: list[float] = []
    began: list[float] = []
    pass_s = made.clock.wait

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) in early:
            made.loop.wake()
            seconds = early[len(waits)]
        pass_s(seconds)

    monkeypatch.setattr(made.clock, "wait", wait)
    made.loop._hooks = (lambda decision, snapshot: began.append(made.clock.monotonic_s()),)
    return waits, began


def test_a_service_that_stops_ends_every_wait() -> None:
    stop = StopSignal()
    events = [stop, stop.linked(), stop.linked()]
    # Each would wait for a day.
    waiting = [threading.Thread(target=SystemClock(event).wait, args=(86_400.0,)) for event in events]
    for thread in waiting:
        thread.start()
    stop.set()
    for thread in waiting:
        thread.join(30.0)
    assert not any(thread.is_alive() for thread in waiting)
    assert all(event.is_set() for event in events)


def test_waking_one_loop_wakes_no_other() -> None:
    stop = StopSignal()
    one, other = stop.linked(), stop.linked()
    one.set()
    assert not other.is_set()
    assert not stop.is_set()
