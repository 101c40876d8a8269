"""The queue's rules, without I/O or clock: batch forming, early drop, retry, splitting and joining.

Times are seconds of any one monotonic clock and come in as arguments.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
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


class QueuedRequest:
    """A request in the queue. `outcome` is None until it ends, which happens once; `detail` is the cause."""

    __slots__ = (
        "answer",
        "arrived_s",
        "deadline_s",
        "detail",
        "inputs",
        "is_refused",
        "items",
        "kind",
        "losses",
        "members",
        "outcome",
        "parts",
        "waiting",
    )

    def __init__(
        self, inputs: Tensors, arrived_s: float, deadline_s: float, members: Mapping[str, Any] = NOTHING
    ) -> None:
        self.inputs = inputs
        self.members = members  # sent to the model unchanged, together with the inputs
        self.items = items_of(inputs)
        self.kind: Hashable = kind_of(inputs, members)
        self.arrived_s = arrived_s
        self.deadline_s = deadline_s
        self.outcome: Outcome | None = None
        self.detail = ""
        self.answer: Tensors = ()
        self.is_refused = False  # dropped on arrival: the queue was full
        self.waiting = 0  # items that are not in a batch
        self.losses = 0  # model servers that died while they had it
        self.parts: dict[int, tuple[int, Tensors]] = {}  # by first item: the number of items, their outputs

    def end(self, outcome: Outcome, detail: str = "") -> None:
        """Set the outcome; RuntimeError if the request has one."""
        if self.outcome is not None:
            raise RuntimeError(f"the request has ended already: {self.outcome}")
        self.outcome, self.detail = outcome, detail
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

    def body(self) -> bytes:
        """The V2 request to the model server."""
        return dump("inputs", self.inputs(), **self.slices[0].request.members)


@dataclass(slots=True)
class Batcher:
    """The waiting requests of one stage, oldest first.

    A batch is taken once `batch_size` items wait, or the oldest request has waited `batch_timeout_s`, or no
    later request can join it. A request with more items than fit goes into several batches.
    """

    batch_size: int
    batch_timeout_s: float
    max_items: int
    waiting_items: int = 0
    _slices: deque[Slice] = field(default_factory=deque)
    _deadlines: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    # Deadlines of requests whose items were all in batches when the latest useful batch would have started.
    _in_flight: list[tuple[float, int, QueuedRequest]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def offer(self, request: QueuedRequest) -> bool:
        """Enqueue the request. Return False if more than `max_items` would then wait."""
        if self.waiting_items + request.items > self.max_items:
            return False
        self._slices.append(Slice(request, 0, request.items))
        self._now_waiting(request, request.items)
        return True

    def drop_late(self, now_s: float, service_s: float) -> list[QueuedRequest]:
        """Drop the requests that will miss their deadline, and return them.

        A waiting request is dropped as soon as a batch of `service_s` could not answer it by its deadline, a
        request in a batch at its deadline. A later answer of that batch is ignored.
        """
        dropped = []
        while self._deadlines and self._deadlines[0][0] - service_s <= now_s:
            entry = heapq.heappop(self._deadlines)
            request = entry[2]
            if request.outcome is None and request.waiting:
                self._end(request, Outcome.DROPPED, "less time budget is left than a batch takes")
                dropped.append(request)
            elif request.outcome is None:
                heapq.heappush(self._in_flight, entry)
        while self._in_flight and self._in_flight[0][0] <= now_s:
            request = heapq.heappop(self._in_flight)[2]
            if request.outcome is None:
                self._end(request, Outcome.DROPPED, "the model did not answer within its time budget")
                dropped.append(request)
        return dropped

    def take(self, now_s: float) -> Batch | None:
        """Return the next batch; None while waiting is better."""
        self._skip_ended()
        if not self._slices or not self._is_due(now_s):
            return None
        head = self._slices[0]
        taken: list[Slice] = []
        room = self.batch_size
        while room and self._slices and (not taken or self._joins(head, self._slices[0])):
            piece = self._slices.popleft()
            if piece.request.outcome is not None:
                continue
            if piece.items > room:
                cut = piece.start + room
                self._slices.appendleft(Slice(piece.request, cut, piece.stop, piece.is_alone))
                piece = Slice(piece.request, piece.start, cut, piece.is_alone)
            room -= piece.items
            piece.request.waiting -= piece.items
            self.waiting_items -= piece.items
            taken.append(piece)
        return Batch(tuple(taken))

    def next_batch_s(self) -> float | None:
        """The time at which the oldest request has waited `batch_timeout_s`; None if no request waits."""
        self._skip_ended()
        return self._slices[0].request.arrived_s + self.batch_timeout_s if self._slices else None

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
                self._end(request, Outcome.FAILED, detail)
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
        return self._fail(_requests(_open(batch)), detail)

    def lose(self, batch: Batch, detail: str) -> list[QueuedRequest]:
        """Return the batch of a replica that died to the front of the queue. Return the requests that fail.

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
        return self._fail(failed, f"{MAX_LOSSES} model servers died while they had it; the last: {detail}")

    def requeue(self, batch: Batch) -> None:
        """Return a batch that no replica has started to the front of the queue."""
        self._put_back(_open(batch))

    def _fail(self, requests: list[QueuedRequest], detail: str) -> list[QueuedRequest]:
        for request in requests:
            self._end(request, Outcome.FAILED, detail)
        return requests

    def _put_back(self, slices: Sequence[Slice]) -> None:
        self._slices.extendleft(reversed(slices))
        for piece in slices:
            self._now_waiting(piece.request, piece.items)

    def _now_waiting(self, request: QueuedRequest, items: int) -> None:
        request.waiting += items
        self.waiting_items += items
        heapq.heappush(self._deadlines, (request.deadline_s, next(self._order), request))

    def _end(self, request: QueuedRequest, outcome: Outcome, detail: str) -> None:
        self.waiting_items -= request.waiting
        request.waiting = 0
        request.end(outcome, detail)

    def _join(self, request: QueuedRequest) -> None:
        parts = [request.parts[start][1] for start in sorted(request.parts)]
        try:
            request.answer = merge(parts)
        except ValueError as error:
            self._end(request, Outcome.FAILED, str(error))
        else:
            self._end(request, Outcome.ANSWERED, "")

    def _skip_ended(self) -> None:
        while self._slices and self._slices[0].request.outcome is not None:
            self._slices.popleft()
        for heap in (self._deadlines, self._in_flight):
            while heap and heap[0][2].outcome is not None:
                heapq.heappop(heap)

    def _is_due(self, now_s: float) -> bool:
        head = self._slices[0]
        if now_s >= head.request.arrived_s + self.batch_timeout_s:
            return True
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


def _open(batch: Batch) -> list[Slice]:
    """The slices whose requests have not ended."""
    return [piece for piece in batch.slices if piece.request.outcome is None]


def _requests(slices: Iterable[Slice]) -> list[QueuedRequest]:
    return list({id(piece.request): piece.request for piece in slices}.values())
