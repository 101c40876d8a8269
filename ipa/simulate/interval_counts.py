"""Counts of events in each second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class CountsPerSecond:
    """A count a second, from 0 on."""

    def __init__(self) -> None:
        self._counts = np.zeros(64, dtype=np.int64)
        self._length = 0

    def add(self, times_s: NDArray[np.float64], totals: NDArray[np.int64] | None = None) -> None:
        """Count each of these moments: rising, finite, zero or more.

        With `totals`, moments count several times: `totals[k]` for moments 0 to k together.
        """
        if not len(times_s):
            return
        first, last = int(times_s[0]), int(times_s[-1])
        if last >= len(self._counts):
            grown = np.zeros(max(2 * len(self._counts), last + 1), dtype=np.int64)
            grown[: self._length] = self._counts[: self._length]
            self._counts = grown
        self._length = max(self._length, last + 1)
        places = np.searchsorted(times_s, np.arange(first, last + 2))
        if totals is not None:
            places = np.concatenate([[0], totals])[places]
        self._counts[first : last + 1] += np.diff(places)

    def counts(self) -> NDArray[np.int64]:
        """The counts up to the last second with an event."""
        return self._counts[: self._length].copy()
