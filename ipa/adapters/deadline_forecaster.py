"""A forecast in time: what takes longer than a tick can wait is answered by the last rung meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from ipa.control.engine.state import PeakForecaster
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory

log = logging.getLogger("ipa.forecast")
# So many that are late may go on; with more the forecaster is not asked at all.
MOST_LATE = 4
# Waits for the event so many seconds at most; whether it came.
Wait = Callable[[threading.Event, float], bool]


class InTime:
    """What `forecaster` answers within `limit_s`, else what `last` does, which says why. Thread-safe.

    It works on threads of its own, since nothing ends a computation from outside: one that is late goes on,
    and its answer is dropped. A library that never lets the interpreter go cannot be helped so.
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
        """How many go on though nobody waits for them."""
        return self._late

    def __call__(self, load: LoadHistory) -> Forecast:
        """The peak expected. Errors are the forecaster's."""
        worker = self._free()
        if worker is None:
            return self._last(load, f"not asked: {MOST_LATE} answers are late already")
        asked = worker.ask(load)
        if not self._wait(asked.done, self._limit_s) and self._gave_up(asked):
            log.warning("no forecast within %g s", self._limit_s)
            return self._last(load, f"no answer within {self._limit_s:g} s")
        return asked.result()

    def _free(self) -> _Worker | None:
        """One that may be asked; None where too many are late."""
        with self._lock:
            if self._late >= MOST_LATE:
                return None
            return self._idle.pop() if self._idle else _Worker(self._forecaster, self._ended)

    def _gave_up(self, asked: _Asked) -> bool:
        """Whether nobody waits for it any more: it may just have been answered."""
        with self._lock:
            asked.is_late = not asked.done.is_set()
            self._late += asked.is_late
            return asked.is_late

    def _ended(self, worker: _Worker, asked: _Asked) -> None:
        with self._lock:
            asked.done.set()
            self._late -= asked.is_late
            self._idle.append(worker)


class _Asked:
    """One question and what comes of it."""

    def __init__(self, load: LoadHistory) -> None:
        self.load = load
        self.done = threading.Event()
        self.is_late = False
        self.answer: Forecast | None = None
        self.error: BaseException | None = None

    def result(self) -> Forecast:
        """The answer, once it is done; its error is raised."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class _Worker:
    """A thread that forecasts, one after the other, as long as the process lives."""

    def __init__(self, forecaster: PeakForecaster, ended: Callable[[_Worker, _Asked], None]) -> None:
        self._forecaster, self._ended = forecaster, ended
        self._questions: SimpleQueue[_Asked] = SimpleQueue()
        threading.Thread(target=self._run, name="forecasting", daemon=True).start()

    def ask(self, load: LoadHistory) -> _Asked:
        """Have it forecast that load."""
        asked = _Asked(load)
        self._questions.put(asked)
        return asked

    def _run(self) -> None:
        while True:
            asked = self._questions.get()
            try:
                asked.answer = self._forecaster(asked.load)
            except BaseException as error:
                # Whoever asked is to have it.
                asked.error = error
            self._ended(self, asked)
