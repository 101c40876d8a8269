"""A fast event loop of one stage: central queue, batches by size or timeout, n replicas.

The rules are those of `ipa.serving.batching`, without drops and failures. Since the queue is first in,
first out, a batch is one step of the loop: it starts at the later of the moment it is due and the moment a
replica is free.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageRules:
    """One stage: a full batch takes `service_s` on the mean, a single item `service_one_s`.

    `spread` is the squared coefficient of variation of either.
    """

    batch_size: int
    replicas: int
    service_s: float
    service_one_s: float
    spread: float
    timeout_s: float

    def service_of(self, size: int) -> float:
        """The mean service time of a batch of `size` items: linear between one and a full batch."""
        if self.batch_size == 1:
            return self.service_s
        share = (size - 1) / (self.batch_size - 1)
        return self.service_one_s + (self.service_s - self.service_one_s) * share


def item_counts(rng: np.random.Generator, items: float, requests: int) -> NDArray[np.int64]:
    """The items of each request: `items`, or the whole numbers beside it in the shares that give its mean."""
    low = int(items)
    return low + (rng.random(requests) < items - low).astype(np.int64)


def service_factors(rng: np.random.Generator, spread: float, batches: int) -> Floats:
    """Service times of mean one and this squared coefficient of variation, gamma distributed."""
    return rng.gamma(1 / spread, spread, batches) if spread > 0 else np.ones(batches)


def run_stage(
    arrivals_s: Floats, counts: NDArray[np.int64], rules: StageRules, factors: Floats, loop: Any = None
) -> Floats:
    """When each request is finished, given when it came, how many items it brings and each batch's factor."""
    ends = np.cumsum(counts)
    item_s = np.repeat(arrivals_s, counts)
    means = np.array([rules.service_of(size) for size in range(rules.batch_size + 1)])
    timeout_s = min(rules.timeout_s, 1e300)
    done = (loop or _batches)(item_s, factors, means, rules.batch_size, rules.replicas, timeout_s)
    return np.maximum.reduceat(done, ends - counts)


def _batches(
    item_s: Floats,
    factors: Sequence[float] | Floats,
    means: Floats,
    size: int,
    replicas: int,
    timeout_s: float,
) -> Floats:
    """When each item's batch is done. `factors` must last for as many batches as there are items."""
    arrivals, mean, factor = item_s.tolist(), means.tolist(), np.asarray(factors).tolist()
    total = len(arrivals)
    arrivals += [float("inf")]
    free = [0.0] * replicas
    firsts, dones = [], []
    first = batch = 0
    while first < total:
        full = arrivals[min(first + size - 1, total)]
        due = min(full, arrivals[first] + timeout_s)
        if due > 1e299:  # the last few never fill a batch: end of the run
            due = arrivals[total - 1]
        start = max(due, free[0])
        stop = min(first + size, total)
        if full > start:
            stop = bisect_right(arrivals, start, first, stop)
        end = start + mean[stop - first] * factor[batch]
        heapreplace(free, end)
        firsts.append(first)
        dones.append(end)
        first = stop
        batch += 1
    return np.repeat(dones, np.diff([*firsts, total]))
