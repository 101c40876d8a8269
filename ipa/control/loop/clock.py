"""The system clock, and what tells that the service stops."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class StopFlag(Protocol):
    """A flag that is set when the service stops, such as a threading.Event."""

    def is_set(self) -> bool:
        """True if the service stops."""


class StopSignal(threading.Event):
    """The event that the service stops, with linked events for threads that also wait for something else."""

    def __init__(self) -> None:
        super().__init__()
        self._linked: list[threading.Event] = []

    def linked(self) -> threading.Event:
        """A new event that is also set when the service stops. Call it before that."""
        event = threading.Event()
        self._linked.append(event)
        return event

    def set(self) -> None:
        """Set this event, then every linked one."""
        super().set()
        for event in self._linked:
            event.set()


class SystemClock:
    """The machine's clocks. `wait` ends early once `stop`, or a signal linked to it, is set."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()

    def monotonic_s(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> None:
        """Return after this many seconds, or when the service stops."""
        self._stop.wait(max(seconds, 0.0))
