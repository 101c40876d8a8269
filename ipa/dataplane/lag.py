"""The lag of an event loop: the time that a request waits before anything of it is read."""

from __future__ import annotations

import asyncio
from collections import deque

# The loop is asked this often, and the longest of so many last answers counts: what is read after a stop has
# waited through it, what comes later has not.
EVERY_S = 0.01
REMEMBERED = 3


class LoopLag:
    """The lag of the running event loop, from `start` to `stop`."""

    def __init__(self) -> None:
        self._lags_s: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def most_s(self) -> float:
        """The longest lag lately."""
        return max(self._lags_s, default=0.0)

    def start(self) -> None:
        """Measure from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVERY_S, self._due, loop.time() + EVERY_S)

    def _due(self, due_s: float) -> None:
        self._lags_s.append(max(0.0, asyncio.get_running_loop().time() - due_s))
        self.start()

    def stop(self) -> None:
        """Measure no more."""
        if self._timer:
            self._timer.cancel()
