"""How long a batch takes on one replica, and the random factors around its mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import InputError
from ipa.model.plan import quota_cores
from ipa.model.profile import OperatingPoint
from ipa.queueing.tail_parts import service_spread
from ipa.simulate.gamma import gamma_table

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Service:
    """The service time of one replica: gamma distributed, its mean linear in the items of the batch.

    A full batch takes `full_s` on the mean, a single item `one_s`; `spread` is the squared coefficient
    of variation of either: 0 is constant, 1 exponential. Those are the times of a busy replica; with a CPU
    quota of `quota_cores` it has saved up to a period of its time while it was idle (`dataplane.quota`).
    """

    full_s: float
    one_s: float
    spread: float = 0.0
    quota_cores: float = 0.0

    def __post_init__(self) -> None:
        if not (self.full_s > 0 and self.one_s > 0 and self.spread >= 0):
            raise InputError(
                f"a service needs full_s and one_s above zero and spread of zero or more: {self}"
            )

    def means_s(self, batch_size: int) -> list[float]:
        """The mean for each number of items, 0 to `batch_size`, in s."""
        if batch_size == 1:
            return [self.full_s, self.full_s]
        slope = self.full_s - self.one_s
        return [self.one_s + slope * ((size - 1) / (batch_size - 1)) for size in range(batch_size + 1)]


def service_of(point: OperatingPoint, single: OperatingPoint | None = None) -> Service:
    """The service of an operating point; `single` is the same variant and cores at batch size 1.

    As the planner takes it: where the measured throughput is less than a batch in its mean latency, the
    replica is busy for longer. Its 99th percentile sets the spread. Without `single` half the time of a
    full batch does not depend on the items in it.
    """
    mean_s = point.latency_s if point.latency_mean_s is None else point.latency_mean_s
    full_s = max(mean_s, point.batch_size / point.capacity_rps)
    if single is None:
        one_s = full_s * (0.5 + 0.5 / point.batch_size)
    else:
        one_s = min(single.latency_s if single.latency_mean_s is None else single.latency_mean_s, full_s)
    spread = 0.0
    if point.latency_mean_s is not None and point.latency_s > full_s:
        spread = float(service_spread(np.array([full_s]), np.array([point.latency_s]))[0])
    return Service(full_s, one_s, spread, quota_cores(point.cores))


class Factors:
    """Streams of random factors of mean one, one stream a spread, in blocks of one array.

    Stream s has its next draw at `next[s]` and ends before `last[s]`. The same seed gives the same
    factors, however they are taken. A stream's seed is the order in which its spread was first asked for.
    After so many as few runs need, they come from a table, which is quicker than the exact method but takes
    a millisecond to make; exponential factors are quick as they are.
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
        """Draw the next block of a stream that is at its end."""
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
