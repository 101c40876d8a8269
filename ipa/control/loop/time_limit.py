"""Calls within a time limit, of code that cannot be trusted to end: forecasters and plug-ins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ipa.control.loop.compute_lock import COMPUTE_LOCK
from ipa.model.errors import IpaError, PluginError

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

    The function runs on threads of its own, since nothing ends a computation from outside: one that is late
    goes on, and its answer is dropped. Code that never releases the interpreter's lock cannot be limited so.
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
        self._idle: list[_Worker[Q, A]] = []
        self.late = 0  # calls that go on though nobody waits for them

    def __call__(self, question: Q) -> A:
        """The answer. Errors: those of the function."""
        worker = self._free()
        if worker is None:
            return self._late_answer(question, f"not asked: {MOST_LATE} earlier answers are still missing")
        asked = worker.ask(question)
        if not self._wait(asked.done, self._limit_s) and self._gave_up(asked):
            log.warning("no answer within %g s", self._limit_s)
            return self._late_answer(question, f"no answer within {self._limit_s:g} s")
        return asked.result()

    def _free(self) -> _Worker[Q, A] | None:
        """A worker that may be asked; None if too many are late."""
        with self._lock:
            if self.late >= MOST_LATE:
                return None
            return self._idle.pop() if self._idle else _Worker(self._function, self._ended)

    def _gave_up(self, asked: _Question[Q, A]) -> bool:
        """True unless it was answered just now."""
        with self._lock:
            asked.is_late = not asked.done.is_set()
            self.late += asked.is_late
            return asked.is_late

    def _ended(self, worker: _Worker[Q, A], asked: _Question[Q, A]) -> None:
        with self._lock:
            asked.done.set()
            self.late -= asked.is_late
            self._idle.append(worker)


class _Question(Generic[Q, A]):
    """A question and what comes of it."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.done = threading.Event()
        self.is_late = False
        self.answers: list[A] = []
        self.error: BaseException | None = None

    def result(self) -> A:
        """The answer, once it is done; its error is raised."""
        if self.error is not None:
            raise self.error
        return self.answers[0]


class _Worker(Generic[Q, A]):
    """A thread that answers one question after the other, as long as the process lives."""

    def __init__(
        self, function: Callable[[Q], A], ended: Callable[[_Worker[Q, A], _Question[Q, A]], None]
    ) -> None:
        self._function, self._ended = function, ended
        self._questions: SimpleQueue[_Question[Q, A]] = SimpleQueue()
        threading.Thread(target=self._run, name="time-limited", daemon=True).start()

    def ask(self, question: Q) -> _Question[Q, A]:
        """Have it answer the question."""
        asked: _Question[Q, A] = _Question(question)
        self._questions.put(asked)
        return asked

    def _run(self) -> None:
        while True:
            asked = self._questions.get()
            try:
                asked.answers.append(self._function(asked.question))
            except BaseException as error:
                # The caller raises it.
                asked.error = error
            self._ended(self, asked)


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
                found: T = self._calls(function)
        except IpaError:
            raise
        except Exception:
            log.debug("%s raised", self._who, exc_info=True)
            raise
        return found
