"""Service times of a replica, linear in the items of a batch on average; and the forming of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipa.model.errors import InputError
from ipa.model.plan import quota_cores
from ipa.model.profile import OperatingPoint
from ipa.queueing.tail import Floats, service_spread

# A ratio this close above a whole number is that number: 2.1/0.7 is 3, not 4.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """The service time of one replica: gamma distributed, its mean linear in the items of the batch.

    A full batch takes `full_s` on average, a single item `one_s`; `spread` is the squared coefficient of
    variation of either: 0 is constant, 1 exponential. These are the times of a busy replica; with a CPU quota
    of `quota_cores` an idle one has saved up to a period of CPU time (`dataplane.quota`).
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

    def mean_s(self, items: float, batch_size: int) -> float:
        """The mean in s over batches of `items` items on average, if a full one has `batch_size`."""
        if batch_size == 1:
            return self.full_s
        return self.one_s + (self.full_s - self.one_s) * ((items - 1) / (batch_size - 1))

    def usual_s(self, items: float, batch_size: int) -> float:
        """The time in s that a sixth of such batches exceeds: one standard deviation above the mean."""
        return self.mean_s(items, batch_size) * (1.0 + math.sqrt(self.spread))

    def means_s(self, batch_size: int) -> list[float]:
        """The mean for each number of items, 0 to `batch_size`, in s."""
        return [self.mean_s(items, batch_size) for items in range(batch_size + 1)]


def busy_s(mean_s: ArrayLike, batch_size: ArrayLike, capacity_rps: ArrayLike) -> Floats:
    """The mean time for which a full batch keeps a replica busy.

    It is longer than the mean latency if the measured throughput is lower than that latency allows.
    """
    return np.asarray(np.maximum(mean_s, np.asarray(batch_size) / np.asarray(capacity_rps)))


def service(
    batch_size: int, mean_s: float, tail_s: float, one_s: float | None, capacity_rps: float, cores: float
) -> ServiceTime:
    """The service time of a replica: mean and 99th percentile of a full batch, mean of one item, throughput.

    A replica with less than one of `cores` has a quota. Without `one_s` half the time of a full batch does
    not depend on the items in it.
    """
    full_s = float(busy_s(mean_s, batch_size, capacity_rps))
    single_s = full_s * (0.5 + 0.5 / batch_size) if one_s is None else min(float(one_s), full_s)
    spread = 0.0
    if tail_s > full_s:
        spread = float(service_spread(np.array([full_s]), np.array([tail_s]))[0])
    return ServiceTime(full_s, single_s, spread, quota_cores(cores))


def service_of(point: OperatingPoint, single: OperatingPoint | None = None) -> ServiceTime:
    """The service time at an operating point; `single` is the same variant and cores at batch size 1."""
    one_s = None if single is None else single.mean_s
    return service(point.batch_size, point.mean_s, point.latency_s, one_s, point.capacity_rps, point.cores)


def ceil_up(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least whole numbers at or above each ratio, forgiving the last bits of a division."""
    rounded: NDArray[np.float64] = np.ceil(ratio - ROUNDING)
    return rounded


def released_wait_s(variants: int, batch_sizes: int, rate_rps: float) -> float:
    """The queueing term of IPA's released model for one stage: −|M|·(K − 1)/λ, never above zero.

    The released program puts the binary batch selector where the batch size belongs, so that each of the
    stage's |M| variants and K batch sizes that is *not* chosen shortens the wait. Kept for comparison only.
    """
    return -variants * (batch_sizes - 1) / rate_rps
