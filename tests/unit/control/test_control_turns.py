"""Many loops on a few threads: who is due has a turn, who is woken has one at once, who has ended none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import pytest

from ipa.control.loop.scheduler import Scheduler, StopSignal
from tests.fakes.clock import VirtualClock
from tests.fakes.world import PIPELINE

WAIT_S = 300.0


class HandClock(VirtualClock):
    """Stands still until the test moves it; who waits waits for the test, or for its event."""

    waker: threading.Event

    def wait(self, seconds: float) -> None:
        assert self.waker.wait(WAIT_S)

    def move(self, seconds: float) -> None:
        super().wait(seconds)
        self.waker.set()


class Loop:
    """Says when it stepped; is due every `every_s`, and steps once `go_on` is set."""

    def __init__(
        self, name: str, clock: HandClock, steps: SimpleQueue[tuple[str, float]], every_s: float
    ) -> None:
        self.name, self.clock, self.steps, self.every_s = name, clock, steps, every_s
        self.pipeline = PIPELINE
        self.go_on = threading.Event()
        self.go_on.set()
        self.wake: Callable[[], None] = lambda: None
        self.fails = False

    def on_wake(self, call: Callable[[], None]) -> None:
        self.wake = call

    def step(self) -> float:
        began_s = self.clock.monotonic_s()
        self.steps.put((self.name, began_s))
        assert self.go_on.wait(WAIT_S)
        if self.fails:
            self.fails = False
            raise RuntimeError("a fault of this program")
        return began_s + self.every_s


class Stage:
    """Turns on a clock of the test's, and loops that say when they step."""

    def __init__(self, workers: int = 2) -> None:
        self.clock, self.stop = HandClock(), StopSignal()
        self.steps: SimpleQueue[tuple[str, float]] = SimpleQueue()

        def clock_of(waker: threading.Event) -> HandClock:
            self.clock.waker = waker
            return self.clock

        self.turns = Scheduler(clock_of, self.stop, workers)

    def loop(self, name: str, every_s: float = 10.0) -> Loop:
        return Loop(name, self.clock, self.steps, every_s)

    def next(self, count: int = 1) -> list[tuple[str, float]]:
        return sorted(self.steps.get(timeout=WAIT_S) for _ in range(count))

    def is_still(self) -> bool:
        """True if nobody steps, once everybody who was due has: one that is added now steps after them."""
        last = self.loop("last")
        self.turns.add(last)
        return self.next() == [("last", self.clock.monotonic_s())]


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.stop.set()
    made.turns.join(WAIT_S)
    assert not any(thread.is_alive() for thread in made.turns._threads)


def test_each_has_its_turn_when_it_is_due(stage: Stage) -> None:
    stage.turns.add(stage.loop("often", 4.0))
    stage.turns.add(stage.loop("seldom", 10.0), after_s=3.0)
    assert stage.next() == [("often", 0.0)]
    for seconds, due in ((3.0, "seldom"), (1.0, "often"), (4.0, "often"), (4.0, "often"), (1.0, "seldom")):
        stage.clock.move(seconds)
        assert stage.next() == [(due, stage.clock.monotonic_s())]
    assert stage.is_still()


def test_a_thousand_loops_have_their_turns_on_a_few_threads() -> None:
    stage = Stage(workers=4)
    loops = [stage.loop(f"{number}") for number in range(1000)]
    for loop in loops:
        loop.go_on.clear()
        stage.turns.add(loop)
    first = stage.next(4)
    with pytest.raises(Empty):
        stage.steps.get_nowait()
    for loop in loops:
        loop.go_on.set()
    assert len({name for name, _ in (*first, *stage.next(996))}) == 1000
    assert len(stage.turns._threads) == 4
    stage.clock.move(10.0)
    assert {at_s for _, at_s in stage.next(1000)} == {10.0}
    stage.stop.set()
    stage.turns.join(WAIT_S)
    assert not any(thread.is_alive() for thread in stage.turns._threads)


def test_who_is_woken_has_a_turn_at_once_and_then_on_time(stage: Stage) -> None:
    one, other = stage.loop("one"), stage.loop("other")
    stage.turns.add(one)
    stage.turns.add(other)
    assert len(stage.next(2)) == 2
    stage.clock.move(6.0)
    one.wake()
    assert stage.next() == [("one", 6.0)]
    stage.clock.move(4.0)
    assert stage.next() == [("other", 10.0)], "the turn that one would have had is taken"
    stage.clock.move(6.0)
    assert stage.next() == [("one", 16.0)]


def test_who_is_woken_in_its_turn_has_another_after_it(stage: Stage) -> None:
    loop = stage.loop("one")
    loop.go_on.clear()
    stage.turns.add(loop)
    assert stage.next() == [("one", 0.0)]
    loop.wake()
    loop.go_on.set()
    assert stage.next() == [("one", 0.0)]
    assert stage.is_still()


def test_who_has_ended_has_no_more_turns(stage: Stage) -> None:
    loop = stage.loop("one")
    loop.go_on.clear()
    turn = stage.turns.add(loop)
    assert stage.next() == [("one", 0.0)]
    assert not stage.turns.end(turn, 0.0), "it has one"
    loop.go_on.set()
    assert stage.turns.end(turn, WAIT_S)
    loop.wake()
    stage.clock.move(20.0)
    assert stage.is_still()


def test_one_that_fails_has_its_turns_nevertheless(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    loop = stage.loop("one")
    loop.fails = True
    with caplog.at_level(logging.ERROR, "ipa.control"):
        stage.turns.add(loop)
        assert stage.next() == [("one", 0.0)]
        assert stage.is_still()
        stage.clock.move(10.0)
        assert ("one", 10.0) in stage.next(2)
    assert "the loop of pages failed" in caplog.text and "a fault of this program" in caplog.text


def test_who_is_due_when_the_service_stops_is_not_begun() -> None:
    stage = Stage(workers=1)
    first, second = stage.loop("first"), stage.loop("second")
    first.go_on.clear()
    stage.turns.add(first)
    assert stage.next() == [("first", 0.0)]
    stage.turns.add(second)
    stage.stop.set()
    first.go_on.set()
    stage.turns.join(WAIT_S)
    assert not any(thread.is_alive() for thread in stage.turns._threads)
    assert stage.steps.empty()
