"""A stage's queue on an event loop: its configuration, and `batching` between callers and replicas."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import ceil, inf, sqrt
from typing import Any
from urllib.parse import urlsplit

from ipa.dataplane.batching import Batch, Batcher, LossCause, Outcome, QueuedRequest
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.expectation import UNKNOWN, StageTimes
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.replicas import ModelServer, ModelServers
from ipa.dataplane.tensors import (
    INLINE_BYTES,
    INLINE_VALUES,
    NOTHING,
    Tensors,
    parse_answer,
    parse_object,
)
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
# The level of larger batches of the variants that are to run, if the queue has one.
LARGER = 1
# The most that is quoted of a model server's error.
QUOTED_BYTES = 300
MAX_BATCH_SIZE = 1024
MAX_REPLICAS = 1024
# Longer than requests wait that have no time budget of their own.
MAX_BATCH_TIMEOUT_S = 30.0
# By URL: the variant that a replica runs, and others.
Variants = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The settings that can change while the queue runs.

    `replicas`: by URL, the variant that each runs, then the lighter ones that it can run instead. `heavier`:
    the more accurate ones that it can run, the next one first. `largest_batch_size`: the most items of a
    batch if batches of `batch_size` cannot carry the arrivals. `profiled_s`: by variant, the profiled seconds
    for the first item of a batch and for each further one.
    """

    batch_size: int = 1
    largest_batch_size: int = 1
    batch_timeout_s: float = 0.1
    replicas: Variants = field(default_factory=dict)
    profiled_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    heavier: Variants = field(default_factory=dict)

    @property
    def running(self) -> dict[str, str]:
        """The variant that each replica runs, by URL; empty if it is unknown."""
        return {url: variants[0] for url, variants in self.replicas.items()}

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON, which `parse_config` accepts."""
        replicas = [
            {"url": url, "variant": first, "lighter": lighter, "heavier": [*self.heavier.get(url, ())]}
            for url, (first, *lighter) in self.replicas.items()
        ]
        given = {key: getattr(self, key) for key in KEYS}
        times = {variant: [*pair] for variant, pair in self.profiled_s.items()}
        return {**given, "replicas": replicas, "profiled_s": times}


FIRST_CONFIG = QueueConfig()
KEYS = tuple(each.name for each in fields(QueueConfig) if each.name != "heavier")


def parse_config(given: Any, before: QueueConfig = FIRST_CONFIG) -> QueueConfig:
    """Return the configuration `before` with the changes of a JSON object.

    InputError lists all faults.
    """
    if not isinstance(given, dict):
        raise InputError("the configuration must be a JSON object")
    wrong = [f"unknown key {key!r}" for key in given.keys() - {*KEYS}]
    changes = {key: value for key, value in given.items() if value is not None}
    for key in ("batch_size", "largest_batch_size"):
        if not (type(size := changes.get(key, 1)) is int and 1 <= size <= MAX_BATCH_SIZE):
            wrong.append(f"{key} must be a whole number from 1 to {MAX_BATCH_SIZE}")
    if not _is_between(changes.get("batch_timeout_s", 0), 0, MAX_BATCH_TIMEOUT_S):
        wrong.append(f"batch_timeout_s must be a number from 0 to {MAX_BATCH_TIMEOUT_S:g}")
    if "profiled_s" in changes:
        try:
            times = {name: (first, more) for name, (first, more) in changes["profiled_s"].items()}
            is_valid = all(_is_between(it, 0, sys.float_info.max) for pair in times.values() for it in pair)
        except (AttributeError, TypeError, ValueError):
            times, is_valid = {}, False
        if not is_valid or not all(first for first, _ in times.values()):
            wrong.append("profiled_s must be [first, next] by variant, in seconds")
        changes["profiled_s"] = times
    if "replicas" in changes:
        try:
            changes["replicas"], changes["heavier"] = _parse_replicas(changes["replicas"])
        except (AttributeError, TypeError, ValueError):
            example = "addresses like http://127.0.0.1:9000"
            wrong.append(f"replicas must be a list of at most {MAX_REPLICAS} {example}")
    if wrong:
        raise InputError("; ".join(wrong))
    return replace(before, **changes)


def parse_parts(text: str) -> dict[str, QueueConfig]:
    """Return the configurations of a JSON object by part; InputError: it has another form."""
    return {part: parse_config(given) for part, given in parse_object(text.encode(), "it").items()}


def _is_between(given: Any, least: float, most: float) -> bool:
    return type(given) in (int, float) and least <= given <= most


def _parse_replicas(given: Any) -> tuple[Variants, Variants]:
    """The variants by URL, and the heavier ones if any; TypeError, ValueError: not a list of replicas."""
    if not isinstance(given, list) or len(given) > MAX_REPLICAS:
        raise TypeError
    replicas: dict[str, tuple[str, ...]] = {}
    heavier: dict[str, tuple[str, ...]] = {}
    for each in given:
        entry = {"url": each} if isinstance(each, str) else each
        known = {"url": "", "variant": "", "lighter": [], "heavier": [], **entry}
        url, variant, lighter, more = known.values()
        parts = urlsplit(url)
        is_address = parts.scheme == "http" and parts.hostname and parts.port != 0
        is_valid = len(known) == 4 and isinstance(lighter, list) and isinstance(more, list)
        names = (variant, *lighter, *more)
        if not (is_valid and is_address and not parts.path + parts.query) or {*map(type, names)} != {str}:
            raise ValueError(url)
        replicas[url] = (variant, *lighter)
        if more:
            heavier[url] = tuple(more)
    return replicas, heavier


class StageQueue:
    """A stage's queue: it accepts requests, sends batches to replicas, and ends each request exactly once.

    A request ends by its deadline, whatever the replicas do. If more arrives than they carry, batches grow;
    if a request would be late, replicas also run lighter variants, as light as needed, until at most one
    batch waits. While every request is served well within its time, they run heavier ones. `config` are the
    fields of the first `QueueConfig`.
    """

    def __init__(
        self, send: Sender, metrics: QueueMetrics, *, stage: str = "", max_items: int = 4096, **config: Any
    ) -> None:
        self._send = send
        self._metrics = metrics
        self._stage = stage
        self._max_items = max_items
        self.config = QueueConfig(**config)
        self._batcher = Batcher(self.config.batch_size, self.config.batch_timeout_s, max_items)
        # By level, since the last batch: the largest that is quick.
        self._quick_sizes: dict[int, int] = {}
        self.replicas = ModelServers(self._by_level(), self.config.profiled_s, self.config.heavier)
        # 0: the variants that are to run; above, larger batches of them, then lighter ones; below, heavier.
        self._level = 0
        # A heavier variant failed or was late: none is tried until then.
        self._lighter_until_s = -inf
        # Time and items of the arrivals of the last ARRIVED_S.
        self._arrived: deque[tuple[float, int]] = deque()
        # The requests that come to the pipeline for each that comes here, and until when it is to carry all.
        self._offered_ratio, self._pressed_until_s = 1.0, -inf
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
        aim_s: float = inf,
    ) -> QueuedRequest:
        """Serve a request. Return it answered, dropped or failed. InputError: it is too large to queue.

        `ahead` are the times of the later stages. The request is dropped after `budget_s`; to answer it
        within `aim_s` lighter variants may serve it. Both are reduced by the later stages' least time.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        in_time_s = now_s - ahead.wait_s - (ahead.usual_s - ahead.least_s)
        request = QueuedRequest(
            inputs, now_s, now_s + budget_s, members, in_time_s + budget_s, in_time_s + aim_s
        )
        self._slack_s, self._later_wait_s = request.wanted_s - now_s, ahead.wait_s
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
            detail = f"it would be {missing_s:.3g} s late: too many requests wait"
            request.end(Outcome.DROPPED, LossCause.OVERLOAD, detail)
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

    def set_arrivals_ratio(self, ratio: float) -> None:
        """Set how many requests arrive at the pipeline for each that arrives here, while some are lost."""
        self._offered_ratio = ratio
        if ratio > 1:
            self._pressed_until_s = asyncio.get_running_loop().time() + PRESSED_S

    def expected(self, items: int = 1) -> StageTimes:
        """The times of a request of this many items that arrives now and is served last.

        They are those at the quickest level, which is chosen if the request would otherwise be late.
        """
        now_s, waiting = asyncio.get_running_loop().time(), self._batcher.waiting_items
        times = [
            (self._begin_s(now_s, waiting, level) - now_s, self._serve_s(now_s, items, waiting, level))
            for level in self._levels(self._level)
        ]
        return StageTimes(*min(times, key=sum), self.replicas.least_s(now_s))

    def _admit(self, request: QueuedRequest, now_s: float, ahead: StageTimes) -> float:
        """The seconds by which the request would be late if it were queued, at the level that suits it best.

        0 if no other request competes for its place, here or at later stages: then trying costs nothing. If a
        lighter level is needed, the queue changes to it.
        """
        waiting = self._batcher.waiting_items
        if waiting < self._batcher.batch_size and ahead.wait_s <= 0:
            return 0.0
        before = self._batcher.items_before(request.deadline_s)

        def end_s(level: int) -> float:
            return self._begin_s(now_s, before, level) + self._serve_s(now_s, request.items, waiting, level)

        return max(0.0, self._lighten(end_s, request.wanted_s) - request.due_s)

    def _lighten(self, end_s: Callable[[int], float], wanted_s: float) -> float:
        """Choose the first level, from the current one on, that ends by `wanted_s`, else the earliest.

        Return the time at which it ends.
        """
        ends = [(end_s(level), level) for level in self._levels(self._level)]
        best_s, level = next((it for it in ends if it[0] <= wanted_s), min(ends))
        self._set_level(level)
        return best_s

    def _carrying_level(self, now_s: float) -> int:
        """The first level that carries the arrivals, or that is quick enough to be tried; else the last.

        A level that takes a good part of the requests' time would make requests late that arrive meanwhile.
        Larger batches cost no accuracy, so they need not be that quick.
        """
        *before, last = self._levels(0)
        for level in before:
            is_tried = (level > 0 or not self._has_larger) and not self._is_pressed(now_s)
            is_quick = self._full_s(now_s, level) <= QUICK_RATIO * self._slack_s
            if (is_tried and is_quick) or self._carries(now_s, level):
                return level
        return last

    def _heavier_level(self, now_s: float) -> int:
        """The level of the most accurate variant that leaves a good part of the requests' time.

        It carries the arrivals of the last second, and serves waiting requests quickly. 0 if there is none,
        and while requests wait at later stages: time that is spent here would cost accuracy there.
        """
        if self._later_wait_s or now_s < max(self._pressed_until_s, self._lighter_until_s):
            return 0
        waiting = max(1, self._batcher.waiting_items)
        batches = ceil(waiting / (self.config.batch_size * len(self.replicas)))
        came = self._came(now_s, ARRIVED_S)
        for level in range(-self.replicas.heavier_levels, 0):
            is_quick = 0 < batches * self._next_s(now_s, level) <= QUICK_RATIO * self._slack_s
            if is_quick and came <= self._carried(now_s, level, ARRIVED_S):
                return level
        return 0

    def _carries(self, now_s: float, level: int) -> bool:
        """True if the replicas carry the recent arrivals at that level, up to two standard deviations.

        While requests are lost, they must also carry all arrivals of the last second.
        """
        lately_s = min(ARRIVED_S, max(CARRIED_S, self._full_s(now_s, level)))
        if self._is_pressed(now_s) and self._came(now_s, ARRIVED_S) > self._carried(now_s, level, ARRIVED_S):
            return False
        carried = self._carried(now_s, level, lately_s)
        return self._came(now_s, lately_s) <= carried + 2 * sqrt(carried)

    def _came(self, now_s: float, over_s: float) -> float:
        """The items that arrived in that time, with those of requests that were lost on the way."""
        return self._offered_ratio * sum(items for at_s, items in self._arrived if at_s > now_s - over_s)

    def _carried(self, now_s: float, level: int, over_s: float) -> float:
        """The items that the replicas can serve in that time at that level; infinite if it is unknown."""
        usual_s = self._full_s(now_s, level)
        return inf if usual_s <= 0 else self._size(level) * len(self.replicas) / usual_s * over_s

    def _is_pressed(self, now_s: float) -> bool:
        """True if requests were lost lately, here or at earlier stages."""
        return now_s < self._pressed_until_s

    def _by_level(self) -> Variants:
        """The variants of each replica by level: the first one twice if its batches may grow."""
        twice = 1 if self._may_grow else 0
        return {url: names[:twice] + names for url, names in self.config.replicas.items()}

    def _levels(self, first: int) -> list[int]:
        """The levels from `first` on; the level of larger batches only if batches may grow now."""
        is_there = self._has_larger or not self._may_grow
        return [it for it in range(first, self.replicas.levels) if it != LARGER or is_there or it == first]

    def _set_level(self, level: int) -> None:
        self._level = level
        self._batcher.batch_size = self._size(level)

    @property
    def _may_grow(self) -> bool:
        """True if the pipeline file allows larger batches, which then have a level of their own."""
        return self.config.largest_batch_size > self.config.batch_size

    @property
    def _has_larger(self) -> bool:
        """True if larger batches are quick enough now."""
        return self._may_grow and self._size(LARGER) > self.config.batch_size

    def _size(self, level: int) -> int:
        """The most items of a batch at that level."""
        if level <= 0 or not self._may_grow:
            return self.config.batch_size
        if level not in self._quick_sizes:
            self._quick_sizes[level] = self._quick_size(asyncio.get_running_loop().time(), level)
        return self._quick_sizes[level]

    def _quick_size(self, now_s: float, level: int) -> int:
        """The largest batch of the level's variant that is quick enough, and may save time.

        For a lighter variant that was never measured the largest of all: it may have to carry everything.
        """
        planned, size = self.config.batch_size, self.config.largest_batch_size
        most_s = (TRIED_RATIO if self._is_pressed(now_s) else QUICK_RATIO) * self._slack_s
        if level != LARGER and self.replicas.usual_s(now_s, 1, level) <= 0:
            return size
        while size > planned and not 0 < self.replicas.usual_s(now_s, size, level) <= most_s:
            size //= 2
        return size if size > planned and self.replicas.saves(now_s, planned, size, level) else planned

    def _full_s(self, now_s: float, level: int) -> float:
        """The service time of a full batch at that level."""
        return self.replicas.usual_s(now_s, self._size(level), level)

    def _serve_s(self, now_s: float, items: int, before: int, level: int) -> float:
        """The service time of a request of this many items, in batches with the items that wait before it."""
        size = self._size(level)
        usual_s = self.replicas.usual_s(now_s, min(size, before + items), level)
        return usual_s * ceil(items / (size * max(1, len(self.replicas))))

    def _begin_s(self, now_s: float, before: int, level: int) -> float:
        """The time at which a batch takes an item with this many before it; `now_s` if they fill no batch."""
        size = self._size(level)
        return self.replicas.begin_s(now_s, before // size, size, level) if before >= size else now_s

    def _next_s(self, now_s: float, level: int) -> float:
        """The service time of the next batch at that level."""
        items = min(self._size(level), max(1, self._batcher.waiting_items))
        return self.replicas.usual_s(now_s, items, level)

    def configure(self, config: QueueConfig) -> None:
        """Apply this configuration."""
        self.config = config
        self._batcher.batch_timeout_s = config.batch_timeout_s
        self.replicas.set_profile(config.profiled_s)
        self.replicas.set_urls(self._by_level(), config.heavier)
        self._quick_sizes.clear()
        self._set_level(max(0, min(self._level, self.replicas.levels - 1)))
        self._pump()

    def to_json(self) -> dict[str, Any]:
        """The configuration, the number of waiting items, and the replicas that drain or seem to hang."""
        report = self.replicas.to_json(asyncio.get_running_loop().time())
        return {**self.config.to_json(), "waiting_items": self._batcher.waiting_items, **report}

    def _pump(self) -> None:
        """Drop late requests, send batches that are due, and set the timer for the next of either."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        least_s = self.replicas.least_s(now_s)
        self._end(self._batcher.drop_late(now_s, least_s, has_replicas=bool(self.replicas)))
        while self.replicas.idle(now_s):
            self._choose_level(now_s)
            self._end(self._batcher.give_way(now_s, self._next_s(now_s, self._level)))
            if (batch := self._batcher.take(now_s)) is None:
                break
            replica = self.replicas.acquire(now_s, batch.items, self._level)
            task = loop.create_task(self._serve(replica, batch))
            self._batches[task] = batch
            task.add_done_callback(self._batches.pop)
        self._metrics.length.set(self._batcher.waiting_items)
        self._set_timer(loop, now_s, least_s)

    def _choose_level(self, now_s: float) -> None:
        """Set the level of the next batch."""
        if self._level < 0:
            self._set_level(0)
        if self.replicas.levels > 1:
            if self._batcher.waiting_items <= self.config.batch_size:
                self._set_level(self._carrying_level(now_s))
            elif self._is_pressed(now_s) and not self._carries(now_s, self._level):
                self._set_level(max(self._level, self._carrying_level(now_s)))
            elif self._level == 0 and self._has_larger and not self._carries(now_s, 0):
                self._set_level(LARGER)
            self._lighten(lambda level: now_s + self._next_s(now_s, level), self._batcher.next_wanted_s())
        if self._level == 0 and self.replicas.heavier_levels:
            self._set_level(self._heavier_level(now_s))

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now_s: float, service_s: float) -> None:
        next_batch_s = self._batcher.next_batch_s()
        if next_batch_s is not None and not self.replicas.idle(now_s):
            next_batch_s = self.replicas.next_up_s(now_s)
        moments = (next_batch_s, self._batcher.next_drop_s(service_s))
        due_s = min((moment for moment in moments if moment is not None), default=inf)
        # An earlier timer is left: to pump once more is cheaper than a new timer with each request.
        if self._timer and self._timer_s > due_s:
            self._timer.cancel()
            self._timer = None
        if not self._timer and due_s < inf:
            # Stored here, since a timer of uvloop that is due at once does not know its time.
            self._timer, self._timer_s = loop.call_at(due_s, self._wake), due_s

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    async def _serve(self, replica: ModelServer, batch: Batch) -> None:
        """Send the batch to the replica, which gets no other until it answers, whoever still waits."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        where = f"stage {self._stage!r}, {replica.label}"
        try:
            sent = await aside(batch.values > INLINE_VALUES, batch.body)
            status, body = await self._send(replica.url, sent)
        except ConnectionLostError as error:
            self.replicas.lost(replica, loop.time())
            self._metrics.retries.inc()
            if error.was_sent:
                self._end(self._batcher.lose(batch, f"{where}: {error}"))
            else:
                self._batcher.requeue(batch)
        except OversizedAnswerError as error:
            self.replicas.release(replica, loop.time(), loop.time() - began_s)
            self._end(self._batcher.fail(batch, f"{where}: {error}"))
        except Exception as error:  # no fault of one batch may stop the queue
            log.exception("%s: a batch could not be sent", where)
            self.replicas.lost(replica, loop.time())
            self._end(self._batcher.fail(batch, f"{where}: the batch could not be sent: {error}"))
        else:
            if status == UNAVAILABLE:
                self.replicas.lost(replica, loop.time())
                self._batcher.requeue(batch)
                self._metrics.retries.inc()
            else:
                self._note_answer(replica, batch, status, loop.time(), loop.time() - began_s)
                self._end(await self._answered(replica, batch, where, status, body))
        self._pump()

    def _note_answer(
        self, replica: ModelServer, batch: Batch, status: int, now_s: float, service_s: float
    ) -> None:
        """Update level and service times from the time of a batch."""
        self.replicas.release(replica, now_s, service_s)
        self._quick_sizes.clear()
        if replica.given_level <= 0:
            # The causes that slow a heavier variant also slow the planned one.
            self._metrics.service_s.observe(service_s / replica.given_ratio)
            self._metrics.batch_size.observe(batch.items)
        is_late = any(now_s > piece.request.wanted_s for piece in batch.slices)
        if replica.given_level < 0 and (is_late or status != 200):
            self._lighter_until_s = now_s + PRESSED_S

    async def _answered(
        self, replica: ModelServer, batch: Batch, where: str, status: int, body: bytes
    ) -> list[QueuedRequest]:
        """The requests that end with the model's answer."""
        if status != 200:
            quoted = body[:QUOTED_BYTES].decode(errors="replace")
            return self._batcher.fail(batch, f"{where}: the model answered {status}: {quoted}")
        # A replica may be given the next batch meanwhile.
        variant = replica.given_variant
        try:
            outputs = await aside(len(body) > INLINE_BYTES, parse_answer, body)
        except InputError as error:
            return self._batcher.fail(batch, f"{where}: the model's answer is not a V2 response: {error}")
        if variant:
            self._metrics.variant_items(variant).inc(batch.items)
        return self._batcher.answer(batch, outputs, f"{where}: ")

    def _end(self, requests: list[QueuedRequest]) -> None:
        for request in requests:
            ended = self._futures.pop(request)
            # The future is cancelled if its caller disconnected.
            if not ended.done():
                ended.set_result(None)

    async def close(self) -> None:
        """Wait for the batches whose requests still wait, and cancel the others."""
        if self._timer:
            self._timer.cancel()
        awaited = [task for task, batch in self._batches.items() if batch.open_slices]
        if awaited:
            await asyncio.wait(awaited, timeout=CLOSE_S)
        left = list(self._batches)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
