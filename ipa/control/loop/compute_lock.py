"""A lock under which loops compute one at a time: the interpreter runs only one of them anyway.

Vectors are computed outside of the interpreter's lock, which the next thread then takes: with 32 loops that
all plan, a tick took three times the CPU time of one by itself (`make bench-api`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
