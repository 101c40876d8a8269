"""A clock that stands still until it is moved, also for several threads; ends a loop that runs on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta


class VirtualClock:
    """A clock that stands still until it is moved; waiting moves it. The wall clock can be set apart."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._monotonic_s = 0.0
        self._wall = start

    def monotonic_s(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic_s

    def now(self) -> datetime:
        return self._wall

    def wait(self, seconds: float) -> None:
        """Move both clocks on."""
        self._monotonic_s += max(seconds, 0.0)
        self._wall += timedelta(seconds=max(seconds, 0.0))

    def set_wall(self, wall: datetime) -> None:
        """Step the wall clock alone, as NTP does."""
        self._wall = wall


class SharedClock(VirtualClock):
    """A virtual clock of several threads: it moves, to the next that is due, when all of them wait.

    The thread that made it takes part; `crowd` lets others take part in its stead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._running = 1
        self._due: list[float] = []

    def wait(self, seconds: float) -> None:
        with self._changed:
            due_s = self.monotonic_s() + max(seconds, 0.0)
            self._due.append(due_s)
            self._running -= 1
            self._move()
            # Not for ever: a thread that hangs fails its test.
            assert self._changed.wait_for(lambda: due_s not in self._due, 60.0)

    def crowd(self, threads: Sequence[threading.Thread]) -> None:
        """Run the threads to their end; each is to call `leave` as its last act."""
        with self._changed:
            self._running += len(threads)
        for thread in threads:
            thread.start()
        self.leave()
        for thread in threads:
            thread.join(60.0)
        with self._changed:
            self._running += 1
        assert not any(thread.is_alive() for thread in threads)

    def leave(self) -> None:
        """This thread takes no more part."""
        with self._changed:
            self._running -= 1
            self._move()

    def _move(self) -> None:
        if self._running > 0 or not self._due:
            return
        next_s = min(self._due)
        super().wait(next_s - self.monotonic_s())
        self._running += self._due.count(next_s)
        self._due = [due_s for due_s in self._due if due_s != next_s]
        self._changed.notify_all()
