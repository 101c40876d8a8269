"""Requests step by step through the data plane's own batcher."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from ipa.serving.batching import Batch, Batcher, QueuedRequest


def replay(
    batcher: Batcher,
    times_s: Sequence[float],
    items: Sequence[int],
    replicas: int,
    mean_s: Callable[[int], float],
    factors: Sequence[float],
    budget_s: float = inf,
    usual_s: float | None = None,
) -> tuple[list[QueuedRequest], list[float]]:
    """The requests, and when the last batch of each ends. A batch takes its mean times the next factor."""
    draws, coming = iter(factors), deque(zip(times_s, items, strict=True))
    busy: list[tuple[float, int, Batch]] = []
    requests: list[QueuedRequest] = []
    ends_s = [0.0] * len(times_s)
    begun = 0
    while coming or busy or batcher.waiting_items:
        timer = batcher.next_batch_s() if len(busy) < replicas else None
        moments = [moment for moment in (timer, batcher.next_drop_s(0.0)) if moment is not None]
        now_s = min([*moments, *(end for end, *_ in busy[:1]), *([coming[0][0]] if coming else [])])
        while busy and busy[0][0] <= now_s:
            batcher.serve(heapq.heappop(busy)[2])
        while coming and coming[0][0] <= now_s:
            requests.append(QueuedRequest(len(requests), coming.popleft()[1], now_s, now_s + budget_s))
            assert batcher.offer(requests[-1])
        batcher.drop_late(now_s, 0.0)
        while len(busy) < replicas:
            if usual_s is not None:
                batcher.give_way(now_s, usual_s)
            if (batch := batcher.take(now_s)) is None:
                break
            end_s = now_s + mean_s(batch.items) * next(draws)
            begun += 1
            heapq.heappush(busy, (end_s, begun, batch))
            for piece in batch.slices:
                ends_s[piece.request.content] = max(ends_s[piece.request.content], end_s)
    return requests, ends_s
