"""How often something happened in each second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Seconds:
    """A count a second, from 0 on."""

    def __init__(self) -> None:
        self._counts = np.zeros(64, dtype=np.int64)
        self._length = 0

    def add(self, times_s: NDArray[np.float64]) -> None:
        """Once at each of these moments, in any order; all finite and zero or more."""
        if not len(times_s):
            return
        seconds = times_s.astype(np.int64)
        first, last = int(seconds.min()), int(seconds.max())
        if last >= len(self._counts):
            grown = np.zeros(max(2 * len(self._counts), last + 1), dtype=np.int64)
            grown[: self._length] = self._counts[: self._length]
            self._counts = grown
        self._length = max(self._length, last + 1)
        self._counts[first : last + 1] += np.bincount(seconds - first)

    def counts(self, length: int | None = None) -> NDArray[np.int64]:
        """The counts up to the last second in which it happened; with `length`, so many, with zeros after."""
        if length is None:
            return self._counts[: self._length].copy()
        counts = np.zeros(length, dtype=np.int64)
        shared = min(length, self._length)
        counts[:shared] = self._counts[:shared]
        return counts
