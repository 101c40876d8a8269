"""The queue of a stage: the rules of `batching` on an event loop, with the replicas behind a sender."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from math import ceil, inf, sqrt
from typing import Any

from ipa.dataplane.batching import Batch, Batcher, LossCause, Outcome, QueuedRequest
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.expectation import UNKNOWN, StageTimes
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.queue_config import QueueConfig
from ipa.dataplane.replicas import ModelServer, ModelServers
from ipa.dataplane.tensors import INLINE_BYTES, INLINE_VALUES, NOTHING, Tensors, parse_answer
from ipa.model.errors import InputError
from ipa.serving.body_budget import aside

log = logging.getLogger("ipa.dataplane")

# (replica's URL, body) -> (status, body); ConnectionLostError if the replica is gone.
Sender = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]

# The answer of an MLServer that is stopping or still loading; handled like a lost connection.
UNAVAILABLE = 503
# When the queue stops, batches with waiting requests have this long; the server has drained before.
CLOSE_S = 1.0
# Arrivals are remembered for this long.
ARRIVED_S = 1.0
# A batch is quick if it takes at most this part of the time that requests have.
QUICK_RATIO = 1 / 3
# While requests are lost, larger batches that would take up to this part are tried: they may take less.
TRIED_RATIO = 2 / 3
# Whether a level carries what arrives is judged over this long at least: over less, chance decides.
CARRIED_S = 0.2
# After requests were lost, no level that does not carry what arrives is tried for this long.
PRESSED_S = 5.0
# The level of larger batches of the variants that are to run, where the queue has one.
LARGER = 1
# The most that is quoted of a model server's error.
SAID_BYTES = 300


class StageQueue:
    """A stage's queue: it accepts requests, sends batches to replicas, and ends each request exactly once.

    A request ends by its deadline, whatever the replicas do. Where more arrives than they carry, batches
    grow; where a request would be late, replicas also run their lighter variants, as light as is needed,
    until no more than a batch waits. While all that comes is served in a good time, they run heavier ones.
    `replicas` and `heavier` as in `QueueConfig`.
    """

    def __init__(
        self,
        send: Sender,
        metrics: QueueMetrics,
        *,
        stage: str = "",
        batch_size: int = 1,
        largest_batch_size: int = 1,
        batch_timeout_s: float = 0.1,
        replicas: Mapping[str, tuple[str, ...]] = NOTHING,
        profiled_s: Mapping[str, tuple[float, float]] = NOTHING,
        heavier: Mapping[str, tuple[str, ...]] = NOTHING,
        max_items: int = 4096,
    ) -> None:
        self._send = send
        self._metrics = metrics
        self._stage = stage
        self._max_items = max_items
        self._batcher = Batcher(batch_size, batch_timeout_s, max_items)
        self._batch_size, self._largest_batch_size = batch_size, largest_batch_size
        # By level, since the last batch: the largest that is quick.
        self._quick_sizes: dict[int, int] = {}
        self._variants, self._heavier = replicas, heavier
        self._replicas = ModelServers(self._by_level(), profiled_s, heavier)
        # 0: the variants that are to run; above, larger batches of them, then lighter ones; below, heavier.
        self._level = 0
        # A heavier variant failed or was late: none is tried until then.
        self._lighter_until_s = -inf
        # Time and items of the arrivals of the last ARRIVED_S.
        self._arrived: deque[tuple[float, int]] = deque()
        # The requests that come to the pipeline for each that comes here, and until when it is to carry all.
        self._asked_ratio, self._pressed_until_s = 1.0, -inf
        # The time that the last request had, and that it was to wait at later stages.
        self._slack_s = self._later_wait_s = 0.0
        self._futures: dict[QueuedRequest, asyncio.Future[None]] = {}
        self._batches: dict[asyncio.Task[None], Batch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    async def infer(
        self,
        inputs: Tensors,
        budget_s: float,
        members: Mapping[str, Any] = NOTHING,
        ahead: StageTimes = UNKNOWN,
        aim_s: float | None = None,
    ) -> QueuedRequest:
        """Serve a request. Return it answered, dropped or failed. InputError: it is too large to queue.

        `ahead` are the times of the later stages; `budget_s` leaves them their least, as does `aim_s`: the
        time within which it is to be answered, by lighter variants if need be (None: the budget).
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        later_s = ahead.wait_s + (ahead.usual_s - ahead.least_s)
        due_s = now_s + budget_s - later_s
        wanted_s = due_s if aim_s is None else min(due_s, now_s + aim_s - later_s)
        request = QueuedRequest(inputs, now_s, now_s + budget_s, members, due_s, wanted_s)
        self._slack_s, self._later_wait_s = wanted_s - now_s, ahead.wait_s
        if request.items > max(1, self._max_items):
            raise InputError(
                f"the request has {request.items} items, more than the {self._max_items} that may wait",
                hint="Send it in several requests.",
            )
        self._metrics.arrivals.inc(request.items)
        self._arrived.append((now_s, request.items))
        while self._arrived[0][0] < now_s - ARRIVED_S:
            self._arrived.popleft()
        if not request.items:
            request.end(Outcome.ANSWERED)
        elif (missing_s := self._admit(request, now_s, ahead)) > 0:
            words = f"it would be {missing_s:.3g} s late: too many requests wait"
            request.end(Outcome.DROPPED, LossCause.OVERLOAD, words)
            request.retry_after_s = missing_s
        elif self._batcher.offer(request):
            self._futures[request] = ended = loop.create_future()
            self._pump()
            # A caller that disconnects does not stop its request: it may be part of a batch.
            await ended
        else:
            request.end(Outcome.DROPPED, LossCause.QUEUE_FULL, "the queue is full")
        self._metrics.items[request.outcome or Outcome.FAILED].inc(request.items)
        if request.cause:
            self._metrics.losses[request.cause].inc(request.items)
        if request.outcome is Outcome.ANSWERED:
            self._metrics.stage_s.observe(loop.time() - now_s)
        return request

    def asked(self, ratio: float) -> None:
        """Note that so many requests come to the pipeline for each that comes here, while some are lost."""
        self._asked_ratio = ratio
        if ratio > 1:
            self._pressed_until_s = asyncio.get_running_loop().time() + PRESSED_S

    def expected(self, items: int = 1) -> StageTimes:
        """The times of a request of this many items that would come now and be the last to be served.

        Those of the level that would answer it first: that level is chosen if it would else be late.
        """
        now_s = asyncio.get_running_loop().time()
        times = []
        waiting = self._batcher.waiting_items
        for level in self._levels(self._level):
            usual_s = self._serve_s(now_s, items, waiting, level)
            times.append((self._begin_s(now_s, waiting, level) - now_s, usual_s))
        return StageTimes(*min(times, key=sum), self._replicas.least_s(now_s))

    def _admit(self, request: QueuedRequest, now_s: float, ahead: StageTimes) -> float:
        """The seconds by which the request would be late if it were queued, at the level that suits it best.

        0 if it competes with no other for a place, here or later: then nothing is lost in trying. If a
        lighter level is needed, that is the queue's from now on.
        """
        if not (self._batcher.has_full_batch or ahead.wait_s > 0):
            return 0.0
        before = self._batcher.items_before(request.deadline_s)

        def end_s(level: int) -> float:
            serve_s = self._serve_s(now_s, request.items, self._batcher.waiting_items, level)
            return self._begin_s(now_s, before, level) + serve_s

        return max(0.0, self._lighten(end_s, request.wanted_s) - request.due_s)

    def _lighten(self, end_s: Callable[[int], float], wanted_s: float) -> float:
        """Take the first level from the current one on that ends by `wanted_s`, else the one that ends first.

        Return when it ends.
        """
        ends = [(end_s(level), level) for level in self._levels(self._level)]
        best_s, level = next((it for it in ends if it[0] <= wanted_s), min(ends))
        self._set_level(level)
        return best_s

    def _carrying_level(self, now_s: float) -> int:
        """The first level that carries what arrives, or that is quick enough to be tried; else the last.

        What takes a good part of the time that requests have would make those late that come meanwhile.
        Larger batches cost no accuracy: they do not wait for that.
        """
        *before, last = self._levels(0)
        for level in before:
            is_tried = (level > 0 or not self._has_larger) and not self._is_pressed(now_s)
            is_quick = self._full_s(now_s, level) <= QUICK_RATIO * self._slack_s
            if (is_tried and is_quick) or self._carries(now_s, level):
                return level
        return last

    def _heavier_level(self, now_s: float) -> int:
        """The level of the most accurate variant that leaves a good part of the time that requests have.

        It carries what arrived in the last second, and what waits is served quickly. 0 without one, and
        while requests wait at later stages: time that is spent here would cost accuracy there.
        """
        if self._later_wait_s or now_s < max(self._pressed_until_s, self._lighter_until_s):
            return 0
        waiting = max(1, self._batcher.waiting_items)
        batches = ceil(waiting / (self._batch_size * len(self._replicas)))
        came = self._came(now_s, ARRIVED_S)
        for level in range(-self._replicas.heavier_levels, 0):
            is_quick = 0 < batches * self._next_s(now_s, level) <= QUICK_RATIO * self._slack_s
            if is_quick and came <= self._carried(now_s, level, ARRIVED_S):
                return level
        return 0

    def _carries(self, now_s: float, level: int) -> bool:
        """True if the replicas carry at that level what arrived lately, up to two deviations of chance.

        While requests are lost, also all that came in the last second, whatever the chance.
        """
        lately_s = min(ARRIVED_S, max(CARRIED_S, self._full_s(now_s, level)))
        if self._is_pressed(now_s) and self._came(now_s, ARRIVED_S) > self._carried(now_s, level, ARRIVED_S):
            return False
        carried = self._carried(now_s, level, lately_s)
        return self._came(now_s, lately_s) <= carried + 2 * sqrt(carried)

    def _came(self, now_s: float, over_s: float) -> float:
        """The items that came over that time, with those of requests that were lost on the way."""
        came = sum(items for at_s, items in self._arrived if at_s > now_s - over_s)
        return came * self._asked_ratio

    def _carried(self, now_s: float, level: int, over_s: float) -> float:
        """The items that the replicas carry over that time at that level; infinite if it is unknown."""
        usual_s = self._full_s(now_s, level)
        return inf if usual_s <= 0 else self._size(level) * len(self._replicas) / usual_s * over_s

    def _is_pressed(self, now_s: float) -> bool:
        """True if requests were lost lately, here or before: a level that does not carry all is not tried."""
        return now_s < self._pressed_until_s

    def _by_level(self) -> dict[str, tuple[str, ...]]:
        """The variants of each replica by level: the first twice, if its batches may grow."""
        twice = 1 if self._may_grow else 0
        return {url: names[:twice] + names for url, names in self._variants.items()}

    def _levels(self, first: int) -> list[int]:
        """The levels from that one on; that of larger batches only if they may grow now."""
        is_there = self._has_larger or not self._may_grow
        return [it for it in range(first, self._replicas.levels) if it != LARGER or is_there or it == first]

    def _set_level(self, level: int) -> None:
        self._level = level
        self._batcher.batch_size = self._size(level)

    @property
    def _may_grow(self) -> bool:
        """True if the file allows larger batches: then there is a level of them."""
        return self._largest_batch_size > self._batch_size

    @property
    def _has_larger(self) -> bool:
        """True if larger batches are quick now."""
        return self._may_grow and self._size(LARGER) > self._batch_size

    def _size(self, level: int) -> int:
        """The most items of a batch at that level."""
        if level <= 0 or not self._may_grow:
            return self._batch_size
        if level not in self._quick_sizes:
            self._quick_sizes[level] = self._quick_size(asyncio.get_running_loop().time(), level)
        return self._quick_sizes[level]

    def _quick_size(self, now_s: float, level: int) -> int:
        """The largest batch of the level's variant that is quick, and may save time.

        Of a lighter variant of which nothing is known the largest of all: it may have to carry everything.
        """
        size = self._largest_batch_size
        most_s = (TRIED_RATIO if self._is_pressed(now_s) else QUICK_RATIO) * self._slack_s
        if level != LARGER and self._replicas.usual_s(now_s, 1, level) <= 0:
            return size
        while size > self._batch_size:
            if 0 < self._replicas.usual_s(now_s, size, level) <= most_s:
                is_saving = self._replicas.saves(now_s, self._batch_size, size, level)
                return size if is_saving else self._batch_size
            size //= 2
        return self._batch_size

    def _full_s(self, now_s: float, level: int) -> float:
        """The service time of a full batch at that level."""
        return self._replicas.usual_s(now_s, self._size(level), level)

    def _serve_s(self, now_s: float, items: int, before: int, level: int) -> float:
        """The service time of a request of so many items, in batches with those that wait before it."""
        size = self._size(level)
        usual_s = self._replicas.usual_s(now_s, min(size, before + items), level)
        return usual_s * ceil(items / (size * max(1, len(self._replicas))))

    def _begin_s(self, now_s: float, before: int, level: int) -> float:
        """The time at which a batch takes an item with that many before it; `now_s` if they fill no batch."""
        batches = before // self._size(level)
        if not batches:
            return now_s
        return self._replicas.begin_s(now_s, batches, self._size(level), level)

    def _next_s(self, now_s: float, level: int) -> float:
        """The service time of the next batch at that level."""
        items = min(self._size(level), max(1, self._batcher.waiting_items))
        return self._replicas.usual_s(now_s, items, level)

    def configure(self, config: QueueConfig) -> None:
        """Apply this configuration."""
        if config.batch_size is not None:
            self._batch_size = config.batch_size
        if config.largest_batch_size is not None:
            self._largest_batch_size = config.largest_batch_size
        if config.batch_timeout_s is not None:
            self._batcher.batch_timeout_s = config.batch_timeout_s
        if config.replicas is not None:
            self._variants, self._heavier = config.replicas, config.heavier or {}
        if config.profiled_s is not None:
            self._replicas.set_profile(config.profiled_s)
        self._replicas.set_urls(self._by_level(), self._heavier)
        self._quick_sizes.clear()
        self._set_level(max(0, min(self._level, self._replicas.levels - 1)))
        self._pump()

    @property
    def has_replicas(self) -> bool:
        """True if there is a replica to give a batch."""
        return not self._replicas.is_empty

    def running(self) -> dict[str, str]:
        """The variant that each replica runs, by URL; empty for one that is not known."""
        return {url: variants[0] for url, variants in self._variants.items()}

    def given_variant(self, url: str) -> str:
        """The variant that the replica's last batch is for; empty if it is not known."""
        return self._replicas.given_variant(url)

    def suspects(self, now_s: float) -> list[str]:
        """The URLs of the replicas that are suspected to hang. Of any thread."""
        return self._replicas.suspects(now_s)

    def to_json(self) -> dict[str, Any]:
        """The configuration, the number of waiting items, and the replicas that drain or seem to hang."""
        sizes, times = (self._batch_size, self._largest_batch_size), self._replicas.profiled_s
        config = QueueConfig(*sizes, self._batcher.batch_timeout_s, self._variants, times, self._heavier)
        return {
            **config.to_json(),
            "waiting_items": self._batcher.waiting_items,
            **self._replicas.to_json(asyncio.get_running_loop().time()),
        }

    def _pump(self) -> None:
        """Drop late requests, send batches that are due, and set the timer for the next of either."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        least_s = self._replicas.least_s(now_s)
        self._end(self._batcher.drop_late(now_s, least_s, has_replicas=self.has_replicas))
        while self._replicas.has_idle(now_s):
            if self._level < 0:
                self._set_level(0)
            if self._replicas.levels > 1:
                if self._batcher.waiting_items <= self._batch_size:
                    self._set_level(self._carrying_level(now_s))
                elif self._is_pressed(now_s) and not self._carries(now_s, self._level):
                    self._set_level(max(self._level, self._carrying_level(now_s)))
                elif self._level == 0 and self._has_larger and not self._carries(now_s, 0):
                    self._set_level(LARGER)
                self._lighten(lambda level: now_s + self._next_s(now_s, level), self._batcher.next_wanted_s())
            if self._level == 0 and self._replicas.heavier_levels:
                self._set_level(self._heavier_level(now_s))
            self._end(self._batcher.give_way(now_s, self._next_s(now_s, self._level)))
            if (batch := self._batcher.take(now_s)) is None:
                break
            replica = self._replicas.acquire(now_s, batch.items, self._level)
            task = loop.create_task(self._serve(replica, batch))
            self._batches[task] = batch
            task.add_done_callback(self._batches.pop)
        self._metrics.length.set(self._batcher.waiting_items)
        self._set_timer(loop, now_s, least_s)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now_s: float, service_s: float) -> None:
        next_batch_s = self._batcher.next_batch_s()
        if next_batch_s is not None and not self._replicas.has_idle(now_s):
            next_batch_s = self._replicas.next_up_s(now_s)
        moments = [
            moment for moment in (next_batch_s, self._batcher.next_drop_s(service_s)) if moment is not None
        ]
        if not moments:
            return
        # An earlier timer is left: to pump once more is cheaper than a new timer with each request.
        due_s = min(moments)
        if self._timer and self._timer_s > due_s:
            self._timer.cancel()
            self._timer = None
        if not self._timer:
            # Not asked of the timer: one of uvloop's that is due at once does not know.
            self._timer, self._timer_s = loop.call_at(due_s, self._wake), due_s

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    async def _serve(self, replica: ModelServer, batch: Batch) -> None:
        """Send the batch to the replica, which gets no other until it answers, waited for or not."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        where = f"stage {self._stage!r}, {replica.label}"
        try:
            sent = await aside(batch.values > INLINE_VALUES, batch.body)
            status, body = await self._send(replica.url, sent)
        except ConnectionLostError as error:
            self._replicas.lost(replica, loop.time())
            self._metrics.retries.inc()
            if error.was_sent:
                self._end(self._batcher.lose(batch, f"{where}: {error}"))
            else:
                self._batcher.requeue(batch)
        except OversizedAnswerError as error:
            self._replicas.release(replica, loop.time(), loop.time() - began_s)
            self._end(self._batcher.fail(batch, f"{where}: {error}"))
        except Exception as error:  # no fault of one batch may stop the queue
            log.exception("%s: a batch could not be sent", where)
            self._replicas.lost(replica, loop.time())
            self._end(self._batcher.fail(batch, f"{where}: the batch could not be sent: {error}"))
        else:
            await self._settle(replica, batch, where, status, body, loop.time() - began_s)
        self._pump()

    async def _settle(
        self, replica: ModelServer, batch: Batch, where: str, status: int, body: bytes, service_s: float
    ) -> None:
        if status == UNAVAILABLE:
            self._replicas.lost(replica, asyncio.get_running_loop().time())
            self._batcher.requeue(batch)
            self._metrics.retries.inc()
            return
        now_s = asyncio.get_running_loop().time()
        self._replicas.release(replica, now_s, service_s)
        self._quick_sizes.clear()
        if replica.given_level <= 0:
            # What makes a heavier variant slower makes the one that is to run slower.
            self._metrics.service_s.observe(service_s / replica.given_ratio)
            self._metrics.batch_size.observe(batch.items)
        if replica.given_level < 0 and (
            status != 200 or any(now_s > piece.request.wanted_s for piece in batch.slices)
        ):
            self._lighter_until_s = now_s + PRESSED_S
        if status != 200:
            said = body[:SAID_BYTES].decode(errors="replace")
            self._end(self._batcher.fail(batch, f"{where}: the model answered {status}: {said}"))
            return
        try:
            outputs = await aside(len(body) > INLINE_BYTES, parse_answer, body)
        except InputError as error:
            self._end(self._batcher.fail(batch, f"{where}: the model's answer is not a V2 response: {error}"))
        else:
            if replica.given_variant:
                self._metrics.variant_items(replica.given_variant).inc(batch.items)
            self._end(self._batcher.answer(batch, outputs, f"{where}: "))

    def _end(self, requests: list[QueuedRequest]) -> None:
        for request in requests:
            ended = self._futures.pop(request)
            # Cancelled if its caller disconnected.
            if not ended.done():
                ended.set_result(None)

    async def close(self) -> None:
        """Wait for the batches that requests wait for, and cancel the others."""
        if self._timer:
            self._timer.cancel()
        awaited = [task for task, batch in self._batches.items() if not batch.is_abandoned]
        if awaited:
            await asyncio.wait(awaited, timeout=CLOSE_S)
        left = list(self._batches)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
