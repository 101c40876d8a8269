"""The threads of computations: one at a time, and code that may not end within a time limit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ipa.model.errors import IpaError, PluginError

# A thread that waited this long computes without the lock, so that none waits for one that hangs.
PATIENCE_S = 1.0


class ComputeLock:
    """A lock for one computing thread at a time; after `patience_s` the next thread computes beside it."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._inside = 0
        self._mine = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock in the block; proceed without it once the patience is over."""
        self._take()
        try:
            yield
        finally:
            self._leave()
            self._count(-1)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Release the lock while waiting for something else, if this thread holds it."""
        had = self._leave()
        if had:
            self._count(-1)
        try:
            yield
        finally:
            if had:
                self._take()

    @property
    def is_wanted(self) -> bool:
        """True if a thread computes or waits to."""
        return self._inside > 0

    def _take(self) -> None:
        self._count(1)
        self._mine.has = self._lock.acquire(timeout=self._patience_s)

    def _leave(self) -> bool:
        """Release the lock. True if this thread held it."""
        had: bool = getattr(self._mine, "has", False)
        self._mine.has = False
        if had:
            self._lock.release()
        return had

    def _count(self, more: int) -> None:
        with self._counting:
            self._inside += more


# One per process, like the interpreter.
COMPUTE_LOCK = ComputeLock()


Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

log = logging.getLogger("ipa.limits")
# This many late calls may go on; with more the function is not called at all.
MOST_LATE = 4
# Waits for the event at most that many seconds; returns whether it came.
Wait = Callable[[threading.Event, float], bool]


class TimeLimited(Generic[Q, A]):
    """The function's answer within `limit_s`, else that of `late`, which is given the reason. Thread-safe.

    Each call has a thread of its own, since nothing ends a computation from outside: one that is late goes
    on, and its answer is dropped. Code that never releases the interpreter's lock cannot be limited so.
    """

    def __init__(
        self,
        function: Callable[[Q], A],
        late: Callable[[Q, str], A],
        limit_s: float,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._function, self._late_answer, self._limit_s, self._wait = function, late, limit_s, wait
        self._lock = threading.Lock()
        self.late = 0  # calls that go on though nobody waits for them

    def __call__(self, question: Q) -> A:
        """The answer. Errors: those of the function."""
        if self.late >= MOST_LATE:
            return self._late_answer(question, f"not asked: {MOST_LATE} earlier answers are still missing")
        answer: Future[A] = Future()
        done, given_up = threading.Event(), threading.Event()

        def run() -> None:
            try:
                answer.set_result(self._function(question))
            except BaseException as error:
                # The caller raises it.
                answer.set_exception(error)
            with self._lock:
                done.set()
                self.late -= given_up.is_set()

        threading.Thread(target=run, name="time-limited", daemon=True).start()
        if not self._wait(done, self._limit_s):
            with self._lock:
                # It may have ended just now.
                if not done.is_set():
                    given_up.set()
                    self.late += 1
        if given_up.is_set():
            log.warning("no answer within %g s", self._limit_s)
            return self._late_answer(question, f"no answer within {self._limit_s:g} s")
        return answer.result()


class PluginRunner:
    """Calls a plug-in's functions within `limit_s`, while other loops compute (a `Runner`).

    PluginError if one gives no answer in time; `who` names the plug-in. Other errors are the function's, and
    are logged with their traceback at level DEBUG.
    """

    def __init__(self, who: str, limit_s: float, wait: Wait = threading.Event.wait) -> None:
        def late(_: Callable[[], Any], why: str) -> Any:
            raise PluginError(f"{who} was abandoned: {why}")

        self._who = who
        self._calls: TimeLimited[Callable[[], Any], Any] = TimeLimited(
            lambda function: function(), late, limit_s, wait
        )

    def __call__(self, function: Callable[[], T]) -> T:
        """The function's value."""
        try:
            with COMPUTE_LOCK.away():
                value: T = self._calls(function)
        except IpaError:
            raise
        except Exception:
            log.debug("%s raised", self._who, exc_info=True)
            raise
        return value
