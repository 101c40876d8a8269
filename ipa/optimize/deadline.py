"""The wall-time limit of a solver; no other module of this package reads a clock."""

from __future__ import annotations

from time import perf_counter


class Deadline:
    """A deadline `limit_s` after its creation."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._start = perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since its creation."""
        return perf_counter() - self._start

    @property
    def remaining_s(self) -> float:
        """Seconds left, 0 if it has passed."""
        return max(0.0, self._limit_s - self.elapsed_s)

    @property
    def passed(self) -> bool:
        """True if the deadline has passed."""
        return self.remaining_s <= 0.0
