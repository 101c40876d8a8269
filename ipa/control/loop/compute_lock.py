"""Loops compute one after the other: the interpreter runs one of them anyway, and each switch costs.

Vectors are computed outside of the interpreter's lock, which the next thread then takes: with 32 loops that
all plan, a tick took three times the CPU time of one by itself (`make bench-api`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A thread that waited this long computes beside the others, so that none waits for one that hangs.
PATIENCE_S = 1.0


class ComputeLock:
    """A lock under which one thread at a time computes; after `patience_s` the next one goes on beside it."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._inside = 0
        self._mine = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Compute, once no other thread does or the patience is over."""
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


# Of this process, as the interpreter is.
COMPUTE_LOCK = ComputeLock()
