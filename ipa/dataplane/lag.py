"""The lag of an event loop: the time that a request waits before anything of it is read."""

from __future__ import annotations

import asyncio
from collections import deque

# The loop is asked this often, and the longest of so many last answers counts: what is read after a stop has
# waited through it, what comes later has not. Each answer costs a loop that does little 0.05 ms of CPU time.
EVERY_S = 0.02
REMEMBERED = 3


class LoopLag:
    """The lag of the running event loop, measured while it is asked for, until `stop`."""

    def __init__(self) -> None:
        self._lags_s: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None
        self._is_asked = False

    def measure(self) -> float:
        """Return the longest lag lately, and go on to measure it."""
        self._is_asked = True
        if self._timer is None:
            self._set_timer()
        return max(self._lags_s, default=0.0)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVERY_S, self._due, loop.time() + EVERY_S)

    def _due(self, due_s: float) -> None:
        self._lags_s.append(max(0.0, asyncio.get_running_loop().time() - due_s))
        if self._is_asked:
            self._is_asked = False
            self._set_timer()
        else:
            self.stop()

    def stop(self) -> None:
        """Measure no more, and forget what was measured."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._lags_s.clear()
