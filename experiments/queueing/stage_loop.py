"""A fast event loop of one stage: central queue, batches by size or timeout, n replicas.

The rules are those of `ipa.serving.batching`, without drops and failures. Since the queue is first in,
first out, a batch is one step of the loop: it starts at the later of the moment it is due and the moment a
replica is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from heapq import heapreplace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Runs of at least this many items are compiled if numba is installed; loading it takes as long as half of it.
MANY = 500_000


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


def run_stage(arrivals_s: Floats, counts: NDArray[np.int64], rules: StageRules, factors: Floats) -> Floats:
    """When each request is finished, given when it came, how many items it brings and each batch's factor.

    `factors` must last for as many batches as there are items.
    """
    ends = np.cumsum(counts)
    item_s = np.append(np.repeat(arrivals_s, counts), np.inf)
    total = len(item_s) - 1
    means = np.array([rules.service_of(size) for size in range(rules.batch_size + 1)])
    numbers = rules.batch_size, rules.replicas, min(rules.timeout_s, 1e300)
    firsts: Any
    dones: Any
    if total >= MANY and find_spec("numba") is not None:
        firsts, dones = np.empty(total, np.int64), np.empty(total)
        made = _compiled()(item_s, factors, means, *numbers, firsts, dones)
    else:
        firsts, dones = np.zeros(total, np.int64).tolist(), np.zeros(total).tolist()
        made = _serve(item_s.tolist(), factors.tolist(), means.tolist(), *numbers, firsts, dones)
    done = np.repeat(dones[:made], np.diff([*firsts[:made], total]))
    return np.maximum.reduceat(done, ends - counts)


@cache
def _compiled() -> Any:
    """`_serve` for arrays, compiled by numba."""
    import numba

    return numba.njit(cache=True)(_serve)


def _serve(
    arrivals: Any,
    factor: Any,
    mean: Any,
    size: int,
    replicas: int,
    timeout_s: float,
    firsts: Any,
    dones: Any,
) -> int:
    """Write each batch's first item and end, and return the number of batches. The last arrival is never."""
    total = len(arrivals) - 1
    free = [0.0] * replicas
    first = batch = 0
    while first < total:
        full = arrivals[min(first + size - 1, total)]
        due = min(full, arrivals[first] + timeout_s)
        if due > 1e299:  # the last few never fill a batch: end of the run
            due = arrivals[total - 1]
        start = max(due, free[0])
        stop = min(first + size, total)
        if full > start:
            stop = first
            while arrivals[stop] <= start:
                stop += 1
        end = start + mean[stop - first] * factor[batch]
        heapreplace(free, end)
        firsts[batch] = first
        dones[batch] = end
        first = stop
        batch += 1
    return batch
