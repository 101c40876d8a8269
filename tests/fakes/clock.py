"""Ends a loop that runs on the virtual clock; a virtual clock for several threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ipa.control.clock import VirtualClock


@dataclass
class StopAt:
    """Set once the virtual clock has reached a time."""

    clock: VirtualClock
    at_s: float

    def is_set(self) -> bool:
        return self.clock.monotonic_s() >= self.at_s


class SharedClock(VirtualClock):
    """A virtual clock of several threads: who waits moves it to the end of that wait, not on by as much."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()

    def monotonic_s(self) -> float:
        with self._lock:
            return super().monotonic_s()

    def wait(self, seconds: float) -> None:
        until_s = self.monotonic_s() + max(seconds, 0.0)
        with self._lock:
            super().wait(until_s - self.monotonic_s())
