"""The queue's rules, without I/O or clock: order, batch forming, early drop, retry, splitting and joining.

Times are seconds of any one monotonic clock and come in as arguments.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from math import inf
from typing import Any

from ipa.dataplane.tensors import (
    NOTHING,
    Tensors,
    dump,
    items_of,
    kind_of,
    merge,
    rows,
    split,
    values_of,
    without_number,
)

# A request that was at this many model servers when each of them died is taken for the cause.
MAX_LOSSES = 3


class Outcome(StrEnum):
    """The outcome of a request. The router refuses requests that are invalid; that is the client's fault."""

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


class QueuedRequest:
    """A request in the queue. `outcome` is None until it ends, which happens once; `detail` is the cause.

    After `deadline_s` its answer is useless. An answer by `due_s`, if not after the deadline, is in time if
    the later stages take as long as they usually do. One by `wanted_s` is within the SLA then.
    """

    __slots__ = (
        "answer",
        "arrived_s",
        "cause",
        "deadline_s",
        "detail",
        "due_s",
        "inputs",
        "items",
        "kind",
        "losses",
        "members",
        "number",
        "outcome",
        "parts",
        "retry_after_s",
        "taken_s",
        "waiting",
        "wanted_s",
    )

    def __init__(
        self,
        inputs: Tensors,
        arrived_s: float,
        deadline_s: float,
        members: Mapping[str, Any] = NOTHING,
        due_s: float | None = None,
        wanted_s: float | None = None,
    ) -> None:
        self.inputs = inputs
        self.members = members  # sent to the model unchanged, together with the inputs
        self.items = items_of(inputs)
        self.kind: Hashable = kind_of(inputs, members)
        self.arrived_s = arrived_s
        self.deadline_s = deadline_s
        self.due_s = deadline_s if due_s is None else due_s
        self.wanted_s = self.due_s if wanted_s is None else wanted_s
        self.taken_s = arrived_s  # when its first batch was taken, of the last try
        self.number = 0  # in the order of arrival
        self.outcome: Outcome | None = None
        self.cause: LossCause | None = None
        self.retry_after_s = 0.0  # of a refused one: until another would be in time
        self.detail = ""
        self.answer: Tensors = ()
        self.waiting = 0  # items that are not in a batch
        self.losses = 0  # model servers that died while they had it
        self.parts: dict[int, tuple[int, Tensors]] = {}  # by first item: the number of items, their outputs

    def end(self, outcome: Outcome, cause: LossCause | None = None, detail: str = "") -> None:
        """Set the outcome; RuntimeError if the request has one."""
        if self.outcome is not None:
            raise RuntimeError(f"the request has already ended: {self.outcome}")
        self.outcome, self.cause, self.detail = outcome, cause, detail
        self.parts.clear()


@dataclass(frozen=True, slots=True)
class Slice:
    """Items `start` to `stop` of a request. With `is_alone` no other request may share its batch."""

    request: QueuedRequest
    start: int
    stop: int
    is_alone: bool = False

    @property
    def items(self) -> int:
        """The number of items."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """The slices that one replica serves in one call."""

    slices: tuple[Slice, ...]

    @property
    def items(self) -> int:
        """The number of items of all slices."""
        return sum(piece.items for piece in self.slices)

    @property
    def is_abandoned(self) -> bool:
        """True if no request waits for this batch any more."""
        return all(piece.request.outcome is not None for piece in self.slices)

    def inputs(self) -> Tensors:
        """The inputs of all slices, concatenated."""
        return merge([rows(piece.request.inputs, piece.start, piece.stop) for piece in self.slices])

    @property
    def values(self) -> int:
        """The number of values of the requests that it has items of."""
        return sum(values_of(piece.request.inputs) for piece in self.slices)

    def body(self) -> bytes:
        """The V2 request to the model server."""
        return dump("inputs", self.inputs(), **self.slices[0].request.members)


@dataclass(slots=True)
class Batcher:
    """The waiting requests of one stage: the earliest deadline first, of equal ones the first to arrive.

    A batch is taken once `batch_size` items wait, or a request has waited `batch_timeout_s`, or the next
    request cannot join it. A request with more items than fit goes into several batches.
    """

    batch_size: int
    batch_timeout_s: float
    max_items: int
    waiting_items: int = 0
    _slices: list[Slice] = field(default_factory=list)
    _arrivals: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    _deadlines: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    # Deadlines of requests whose items were all in batches when the latest useful batch would have started.
    _in_flight: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    @property
    def has_full_batch(self) -> bool:
        """True if as many items wait as fit into a batch: another request would compete with them."""
        return self.waiting_items >= self.batch_size

    def offer(self, request: QueuedRequest) -> bool:
        """Enqueue the request. Return False if more than `max_items` would then wait."""
        if self.waiting_items + request.items > self.max_items:
            return False
        request.number = next(self._order)
        insort(self._slices, Slice(request, 0, request.items), key=_rank)
        self._now_waiting(request, request.items)
        return True

    def items_before(self, deadline_s: float) -> int:
        """The waiting items that are served before those of a new request with that deadline."""
        if not self._slices or self._slices[-1].request.deadline_s <= deadline_s:
            return self.waiting_items
        place = bisect_right(self._slices, deadline_s, key=lambda piece: piece.request.deadline_s)
        return sum(piece.items for piece in self._slices[:place] if piece.request.outcome is None)

    def drop_late(self, now_s: float, service_s: float, *, has_replicas: bool = True) -> list[QueuedRequest]:
        """Drop the requests that will miss their deadline, and return them.

        A waiting request is dropped as soon as a batch of `service_s` could not answer it by its deadline, a
        request in a batch at its deadline. A later answer of that batch is ignored.
        """
        cause = LossCause.NO_TIME_LEFT if has_replicas else LossCause.NO_REPLICAS
        words = (
            "less time budget is left than a batch takes" if has_replicas else "no replica serves the stage"
        )
        dropped = []
        while self._deadlines and self._deadlines[0][0] - service_s <= now_s:
            entry = heapq.heappop(self._deadlines)
            request = entry[2]
            if request.outcome is None and request.waiting:
                self._drop(request, cause, words)
                dropped.append(request)
            elif request.outcome is None:
                heapq.heappush(self._in_flight, entry)
        while self._in_flight and self._in_flight[0][0] <= now_s:
            request = heapq.heappop(self._in_flight)[2]
            if request.outcome is None:
                self._drop(request, LossCause.BATCH_LATE, "the model did not answer within its time budget")
                dropped.append(request)
        return dropped

    def give_way(self, now_s: float, usual_s: float) -> list[QueuedRequest]:
        """Drop the requests that a batch of `usual_s` would answer too late while others would fill it.

        Without others they are served: the batch may be quicker than usual. Return the dropped ones.
        """
        dropped = []
        for piece in self._slices:
            request = piece.request
            if request.outcome is not None or request.waiting < request.items:
                continue
            if self.waiting_items - request.waiting < self.batch_size or request.due_s >= now_s + usual_s:
                break
            words = "less time budget is left than a batch usually takes"
            self._drop(request, LossCause.NO_TIME_LEFT, words)
            dropped.append(request)
        return dropped

    def take(self, now_s: float) -> Batch | None:
        """Return the next batch; None while waiting is better."""
        self._skip_ended()
        if not self._slices or not self._is_due(now_s):
            return None
        head = self._slices[0]
        taken: list[Slice] = []
        rest: Slice | None = None
        room, passed = self.batch_size, 0
        for waiting in self._slices:
            piece = waiting
            if not room or (taken and not self._joins(head, piece)):
                break
            passed += 1
            if piece.request.outcome is not None:
                continue
            if piece.items > room:
                cut = piece.start + room
                rest = Slice(piece.request, cut, piece.stop, piece.is_alone)
                piece = Slice(piece.request, piece.start, cut, piece.is_alone)
            room -= piece.items
            if piece.start == 0:
                piece.request.taken_s = now_s
            piece.request.waiting -= piece.items
            self.waiting_items -= piece.items
            taken.append(piece)
        self._slices[:passed] = [rest] if rest else []
        return Batch(tuple(taken))

    def next_wanted_s(self) -> float:
        """The least `wanted_s` of the requests of the next batch; infinite if none waits."""
        wanted_s, items = inf, 0
        for piece in self._slices:
            if items >= self.batch_size:
                break
            if piece.request.outcome is None:
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
        moments += [self._deadlines[0][0] - service_s] if self._deadlines else []
        return min(moments, default=None)

    def answer(self, batch: Batch, outputs: Tensors, where: str = "") -> list[QueuedRequest]:
        """Take the outputs of the batch, and return the requests that they complete or fail.

        `where` is the prefix of the details of failures.
        """
        try:
            answers = split(outputs, [piece.items for piece in batch.slices])
        except ValueError as error:
            return self.fail(batch, f"{where}{error}")
        ended = []
        for piece, part in zip(batch.slices, answers, strict=True):
            request = piece.request
            if request.outcome is not None:
                continue
            if name := without_number(part):
                detail = f"{where}output {name!r} contains null, which stands for NaN or infinity"
                self._end(request, Outcome.FAILED, LossCause.MODEL_ERROR, detail)
                ended.append(request)
                continue
            request.parts[piece.start] = (piece.items, part)
            if sum(items for items, _ in request.parts.values()) == request.items:
                self._join(request)
                ended.append(request)
        return ended

    def fail(self, batch: Batch, detail: str) -> list[QueuedRequest]:
        """Take the failure of the batch. Return the requests that fail with it.

        If several requests shared the batch, one of them may be the cause: each is retried in a batch of its
        own.
        """
        if len(_requests(batch.slices)) > 1:
            self._put_back([Slice(it.request, it.start, it.stop, True) for it in _open(batch)])
            return []
        return self._fail(_requests(_open(batch)), LossCause.MODEL_ERROR, detail)

    def lose(self, batch: Batch, detail: str) -> list[QueuedRequest]:
        """Return the batch of a replica that died to its place in the queue. Return the requests that fail.

        The cause may be the replica or a request: a request that loses its second replica is batched alone
        from then on, and fails when it loses replica number `MAX_LOSSES`.
        """
        kept, failed = [], []
        for request in _requests(_open(batch)):
            request.losses += 1
            if request.losses >= MAX_LOSSES:
                failed.append(request)
        for piece in _open(batch):
            if piece.request.losses < MAX_LOSSES:
                is_alone = piece.is_alone or piece.request.losses > 1
                kept.append(Slice(piece.request, piece.start, piece.stop, is_alone))
        self._put_back(kept)
        words = f"{MAX_LOSSES} model servers died while serving it; the last: {detail}"
        return self._fail(failed, LossCause.LOST_REPLICAS, words)

    def requeue(self, batch: Batch) -> None:
        """Return a batch that no replica has started to its place in the queue."""
        self._put_back(_open(batch))

    def _fail(self, requests: list[QueuedRequest], cause: LossCause, detail: str) -> list[QueuedRequest]:
        for request in requests:
            self._end(request, Outcome.FAILED, cause, detail)
        return requests

    def _drop(self, request: QueuedRequest, cause: LossCause, detail: str) -> None:
        self._end(request, Outcome.DROPPED, cause, detail)

    def _put_back(self, slices: Sequence[Slice]) -> None:
        for piece in slices:
            insort(self._slices, piece, key=_rank)
            self._now_waiting(piece.request, piece.items)

    def _now_waiting(self, request: QueuedRequest, items: int) -> None:
        request.waiting += items
        self.waiting_items += items
        order = next(self._order)
        heapq.heappush(self._deadlines, (request.deadline_s, order, request))
        heapq.heappush(self._arrivals, (request.arrived_s, order, request))

    def _end(
        self, request: QueuedRequest, outcome: Outcome, cause: LossCause | None = None, detail: str = ""
    ) -> None:
        self.waiting_items -= request.waiting
        request.waiting = 0
        request.end(outcome, cause, detail)

    def _join(self, request: QueuedRequest) -> None:
        parts = [request.parts[start][1] for start in sorted(request.parts)]
        try:
            request.answer = merge(parts)
        except ValueError as error:
            self._end(request, Outcome.FAILED, LossCause.MODEL_ERROR, str(error))
        else:
            self._end(request, Outcome.ANSWERED)

    def _skip_ended(self) -> None:
        ended = 0
        while ended < len(self._slices) and self._slices[ended].request.outcome is not None:
            ended += 1
        del self._slices[:ended]
        for heap in (self._deadlines, self._in_flight):
            while heap and heap[0][2].outcome is not None:
                heapq.heappop(heap)
        while self._arrivals and not self._arrivals[0][2].waiting:
            heapq.heappop(self._arrivals)

    def _is_due(self, now_s: float) -> bool:
        if now_s >= self._arrivals[0][0] + self.batch_timeout_s:
            return True
        head = self._slices[0]
        items = 0
        for piece in self._slices:
            if piece is not head and not self._joins(head, piece):
                return True
            items += piece.items if piece.request.outcome is None else 0
            if items >= self.batch_size:
                return True
        return False

    @staticmethod
    def _joins(head: Slice, piece: Slice) -> bool:
        if piece.request.outcome is not None or piece.request is head.request:
            return True
        return not head.is_alone and not piece.is_alone and piece.request.kind == head.request.kind


def _rank(piece: Slice) -> tuple[float, int, int]:
    """The place of a slice in the queue: by deadline, then as its request arrived, then as its items are."""
    return piece.request.deadline_s, piece.request.number, piece.start


def _open(batch: Batch) -> list[Slice]:
    """The slices whose requests have not ended."""
    return [piece for piece in batch.slices if piece.request.outcome is None]


def _requests(slices: Iterable[Slice]) -> list[QueuedRequest]:
    return list({id(piece.request): piece.request for piece in slices}.values())
