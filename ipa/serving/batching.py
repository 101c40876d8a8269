"""The queue's rules, without I/O or clock: order, batch forming, early drop and retry.

Times are seconds of any one monotonic clock, and are passed as arguments.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from math import inf
from typing import Any, NamedTuple

# A request that was at this many model servers when each of them died is taken for the cause.
MAX_LOSSES = 3


class Outcome(StrEnum):
    """The outcome of a request. The router refuses invalid requests, which are the client's fault."""

    ANSWERED = "answered"
    DROPPED = "dropped"
    FAILED = "failed"
    REFUSED = "refused"


class LossCause(StrEnum):
    """The cause of a request's end without an answer."""

    # The queue refused it on arrival: it would have waited in vain, or there was no room.
    OVERLOAD = "overload"
    QUEUE_FULL = "queue_full"
    # Its time ran out while it waited, while it waited with no replica there, and in a batch.
    NO_TIME_LEFT = "no_time_left"
    NO_REPLICAS = "no_replicas"
    BATCH_LATE = "batch_late"
    LOST_REPLICAS = "lost_replicas"
    MODEL_ERROR = "model_error"
    # The router's: the queue did not answer, or not as one does; and requests that are invalid.
    QUEUE_UNREACHABLE = "queue_unreachable"
    INVALID_REQUEST = "invalid_request"


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request in the queue. `outcome` is None until it ends, which happens once; `detail` is the cause.

    After `deadline_s` its answer is useless. With an answer by `due_s`, and later stages as quick as usual,
    the request meets its deadline; with one by `wanted_s`, the SLA. Only requests of one `kind` share a
    batch. `content`, `parts` and `answer` are the caller's.
    """

    content: Any
    items: int
    arrived_s: float
    deadline_s: float
    due_s: float = inf
    wanted_s: float = inf
    kind: Hashable = None
    # When its first batch was taken, of the last try.
    taken_s: float = 0.0
    # In the order of arrival.
    number: int = 0
    outcome: Outcome | None = None
    cause: LossCause | None = None
    # Of a refused one: until another would be in time.
    retry_after_s: float = 0.0
    detail: str = ""
    answer: Any = ()
    # Items that are not in a batch, those that were when it ended, and those that were served.
    waiting: int = 0
    left: int = 0
    served: int = 0
    # Model servers that died while they had it.
    losses: int = 0
    # By first item: what was answered.
    parts: dict[int, Any] = field(default_factory=dict)
    # That answered its items.
    variants: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.due_s = min(self.due_s, self.deadline_s)
        self.wanted_s = min(self.wanted_s, self.due_s)
        self.taken_s = self.arrived_s

    def end(self, outcome: Outcome, cause: LossCause | None = None, detail: str = "") -> None:
        """Set the outcome; RuntimeError if the request has one."""
        if self.outcome is not None:
            raise RuntimeError(f"the request has already ended: {self.outcome}")
        self.outcome, self.cause, self.detail = outcome, cause, detail
        self.parts.clear()


class Slice(NamedTuple):
    """Items `start` to `stop` of a request. With `is_alone` no other request may share the batch."""

    request: QueuedRequest
    start: int
    stop: int
    is_alone: bool = False

    @property
    def items(self) -> int:
        """The number of items."""
        return self.stop - self.start

    @property
    def is_open(self) -> bool:
        """True if its request is still waiting for an answer."""
        return self.request.outcome is None

    def joins(self, head: Slice) -> bool:
        """True if it may share the batch that begins with `head`."""
        if self.request is head.request or not self.is_open:
            return True
        return not (head.is_alone or self.is_alone) and self.request.kind == head.request.kind


class Batch(NamedTuple):
    """The slices that one replica serves in one call."""

    slices: tuple[Slice, ...]

    @property
    def items(self) -> int:
        """The number of items of all slices."""
        return sum(piece.items for piece in self.slices)

    @property
    def open_slices(self) -> list[Slice]:
        """The slices whose requests still wait for an answer; none if the batch is no longer needed."""
        return [piece for piece in self.slices if piece.is_open]


@dataclass(slots=True)
class Batcher:
    """The waiting requests of one stage: the earliest deadline first, of equal deadlines the first to arrive.

    A batch is taken once `batch_size` items wait, or a request has waited `batch_timeout_s`, or the next
    request cannot join it. A request with more items than fit goes into several batches.
    """

    batch_size: int
    batch_timeout_s: float
    max_items: int
    waiting_items: int = 0
    _slices: list[Slice] = field(default_factory=list)
    _arrivals: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    # Deadlines of requests whose items were all taken.
    _in_flight: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def offer(self, request: QueuedRequest) -> bool:
        """Enqueue the request. Return False if more than `max_items` would then wait."""
        if self.waiting_items + request.items > self.max_items:
            return False
        request.number = next(self._order)
        self._enqueue([Slice(request, 0, request.items)])
        return True

    def items_before(self, deadline_s: float) -> int:
        """The waiting items that would be served before a new request with that deadline."""
        if not self._slices or self._slices[-1].request.deadline_s <= deadline_s:
            return self.waiting_items
        place = bisect_right(self._slices, deadline_s, key=lambda piece: piece.request.deadline_s)
        return sum(piece.items for piece in self._slices[:place] if piece.is_open)

    def drop_late(self, now_s: float, service_s: float, *, has_replicas: bool = True) -> list[QueuedRequest]:
        """Drop the requests that will miss their deadline, and return them.

        A waiting request is dropped as soon as a batch of `service_s` could not answer it by its deadline; a
        request in a batch is dropped at its deadline, and a later answer is ignored.
        """
        dropped = []
        cause, detail = LossCause.NO_REPLICAS, "no replica serves the stage"
        if has_replicas:
            cause, detail = LossCause.NO_TIME_LEFT, "less time budget is left than a batch takes"
        self._skip_ended()
        while self._slices and self._slices[0].request.deadline_s - service_s <= now_s:
            request = self._slices[0].request
            self.end(request, Outcome.DROPPED, cause, detail)
            dropped.append(request)
            self._skip_ended()
        while self._in_flight and self._in_flight[0][0] <= now_s:
            request = heapq.heappop(self._in_flight)[2]
            if request.outcome is None:
                detail = "the model did not answer within its time budget"
                self.end(request, Outcome.DROPPED, LossCause.BATCH_LATE, detail)
                dropped.append(request)
        return dropped

    def give_way(self, now_s: float, usual_s: float) -> list[QueuedRequest]:
        """Drop requests that a batch of `usual_s` would answer too late, if others can fill the batch.

        Else they are served: the batch may be quicker than usual. Return the dropped ones.
        """
        dropped = []
        for piece in self._slices:
            request = piece.request
            if not piece.is_open or request.waiting < request.items:
                continue
            if self.waiting_items - request.waiting < self.batch_size or request.due_s >= now_s + usual_s:
                break
            detail = "less time budget is left than a batch usually takes"
            self.end(request, Outcome.DROPPED, LossCause.NO_TIME_LEFT, detail)
            dropped.append(request)
        return dropped

    def take(self, now_s: float) -> Batch | None:
        """Return the next batch; None if more items should be awaited."""
        self._skip_ended()
        if not self._slices:
            return None
        head = self._slices[0]
        taken: list[Slice] = []
        room, passed, is_closed = self.batch_size, 0, False
        for piece in self._slices:
            is_closed = room <= 0 or not piece.joins(head)
            if is_closed:
                break
            passed += 1
            if piece.is_open:
                taken.append(piece)
                room -= piece.items
        if room > 0 and not is_closed and now_s < self._arrivals[0][0] + self.batch_timeout_s:
            return None
        rest: list[Slice] = []
        if room < 0:
            request, start, stop, is_alone = taken.pop()
            taken.append(Slice(request, start, stop + room, is_alone))
            rest.append(Slice(request, stop + room, stop, is_alone))
        self._slices[:passed] = rest
        for piece in taken:
            request = piece.request
            if piece.start == 0:
                request.taken_s = now_s
            request.waiting -= piece.items
            self.waiting_items -= piece.items
            if not request.waiting:
                heapq.heappush(self._in_flight, (request.deadline_s, next(self._order), request))
        return Batch(tuple(taken))

    def next_wanted_s(self) -> float:
        """The earliest `wanted_s` among the requests of the next batch; infinite if no request waits."""
        wanted_s, items = inf, 0
        for piece in self._slices:
            if items >= self.batch_size:
                break
            if piece.is_open:
                wanted_s, items = min(wanted_s, piece.request.wanted_s), items + piece.items
        return wanted_s

    def next_batch_s(self) -> float | None:
        """The time at which a request has waited `batch_timeout_s`; None if no request waits."""
        self._skip_ended()
        return self._arrivals[0][0] + self.batch_timeout_s if self._slices else None

    def next_drop_s(self, service_s: float) -> float | None:
        """The time of the next call of `drop_late`; None if no request has a deadline."""
        self._skip_ended()
        moments = [self._in_flight[0][0]] if self._in_flight else []
        moments += [self._slices[0].request.deadline_s - service_s] if self._slices else []
        return min(moments, default=None)

    def serve(self, batch: Batch) -> list[QueuedRequest]:
        """Count the items of the batch as served, and return the requests that end with them."""
        ended = []
        for piece in batch.open_slices:
            piece.request.served += piece.items
            if piece.request.served == piece.request.items:
                self.end(piece.request, Outcome.ANSWERED)
                ended.append(piece.request)
        return ended

    def fail(self, batch: Batch, detail: str) -> list[QueuedRequest]:
        """Record the failure of the batch, and return the requests that fail with it.

        If several requests shared the batch, one of them may be the cause: each is retried in a batch of its
        own.
        """
        if len({piece.request for piece in batch.slices}) > 1:
            self._enqueue(Slice(*piece[:3], is_alone=True) for piece in batch.open_slices)
            return []
        return self.fail_requests(_requests(batch.open_slices), LossCause.MODEL_ERROR, detail)

    def lose(self, batch: Batch, detail: str) -> list[QueuedRequest]:
        """Put the requests of a batch whose replica died back in the queue. Return the requests that fail.

        The cause may be the replica or a request: a request that loses its second replica is batched alone
        from then on, and fails when it loses replica number `MAX_LOSSES`.
        """
        slices = batch.open_slices
        for request in _requests(slices):
            request.losses += 1
        retried = [piece for piece in slices if piece.request.losses < MAX_LOSSES]
        self._enqueue(
            Slice(*piece[:3], is_alone=piece.is_alone or piece.request.losses > 1) for piece in retried
        )
        detail = f"{MAX_LOSSES} model servers died while serving it; the last: {detail}"
        lost = _requests(piece for piece in slices if piece.request.losses >= MAX_LOSSES)
        return self.fail_requests(lost, LossCause.LOST_REPLICAS, detail)

    def requeue(self, batch: Batch) -> None:
        """Put the requests of a batch that no replica has started back in the queue."""
        self._enqueue(batch.open_slices)

    def _enqueue(self, slices: Iterable[Slice]) -> None:
        for piece in slices:
            request = piece.request
            # By deadline, then as its request arrived, then as its items are.
            insort(self._slices, piece, key=lambda it: (it.request.deadline_s, it.request.number, it.start))
            request.waiting += piece.items
            self.waiting_items += piece.items
            heapq.heappush(self._arrivals, (request.arrived_s, next(self._order), request))

    def fail_requests(
        self, requests: list[QueuedRequest], cause: LossCause, detail: str
    ) -> list[QueuedRequest]:
        """Fail the requests, and return them."""
        for request in requests:
            self.end(request, Outcome.FAILED, cause, detail)
        return requests

    def end(
        self, request: QueuedRequest, outcome: Outcome, cause: LossCause | None = None, detail: str = ""
    ) -> None:
        """End the request, whose waiting items leave the queue; RuntimeError if it has ended."""
        self.waiting_items -= request.waiting
        request.left, request.waiting = request.waiting, 0
        request.end(outcome, cause, detail)

    def _skip_ended(self) -> None:
        ended = 0
        while ended < len(self._slices) and not self._slices[ended].is_open:
            ended += 1
        if ended:
            del self._slices[:ended]
        while self._in_flight and self._in_flight[0][2].outcome is not None:
            heapq.heappop(self._in_flight)
        while self._arrivals and not self._arrivals[0][2].waiting:
            heapq.heappop(self._arrivals)


def _requests(slices: Iterable[Slice]) -> list[QueuedRequest]:
    return list(dict.fromkeys(piece.request for piece in slices))
