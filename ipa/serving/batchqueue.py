"""A stage's queue without I/O, tensors or clock: admission, and the variant and size of each batch.

The data plane runs it on an event loop (`dataplane.stagequeue`), the simulator in virtual time
(`simulate.choosing`). Times are seconds of any one monotonic clock, and are passed as arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from math import ceil, inf, sqrt
from typing import Any

from ipa.serving.batching import Batch, Batcher, LossCause, Outcome, QueuedRequest
from ipa.serving.expectation import StageTimes
from ipa.serving.replicas import ModelServer, ModelServers

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
        """The configuration as JSON, which `dataplane.stagequeue.parse_config` accepts."""
        replicas = [
            {"url": url, "variant": first, "lighter": lighter, "heavier": [*self.heavier.get(url, ())]}
            for url, (first, *lighter) in self.replicas.items()
        ]
        given = {key: getattr(self, key) for key in KEYS}
        times = {variant: [*pair] for variant, pair in self.profiled_s.items()}
        return {**given, "replicas": replicas, "profiled_s": times}


KEYS = tuple(each.name for each in fields(QueueConfig) if each.name != "heavier")


class BatchQueue:
    """A stage's waiting requests and replicas, and the level at which replicas serve the next batch.

    If more arrives than they carry, batches grow; if a request would be late, replicas also run lighter
    variants, as light as needed, until at most one batch waits. While every request is served well within its
    time, they run heavier ones.
    """

    def __init__(self, config: QueueConfig, max_items: int) -> None:
        self.config = config
        self.batcher = Batcher(config.batch_size, config.batch_timeout_s, max_items)
        # The time of the present call.
        self._now_s = 0.0
        # By level, since the last batch: the largest that is quick.
        self._quick_sizes: dict[int, int] = {}
        self.replicas = ModelServers(self._by_level(), config.profiled_s, config.heavier)
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

    def arrive(
        self,
        content: Any,
        items: int,
        now_s: float,
        deadline_s: float,
        wanted_s: float,
        ahead: StageTimes,
        kind: Hashable = None,
    ) -> QueuedRequest:
        """Queue an arriving request, and return it: ended if it is refused, or has no items.

        `ahead` are the times of the later stages, whose least time is taken off already: the request is
        dropped at `deadline_s`, and lighter variants may serve it by `wanted_s`. If no other competes for its
        place, here or at later stages, it is not refused: trying costs nothing then.
        """
        later_s = ahead.wait_s + ahead.usual_s - ahead.least_s
        times_s = deadline_s, deadline_s - later_s, wanted_s - later_s
        request = QueuedRequest(content, items, now_s, *times_s, kind)
        self._now_s = now_s
        self._slack_s, self._later_wait_s = request.wanted_s - now_s, ahead.wait_s
        self._arrived.append((now_s, items))
        while self._arrived[0][0] < now_s - ARRIVED_S:
            self._arrived.popleft()
        waiting = self.batcher.waiting_items
        before = self.batcher.items_before(deadline_s)

        def end_s(level: int) -> float:
            return self._begin_s(before, level) + self._serve_s(items, waiting, level)

        has_rivals = waiting >= self.batcher.batch_size or ahead.wait_s > 0
        if not items:
            request.end(Outcome.ANSWERED)
        elif has_rivals and (late_s := self._lighten(end_s, request.wanted_s) - request.due_s) > 0:
            detail = f"it would be {late_s:.3g} s late: too many requests wait"
            request.end(Outcome.DROPPED, LossCause.OVERLOAD, detail)
            request.retry_after_s = late_s
        elif not self.batcher.offer(request):
            request.end(Outcome.DROPPED, LossCause.QUEUE_FULL, "the queue is full")
        return request

    def set_arrivals_ratio(self, ratio: float, now_s: float) -> None:
        """Set how many requests arrive at the pipeline for each that arrives here, while some are lost."""
        self._offered_ratio = ratio
        if ratio > 1:
            self._pressed_until_s = now_s + PRESSED_S

    def expected(self, now_s: float, items: int = 1) -> StageTimes:
        """The times of a request of this many items that arrives now and is served last.

        They are those at the quickest level, which is chosen if the request would otherwise be late.
        """
        self._now_s, waiting = now_s, self.batcher.waiting_items
        levels = self._levels(self._level)
        times = [
            (self._begin_s(waiting, level) - now_s, self._serve_s(items, waiting, level)) for level in levels
        ]
        served_s = min(
            self.replicas.median_s(now_s, size := self._size(level), level) / size for level in levels
        )
        each_s = items * served_s / max(1, len(self.replicas))
        return StageTimes(*min(times, key=sum), self.replicas.least_s(now_s), each_s)

    def set_config(self, config: QueueConfig, now_s: float) -> None:
        """Apply this configuration from now on."""
        self.config, self._now_s = config, now_s
        self.batcher.batch_timeout_s = config.batch_timeout_s
        self.replicas.configure(self._by_level(), config.profiled_s, config.heavier)
        self._quick_sizes.clear()
        self._set_level(max(0, min(self._level, self.replicas.levels - 1)))

    def pump(self, now_s: float) -> tuple[list[QueuedRequest], list[tuple[ModelServer, Batch]], float]:
        """Drop late requests, and give due batches to replicas. Return both, and when to pump again."""
        self._now_s = now_s
        least_s = self.replicas.least_s(now_s)
        ended = self.batcher.drop_late(now_s, least_s, has_replicas=bool(self.replicas))
        batches = []
        while self.replicas.idle(now_s):
            # The level of the next batch.
            if self._level < 0:
                self._set_level(0)
            if self.replicas.levels > 1:
                if self.batcher.waiting_items <= self.config.batch_size:
                    self._set_level(self._carrying_level())
                elif self._is_pressed and not self._carries(self._level):
                    self._set_level(max(self._level, self._carrying_level()))
                elif self._level == 0 and self._has_larger and not self._carries(0):
                    self._set_level(LARGER)
                self._lighten(lambda level: self._now_s + self._next_s(level), self.batcher.next_wanted_s())
            if self._level == 0 and self.replicas.heavier_levels:
                self._set_level(self._heavier_level())
            ended += self.batcher.give_way(now_s, self._next_s(self._level))
            if (batch := self.batcher.take(now_s)) is None:
                break
            batches.append((self.replicas.acquire(now_s, batch.items, self._level), batch))
        next_batch_s = self.batcher.next_batch_s()
        if next_batch_s is not None and not self.replicas.idle(now_s):
            next_batch_s = self.replicas.next_up_s(now_s)
        moments = (next_batch_s, self.batcher.next_drop_s(least_s))
        return ended, batches, min((moment for moment in moments if moment is not None), default=inf)

    def note_answer(
        self, replica: ModelServer, batch: Batch, now_s: float, service_s: float, *, is_ok: bool = True
    ) -> None:
        """Release the replica, and update level and service times from the time of its batch."""
        self.replicas.release(replica, now_s, service_s)
        self._quick_sizes.clear()
        is_late = any(now_s > piece.request.wanted_s for piece in batch.slices)
        if replica.given_level < 0 and (is_late or not is_ok):
            self._lighter_until_s = now_s + PRESSED_S

    def _lighten(self, end_s: Callable[[int], float], wanted_s: float) -> float:
        """Choose the first level, from the current one on, that ends by `wanted_s`, else the earliest.

        Return the time at which it ends.
        """
        ends = [(end_s(level), level) for level in self._levels(self._level)]
        best_s, level = next((it for it in ends if it[0] <= wanted_s), min(ends))
        self._set_level(level)
        return best_s

    def _carrying_level(self) -> int:
        """The first level that carries the arrivals, or that is quick enough to be tried; else the last.

        A level that takes a good part of the requests' time would make requests late that arrive meanwhile.
        Larger batches cost no accuracy, so they need not be that quick.
        """
        *before, last = self._levels(0)
        for level in before:
            is_tried = (level > 0 or not self._has_larger) and not self._is_pressed
            is_quick = self._full_s(level) <= QUICK_RATIO * self._slack_s
            if (is_tried and is_quick) or self._carries(level):
                return level
        return last

    def _heavier_level(self) -> int:
        """The level of the most accurate variant that leaves a good part of the requests' time.

        It carries the arrivals of the last second, and serves waiting requests quickly. 0 if there is none,
        and while requests wait at later stages: time that is spent here would cost accuracy there.
        """
        if self._later_wait_s or self._now_s < max(self._pressed_until_s, self._lighter_until_s):
            return 0
        waiting = max(1, self.batcher.waiting_items)
        batches = ceil(waiting / (self.config.batch_size * len(self.replicas)))
        came = self._came(ARRIVED_S)
        for level in range(-self.replicas.heavier_levels, 0):
            is_quick = 0 < batches * self._next_s(level) <= QUICK_RATIO * self._slack_s
            if is_quick and came <= self._carried(level, ARRIVED_S):
                return level
        return 0

    def _carries(self, level: int) -> bool:
        """True if the replicas carry the recent arrivals at that level, up to two standard deviations.

        While requests are lost, they must also carry all arrivals of the last second.
        """
        lately_s = min(ARRIVED_S, max(CARRIED_S, self._full_s(level)))
        if self._is_pressed and self._came(ARRIVED_S) > self._carried(level, ARRIVED_S):
            return False
        carried = self._carried(level, lately_s)
        return self._came(lately_s) <= carried + 2 * sqrt(carried)

    def _came(self, over_s: float) -> float:
        """The items that arrived in that time, with those of requests that were lost on the way."""
        since_s = self._now_s - over_s
        return self._offered_ratio * sum(items for at_s, items in self._arrived if at_s > since_s)

    def _carried(self, level: int, over_s: float) -> float:
        """The items that the replicas can serve in that time at that level; infinite if it is unknown."""
        usual_s = self._full_s(level)
        return inf if usual_s <= 0 else self._size(level) * len(self.replicas) / usual_s * over_s

    @property
    def _is_pressed(self) -> bool:
        """True if requests were lost lately, here or at earlier stages."""
        return self._now_s < self._pressed_until_s

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
        self.batcher.batch_size = self._size(level)

    @property
    def _may_grow(self) -> bool:
        """True if the pipeline file allows larger batches, which then have a level of their own."""
        return self.config.largest_batch_size > self.config.batch_size

    @property
    def _has_larger(self) -> bool:
        """True if larger batches are quick enough now."""
        return self._may_grow and self._size(LARGER) > self.config.batch_size

    def _size(self, level: int) -> int:
        """The most items of a batch at that level: the largest that is quick enough, and may save time.

        For a lighter variant that was never measured the largest of all: it may have to carry everything.
        """
        if level <= 0 or not self._may_grow:
            return self.config.batch_size
        if level not in self._quick_sizes:
            planned, size = self.config.batch_size, self.config.largest_batch_size
            most_s = (TRIED_RATIO if self._is_pressed else QUICK_RATIO) * self._slack_s
            if level == LARGER or self._usual_s(1, level) > 0:
                while size > planned and not 0 < self._usual_s(size, level) <= most_s:
                    size //= 2
                if size <= planned or not self.replicas.saves(self._now_s, planned, size, level):
                    size = planned
            self._quick_sizes[level] = size
        return self._quick_sizes[level]

    def _usual_s(self, items: int, level: int) -> float:
        """The service time of a batch of this many items at that level."""
        return self.replicas.usual_s(self._now_s, items, level)

    def _full_s(self, level: int) -> float:
        """The service time of a full batch at that level."""
        return self._usual_s(self._size(level), level)

    def _serve_s(self, items: int, before: int, level: int) -> float:
        """The service time of a request of this many items, in batches with the items that wait before it."""
        size = self._size(level)
        usual_s = self._usual_s(min(size, before + items), level)
        return usual_s * ceil(items / (size * max(1, len(self.replicas))))

    def _begin_s(self, before: int, level: int) -> float:
        """The time at which a batch takes an item with this many before it; now if they fill no batch."""
        size = self._size(level)
        if before < size:
            return self._now_s
        return self.replicas.begin_s(self._now_s, before // size, size, level)

    def _next_s(self, level: int) -> float:
        """The service time of the next batch at that level."""
        return self._usual_s(min(self._size(level), max(1, self.batcher.waiting_items)), level)
