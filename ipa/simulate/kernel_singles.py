"""The inner loop of the commonest stage: one group of a few pods, single requests, nothing dropped."""

from __future__ import annotations

from typing import Any

from ipa.simulate.kernel import BATCHES, DONE, HEAD, KEEP

# A sorted list has no unpredictable branches; with more pods a heap has fewer steps.
FEW_PODS = 16


def is_for(drop: int, sizes: Any, slots: Any, quota: Any) -> bool:
    """True if `advance_singles` gives the results of `kernel.advance` for these arguments."""
    return drop == KEEP and len(sizes) == 1 and sizes[0] == 1 and slots[0] <= FEW_PODS and not quota[0]


def advance_singles(
    since_s: float,
    moved_s: float,
    until_s: float,
    timeout_s: float,
    drop: int,
    drop_after_s: float,
    arrived_s: Any,
    born_s: Any,
    state: Any,
    sizes: Any,
    means_s: Any,
    first_mean: Any,
    stream: Any,
    first_slot: Any,
    slots: Any,
    free_s: Any,
    replica: Any,
    quota: Any,
    slow: Any,
    saved_s: Any,
    factors: Any,
    next_factor: Any,
    last_factor: Any,
    stops: Any,
    starts_s: Any,
    ends_s: Any,
    served_by: Any,
    lost: Any,
) -> int:
    """As `kernel.advance`, in a third of the time; of pods that are free at one moment the first is taken.

    `free_s` is kept sorted, which a valid heap may be.
    """
    head, batch = state[HEAD], state[BATCHES]
    total, count, which = len(arrived_s), slots[0], stream[0]
    mean_s = means_s[first_mean[0] + 1]
    answer = DONE
    while head < total and count > 0:
        free, arrived = free_s[0], arrived_s[head]
        start = arrived if arrived >= free else free
        start = start if start >= since_s else since_s
        if start >= until_s:
            break
        factor = 1.0
        if which >= 0:
            if next_factor[which] >= last_factor[which]:
                answer = which
                break
            factor = factors[next_factor[which]]
            next_factor[which] += 1
        server = replica[0]
        end = start + mean_s * factor * slow[server]
        head += 1
        stops[batch] = head
        starts_s[batch] = start
        ends_s[batch] = end
        served_by[batch] = server
        batch += 1
        # The pod moves to its place from the front; written so that only values depend on comparisons.
        for slot in range(1, count):
            free, other = free_s[slot], replica[slot]
            is_sooner = free <= end
            free_s[slot - 1] = min(free, end)
            replica[slot - 1] = other if is_sooner else server
            end = max(free, end)
            server = server if is_sooner else other
        free_s[count - 1] = end
        replica[count - 1] = server
    state[HEAD] = head
    state[BATCHES] = batch
    return answer
