"""Random factors around the mean service time of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from ipa.simulate.columns import Floats, Ints

# Cells of equal probability. Between two quantiles the density is constant: the distribution function is off
# by less than 1e-4, its mean by less than 1e-6.
CELLS = 4096
# Points at which the density is summed, and the depth below its maximum at which it is cut off (natural
# logarithm).
POINTS = 1 << 14
FAINT = 45.0
KEPT = 64


@dataclass(frozen=True, slots=True)
class Lines:
    """The quantile function between CELLS + 1 knots: in cell k it is `start[k]` + `slope[k]` · x.

    x is the place among the cells, k <= x < k + 1.
    """

    start: Floats
    slope: Floats

    @classmethod
    def through(cls, knots: Floats) -> Self:
        """The lines through these quantiles."""
        slope = np.diff(knots)
        return cls(knots[:-1] - slope * np.arange(CELLS), slope)

    def at(self, places: Floats, cells: Ints) -> Floats:
        """The values at these places in these cells."""
        values = self.slope.take(cells)
        values *= places
        values += self.start.take(cells)
        return values


@dataclass(frozen=True, slots=True)
class GammaTable:
    """Draws gamma variables of mean one by inversion; the two outermost cells are cells of cells."""

    body: Lines
    least: Lines
    most: Lines

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """This many draws, each from one uniform variable, in its order."""
        places = rng.random(count)
        places *= CELLS
        cells = places.astype(np.int64)
        values = self.body.at(places, cells)
        # One comparison finds both ends: as unsigned numbers those below the first cell are the largest.
        for at in np.flatnonzero((cells - 1).view(np.uint64) >= CELLS - 2).tolist():
            lines = self.most if cells[at] else self.least
            inner = float(places[at] - cells[at]) * CELLS
            values[at] = lines.slope[int(inner)] * inner + lines.start[int(inner)]
        return values


@lru_cache(KEPT)
def gamma_table(spread: float) -> GammaTable:
    """The table for that squared coefficient of variation, above zero; about a millisecond to make.

    The density of the logarithm is summed by the trapezoid rule with its end correction (Euler-Maclaurin),
    from both ends, so that both tails are exact.
    """
    shape = 1 / spread
    logs = np.linspace(_edge(shape, -1.0), _edge(shape, 1.0), POINTS)
    density = np.exp(shape * (logs - np.exp(logs) + 1))
    step = float(logs[1] - logs[0])
    correction = step / 12 * density * shape * (1 - np.exp(logs))
    pieces = (density[1:] + density[:-1]) / 2 - np.diff(correction)
    below = np.concatenate(([0.0], np.cumsum(pieces)))
    above = np.concatenate((np.cumsum(pieces[::-1])[::-1], [0.0]))
    with np.errstate(divide="ignore"):
        low, high = np.log(below / below[-1]), np.log(above / above[0])
    share = np.arange(1, CELLS) / CELLS

    def quantiles(shares: Floats) -> Floats:
        return np.exp(np.interp(np.log(shares), low, logs))

    def upper(shares: Floats) -> Floats:
        return np.exp(np.interp(np.log(shares), high[::-1], logs[::-1]))

    half = CELLS // 2
    middle = np.concatenate((quantiles(share[:half]), upper(1 - share[half:])))
    inner = np.concatenate(([1 / CELLS], share)) / CELLS
    least = np.append(quantiles(inner), middle[0])
    most = np.append(middle[-1], upper(inner[::-1]))
    # The outermost cells are never looked up in the body.
    body = np.concatenate((middle[:1], middle, middle[-1:]))
    return GammaTable(Lines.through(body), Lines.through(least), Lines.through(most))


def _edge(shape: float, side: float) -> float:
    """The place on that side where the log of the density is FAINT below its maximum, by Newton's method."""
    depth = FAINT / shape
    at = side * max(1.0, depth) if side < 0 else np.log(2.0 + depth)
    for _ in range(50):
        at -= (np.exp(at) - at - 1 - depth) / (np.exp(at) - 1)
    return float(at)


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
