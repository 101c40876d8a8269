"""Batch formation and utilisation: the wait until a batch is formed, the batches of a request, and ρ."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

# A ratio this close above a whole number is that number: 2.1/0.7 is 3, not 4.
ROUNDING = 1e-9


def ceil_ratio(amount: float, per_unit: float) -> int:
    """The least whole number of units that hold `amount`, forgiving the last bits of the division."""
    return ceil(amount / per_unit - ROUNDING)


def ceil_up(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least whole numbers at or above each ratio, forgiving as `ceil_ratio` does."""
    rounded: NDArray[np.float64] = np.ceil(ratio - ROUNDING)
    return rounded


def formation_wait_s(batch_size: int, rate_rps: float, timeout_s: float | None = None) -> float:
    """The longest wait of an item at a central queue until its batch is full: (b − 1)/λ (IPA, q_s).

    `rate_rps` is the items a second that reach the stage. The queue releases a partial batch after
    `timeout_s`, which caps the wait; None is no cap.
    """
    wait_s = (batch_size - 1) / rate_rps
    return wait_s if timeout_s is None else min(wait_s, timeout_s)


def released_wait_s(variants: int, batch_sizes: int, rate_rps: float) -> float:
    """The queueing term of IPA's released model for one stage: −|M|·(K − 1)/λ, never above zero.

    The released program puts the binary batch selector where the batch size belongs, so that each of the
    stage's |M| variants and K batch sizes that is *not* chosen shortens the wait. Kept for comparison only.
    """
    return -variants * (batch_sizes - 1) / rate_rps


def batches_in_sequence(items: float, batch_size: int, replicas: int) -> int:
    """The number of batches in sequence that serve all items of one request: ⌈k/(n·b)⌉.

    The n replicas take the k items of a request in batches of b side by side. 1 if k = 1.
    """
    return max(1, ceil_ratio(items, replicas * batch_size))


def utilisation_ratio(rate_rps: float, capacity_rps: float, replicas: int) -> float:
    """ρ = λ/(n·h), the share of the replicas' throughput that the rate takes."""
    return rate_rps / (replicas * capacity_rps)
