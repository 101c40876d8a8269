"""Random factors around the mean service time of a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipa.simulate.gamma import gamma_table

Floats = NDArray[np.float64]


class ServiceNoise:
    """Streams of random factors of mean one, one stream a spread, in blocks of one array.

    Stream s has its next draw at `next[s]` and ends before `last[s]`. The same seed gives the same factors,
    in calls of any size. A stream's seed is the order in which its spread was first requested. After the
    number that short runs need, they come from a table, which is quicker than the exact method but takes a
    millisecond to make; exponential factors are quick as they are.
    """

    BLOCK = 4096
    FIRST = 128
    EXACT = 32_768

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._seed = seed
        self._streams: dict[float, int] = {}
        self._rngs: list[np.random.Generator] = []
        self._drawn: list[int] = []
        self._listed: list[float] | None = None
        self.values: Floats = np.empty(0)
        self.next = np.empty(0, dtype=np.int64)
        self.last = np.empty(0, dtype=np.int64)

    def stream(self, spread: float) -> int:
        """The number of the stream of that spread; -1 for none (spread 0)."""
        if spread <= 0:
            return -1
        if spread not in self._streams:
            number = self._streams[spread] = len(self._rngs)
            self._rngs.append(np.random.default_rng((*self._seed, number)))
            self._drawn.append(0)
            self._listed = None
            self.values = np.concatenate([self.values, np.empty(self.BLOCK)])
            self.next = np.append(self.next, number * self.BLOCK)
            self.last = np.append(self.last, number * self.BLOCK)
        return self._streams[spread]

    def refill(self, number: int) -> None:
        """Draw the next block of an exhausted stream."""
        spread = list(self._streams)[number]
        count, start = min(self._drawn[number] + self.FIRST, self.BLOCK), number * self.BLOCK
        self.values[start : start + count] = self._draw(number, spread, count)
        self.next[number], self.last[number] = start, start + count
        self._drawn[number] += count
        self._listed = None

    def _draw(self, number: int, spread: float, count: int) -> Floats:
        rng = self._rngs[number]
        if spread == 1.0:
            return rng.standard_exponential(count)
        if self._drawn[number] < self.EXACT:
            return rng.gamma(1 / spread, spread, count)
        return gamma_table(spread).draw(rng, count)

    def listed(self) -> list[float]:
        """The values as a list."""
        if self._listed is None:
            self._listed = self.values.tolist()
        return self._listed
