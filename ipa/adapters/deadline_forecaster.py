"""A forecaster with a deadline: if a forecast takes longer than a tick can wait, the last rung answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from ipa.control.engine.state import PeakForecaster
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory

log = logging.getLogger("ipa.forecast")
# This many late computations may run; with more the forecaster is not asked at all.
MOST_LATE = 4
# Waits for the event, at most this many seconds; True if it was set.
Wait = Callable[[threading.Event, float], bool]


class DeadlineForecaster:
    """A forecaster that answers within `limit_s`: by `forecaster`, or by `last` with the cause. Thread-safe.

    It computes in threads of its own. A late computation cannot be interrupted: it runs on, and its answer is
    dropped. The deadline does not hold for a library that never releases the interpreter lock.
    """

    def __init__(
        self,
        forecaster: PeakForecaster,
        last: Callable[[LoadHistory, str], Forecast],
        limit_s: float,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._forecaster, self._last, self._limit_s, self._wait = forecaster, last, limit_s, wait
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._late = 0

    @property
    def late(self) -> int:
        """The number of late computations that still run."""
        return self._late

    def __call__(self, load: LoadHistory) -> Forecast:
        """Return the expected peak. Errors: those of the forecaster."""
        worker = self._free()
        if worker is None:
            return self._last(load, f"not asked: {MOST_LATE} answers are late already")
        asked = worker.ask(load)
        if not self._wait(asked.done, self._limit_s) and self._gave_up(asked):
            log.warning("no forecast within %g s", self._limit_s)
            return self._last(load, f"no answer within {self._limit_s:g} s")
        return asked.result()

    def _free(self) -> _Worker | None:
        """An idle worker; None if too many are late."""
        with self._lock:
            if self._late >= MOST_LATE:
                return None
            return self._idle.pop() if self._idle else _Worker(self._forecaster, self._ended)

    def _gave_up(self, asked: _Question) -> bool:
        """Mark the question as late, unless its answer has just come; return True if it is late."""
        with self._lock:
            asked.is_late = not asked.done.is_set()
            self._late += asked.is_late
            return asked.is_late

    def _ended(self, worker: _Worker, asked: _Question) -> None:
        with self._lock:
            asked.done.set()
            self._late -= asked.is_late
            self._idle.append(worker)


class _Question:
    """A question, and its answer or error."""

    def __init__(self, load: LoadHistory) -> None:
        self.load = load
        self.done = threading.Event()
        self.is_late = False
        self.answer: Forecast | None = None
        self.error: BaseException | None = None

    def result(self) -> Forecast:
        """Return the answer once it is done; its error is raised."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class _Worker:
    """A thread that computes one forecast at a time, for the life of the process."""

    def __init__(self, forecaster: PeakForecaster, ended: Callable[[_Worker, _Question], None]) -> None:
        self._forecaster, self._ended = forecaster, ended
        self._questions: SimpleQueue[_Question] = SimpleQueue()
        threading.Thread(target=self._run, name="forecasting", daemon=True).start()

    def ask(self, load: LoadHistory) -> _Question:
        """Queue a forecast of the load."""
        asked = _Question(load)
        self._questions.put(asked)
        return asked

    def _run(self) -> None:
        while True:
            asked = self._questions.get()
            try:
                asked.answer = self._forecaster(asked.load)
            except BaseException as error:
                # Raised in the thread that asked.
                asked.error = error
            self._ended(self, asked)
