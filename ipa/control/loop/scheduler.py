"""The system clock, the stop signal, and many loops on a few threads, each run when due or woken."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ipa.control.ports import Clock

if TYPE_CHECKING:
    from ipa.control.loop.control_loop import ControlLoop


class StopSignal(threading.Event):
    """The event that the service stops, with linked events for threads that also wait for something else."""

    def __init__(self) -> None:
        super().__init__()
        self._linked: list[threading.Event] = []

    def linked(self) -> threading.Event:
        """A new event that is also set when the service stops. Call it before the service stops."""
        event = threading.Event()
        self._linked.append(event)
        return event

    def set(self) -> None:
        """Set this event, then every linked one."""
        super().set()
        for event in self._linked:
            event.set()


class SystemClock:
    """The machine's clocks. `wait` ends early once `stop`, or a signal linked to it, is set."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()

    def monotonic_s(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> None:
        """Return after this many seconds, or when the service stops."""
        self._stop.wait(max(seconds, 0.0))


log = logging.getLogger("ipa.control")

# A tick mostly waits for metrics, the cluster or the disk. This many may wait at once; with no more
# loops than that, none waits for another.
WORKERS = 32
# The wait if no loop is due; a wake or a stop ends it.
LONG_S = 3600.0
# A loop that raised, which none should, runs again after this.
AGAIN_S = 1.0


@dataclass(eq=False)
class ScheduledLoop:
    """A loop and when it is due: `at_s`, None while it runs or waits for a thread."""

    loop: ControlLoop
    at_s: float | None = None
    is_stepping: bool = False
    is_woken: bool = False
    is_ended: bool = False


class Scheduler:
    """A scheduler of loops. Thread-safe; `clock_of` returns a clock whose waits end with an event."""

    def __init__(
        self, clock_of: Callable[[threading.Event], Clock], stop: StopSignal, workers: int = WORKERS
    ) -> None:
        self.workers = workers
        self._stop, self._waker = stop, stop.linked()
        self._clock = clock_of(self._waker)
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, ScheduledLoop]] = []
        self._pushed = 0
        self._ready: SimpleQueue[ScheduledLoop | None] = SimpleQueue()
        self._caller: threading.Thread | None = None
        self._threads: list[threading.Thread] = []

    def add(self, loop: ControlLoop, after_s: float = 0.0) -> ScheduledLoop:
        """Schedule the loop, first after `after_s` seconds."""
        turn = ScheduledLoop(loop)
        loop.on_wake(lambda: self._wake(turn))
        with self._changed:
            self._push(turn, self._clock.monotonic_s() + after_s)
            if self._caller is None:
                self._caller = _started(self._call, "turns")
            if len(self._threads) < self.workers:
                self._threads.append(_started(self._work, f"turns-{len(self._threads)}"))
        return turn

    def end(self, turn: ScheduledLoop, within_s: float) -> bool:
        """Stop scheduling the loop. Waits at most `within_s` for it to finish; True if it has."""
        with self._changed:
            turn.is_ended = True
            return self._changed.wait_for(lambda: not turn.is_stepping, within_s)

    def join(self, within_s: float) -> None:
        """Wait at most `within_s` for running loops. The caller sets the stop signal first."""
        until_s = time.monotonic() + within_s
        for thread in (self._caller, *self._threads):
            if thread is not None:
                thread.join(max(until_s - time.monotonic(), 0.0))

    def _wake(self, turn: ScheduledLoop) -> None:
        with self._changed:
            if turn.at_s is None:
                turn.is_woken = True
            else:
                self._push(turn, self._clock.monotonic_s())

    def _push(self, turn: ScheduledLoop, at_s: float) -> None:
        """Schedule the loop at that time, in place of any other time."""
        turn.at_s, turn.is_woken = at_s, False
        self._pushed += 1
        heapq.heappush(self._queue, (at_s, self._pushed, turn))
        self._waker.set()

    def _call(self) -> None:
        """Pass due loops to the threads until the service stops."""
        while True:
            self._waker.clear()
            if self._stop.is_set():
                break
            self._clock.wait(self._call_due())
        for _ in self._threads:
            self._ready.put(None)

    def _call_due(self) -> float:
        """Pass all due loops to the threads; return the seconds until the next one is due."""
        with self._changed:
            now_s = self._clock.monotonic_s()
            while self._queue:
                at_s, _, turn = self._queue[0]
                if at_s > now_s and turn.at_s == at_s:
                    return at_s - now_s
                heapq.heappop(self._queue)
                # An entry with another time is outdated.
                if turn.at_s == at_s:
                    turn.at_s = None
                    self._ready.put(turn)
        return LONG_S

    def _work(self) -> None:
        while (turn := self._ready.get()) is not None:
            with self._changed:
                turn.is_stepping = not (turn.is_ended or self._stop.is_set())
            if not turn.is_stepping:
                continue
            next_s = self._clock.monotonic_s() + AGAIN_S
            try:
                next_s = turn.loop.step()
            except Exception:
                log.exception("the loop of %s failed; it goes on in %g s", turn.loop.pipeline.name, AGAIN_S)
            with self._changed:
                turn.is_stepping = False
                self._push(turn, self._clock.monotonic_s() if turn.is_woken else next_s)
                self._changed.notify_all()


def _started(run: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
