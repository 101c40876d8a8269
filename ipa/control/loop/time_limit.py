"""Threads of computations: one at a time, and time limits for code that may not end."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from ipa.model.errors import PluginError

# A thread that waited this long computes without the lock, so that none waits for one that hangs.
PATIENCE_S = 1.0


class ComputeLock:
    """A lock for one computing thread at a time; after `patience_s` the next thread computes beside it."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        # An entry for each thread that computes or waits to.
        self._inside: deque[None] = deque()
        self._mine = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock in the block; proceed without it once the patience is over."""
        self._take()
        try:
            yield
        finally:
            self._leave()
            self._inside.pop()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Release the lock while waiting for something else, if this thread holds it."""
        had = self._leave()
        if had:
            self._inside.pop()
        try:
            yield
        finally:
            if had:
                self._take()

    @property
    def is_wanted(self) -> bool:
        """True if a thread computes or waits to compute."""
        return bool(self._inside)

    def _take(self) -> None:
        self._inside.append(None)
        self._mine.has = self._lock.acquire(timeout=self._patience_s)

    def _leave(self) -> bool:
        """Release the lock; True if this thread held it."""
        had: bool = getattr(self._mine, "has", False)
        self._mine.has = False
        if had:
            self._lock.release()
        return had


# One per process, like the interpreter.
COMPUTE_LOCK = ComputeLock()


T = TypeVar("T")

log = logging.getLogger("ipa.limits")
# This many late calls may go on; with more the function is not called.
MOST_LATE = 4
# Waits for the event at most that many seconds; returns whether it came.
Wait = Callable[[threading.Event, float], bool]


class TimeLimit:
    """Calls functions, each for at most `limit_s` (a `Runner`). Thread-safe.

    Each call has a thread of its own, since a thread cannot be ended from outside: a late call goes on, and
    its answer is dropped. Code that never releases the interpreter's lock has no limit. `who` names the code
    in messages. Errors of a function are raised, and logged with their traceback at level DEBUG.
    """

    def __init__(self, who: str, limit_s: float, wait: Wait = threading.Event.wait) -> None:
        self._who, self._limit_s, self._wait = who, limit_s, wait
        self._late: set[Future[Any]] = set()

    @property
    def late(self) -> int:
        """The number of calls that go on though nobody waits for them."""
        return len(self._late)

    def __call__(self, function: Callable[[], T]) -> T:
        """The function's value, while other loops compute; PluginError if it is late."""

        def late(why: str) -> T:
            raise PluginError(f"{self._who} was abandoned: {why}")

        with COMPUTE_LOCK.away():
            return self.call(function, late)

    def call(self, function: Callable[[], T], late: Callable[[str], T]) -> T:
        """The function's value; if it is late, the value of `late(reason)`."""
        if self.late >= MOST_LATE:
            return late(f"not asked: {MOST_LATE} earlier answers are still missing")
        answer: Future[T] = Future()
        done = threading.Event()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                # The caller raises it.
                answer.set_exception(error)
                log.debug("%s raised", self._who, exc_info=True)
            self._late.discard(answer)
            done.set()

        threading.Thread(target=run, name="time-limited", daemon=True).start()
        if not self._wait(done, self._limit_s):
            self._late.add(answer)
            if not answer.done():
                log.warning("no answer within %g s", self._limit_s)
                return late(f"no answer within {self._limit_s:g} s")
            # It ended just now.
            self._late.discard(answer)
        return answer.result()
