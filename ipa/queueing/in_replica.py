"""Sojourn times at a stage whose replicas batch for themselves, as MLServer does."""

from __future__ import annotations

from math import isinf, sqrt

import numpy as np

from ipa.queueing.tail import Sojourn, sojourn
from ipa.queueing.tail_parts import Floats

# The 99th percentile of a normal distribution, in standard deviations: service times are known by theirs.
TAIL_DEVIATIONS = 2.326


def sojourn_in_replica(
    batch_size: Floats,
    replicas: Floats,
    service_mean_s: Floats,
    service_tail_s: Floats,
    rate_rps: Floats,
    *,
    items: Floats,
    timeout_s: Floats,
    percentile: float,
    service_one_s: Floats,
) -> Sojourn:
    """As `ipa.queueing.tail.sojourn`, for replicas that batch what was spread to them; arrays of one shape.

    Requests are spread at random, so that each replica has its share of them, at random too. All items of a
    request are in one batch. A batch of several requests closes `timeout_s` after its first, or once it has
    `batch_size`, whether its replica is busy or not: so it has no more than come in that time, however many
    wait. It then waits for the batches before it. Rules: `mlserver.batching`; accuracy:
    docs/explanation/queueing.md.
    """
    batches = batch_size > 1
    rate_rps = rate_rps / (items * replicas)
    # Until a batch closes, from its first request on.
    open_s = np.where(batches, np.minimum(timeout_s, (batch_size - 1) / rate_rps), 0.0)
    closes_by_time = batches & (timeout_s * rate_rps < batch_size - 1)
    more = rate_rps * open_s
    size = 1 + more
    # Nothing is saved by larger batches than were measured.
    item_s = np.where(
        batches, (service_mean_s - service_one_s) / np.maximum(batch_size - 1, 1), service_one_s
    )
    service_s = service_one_s + item_s * (size * items - 1)
    # The number of requests that come in a time is spread as much as its mean.
    spread_s = np.where(closes_by_time, TAIL_DEVIATIONS * item_s * items * np.sqrt(more), 0.0)
    longer_s = service_s * (service_tail_s / service_mean_s - 1)
    tail_s = service_s + np.sqrt(longer_s**2 + spread_s**2)
    ones = np.ones_like(size)
    queue = sojourn(
        ones,
        ones,
        service_s,
        tail_s,
        rate_rps / size,
        timeout_s=0.0,
        percentile=percentile,
        service_one_s=service_s,
    )
    # Batches close more evenly than requests come; the wait is in proportion to both variations (Kingman).
    service_cv2 = ((tail_s / service_s - 1) / TAIL_DEVIATIONS) ** 2
    evener = (1 / size**2 + service_cv2) / (1 + service_cv2)
    # The first request of a batch waits until it closes, the others come meanwhile.
    forming_s = open_s * np.where(closes_by_time, (1 + 1 / size) / 2, 0.5)
    longest_s = np.where(closes_by_time, open_s, open_s + TAIL_DEVIATIONS * np.sqrt(more) / rate_rps)
    longest_s = np.where(batches, np.minimum(longest_s, timeout_s), 0.0)
    with np.errstate(invalid="ignore"):
        mean_s = service_s + forming_s + (queue.mean_s - service_s) * evener
        excess_s = np.sqrt((queue.excess_s * evener) ** 2 + (longest_s - forming_s) ** 2)
    is_stable = np.isfinite(queue.mean_s)
    return Sojourn(np.where(is_stable, mean_s, np.inf), np.where(is_stable, excess_s, np.inf))


def carried_in_replica(
    batch_size: int, full_s: float, one_s: float, *, items: float, timeout_s: float
) -> float:
    """The items a second that keep one replica busy, which batches what was spread to it; inf if none do.

    `full_s` and `one_s` are the mean service times of `batch_size` items and of one. Under load its batches
    have 1 + λ·`timeout_s` requests of so many `items`, and no more than `batch_size` (`sojourn_in_replica`):
    with a short timeout it carries much less than full batches would.
    """
    item_s = (full_s - one_s) / (batch_size - 1) if batch_size > 1 else one_s
    # Of a batch of one request, and what each request a second adds to it.
    first_s = one_s + item_s * (items - 1)
    if batch_size == 1:
        return items / first_s
    full_rps = batch_size / (first_s + item_s * items * (batch_size - 1))
    if isinf(timeout_s) or full_rps * timeout_s >= batch_size - 1:
        return items * full_rps
    more_s2, spare_s = item_s * items * timeout_s, first_s - timeout_s
    # Its batches take as long as they come apart: λ·(first_s + λ·more_s2) = 1 + λ·timeout_s.
    if more_s2 > 0:
        return items * min(full_rps, (sqrt(spare_s**2 + 4 * more_s2) - spare_s) / (2 * more_s2))
    return items * (1 / spare_s if spare_s > 0 else full_rps)
