"""How far an experiment is, and when it will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Without a terminal a line this often is enough.
EVERY_S = 15.0


class Progress:
    """Says how many runs are done, and the time that is left at the pace so far."""

    def __init__(
        self,
        name: str,
        runs: int,
        weight: float,
        *,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`runs` are to be made, of `weight` together."""
        self._name, self._runs, self._weight, self._now = name, runs, weight, now
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._start = self._said = now()
        self._done, self._done_weight = 0, 0.0

    def step(self, title: str, weight: float, running: float = 0.0) -> None:
        """One more run is done, and runs of weight `running` are under way: half done on the mean."""
        self._done += 1
        self._done_weight += weight
        now = self._now()
        last = self._done == self._runs
        if not self._live and not last and now - self._said < EVERY_S:
            return
        self._said = now
        text = f"{self._name}: {self._done}/{self._runs} runs, {self._left(now, running)} [{title}]"
        if self._live:
            self._stream.write(f"\r\x1b[K{text[:118]}" + ("\n" if last else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _left(self, now: float, running: float) -> str:
        spent_s = now - self._start
        if self._done == self._runs:
            return f"took {words_of(spent_s)}"
        done = self._done_weight + running / 2
        left_s = spent_s / done * (self._weight - done)
        return f"about {words_of(left_s)} left"


def words_of(seconds: float) -> str:
    """A duration as people say it: "40 s", "2 min 05 s", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
