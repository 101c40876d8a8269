"""The wall time a solver may take. The only clock of this package."""

from __future__ import annotations

from time import perf_counter


class Deadline:
    """Counts from its making to `limit_s` later."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._start = perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return perf_counter() - self._start

    @property
    def remaining_s(self) -> float:
        """Seconds left, 0 where it has passed."""
        return max(0.0, self._limit_s - self.elapsed_s)

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.remaining_s <= 0.0
