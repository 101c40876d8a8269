"""Sojourn times at a stage whose replicas batch for themselves, as MLServer does."""

from __future__ import annotations

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
