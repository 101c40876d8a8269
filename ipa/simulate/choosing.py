"""A stage's queue that chooses a variant for each batch: the data plane's `BatchQueue` in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from math import inf, nan
from sys import maxsize

import numpy as np

from ipa.model.plan import CFS_PERIOD_S
from ipa.serving.batching import Batch, QueuedRequest
from ipa.serving.batchqueue import BatchQueue, QueueConfig
from ipa.serving.expectation import UNKNOWN, StageTimes
from ipa.serving.replicas import ModelServer
from ipa.simulate.columns import FormedBatches, Ints, Items
from ipa.simulate.queue import Pods, QueueSim, cut

# Some items of a request: its id and its arrival at the pipeline, its arrival here, and their number.
Piece = tuple[tuple[int, float], float, int]


class ChoosingQueue(QueueSim):
    """A central queue whose replicas serve each batch by the variant and size that the data plane chooses.

    Requests are dropped `drop_after_s` after their arrival at the pipeline, less the least time of later
    stages, or refused on arrival; those that would be answered after `aim_s` are served by lighter variants.
    In `variants`, a number stands for one variant of one replica.
    """

    def __init__(self, timeout_s: float, drop_after_s: float, aim_s: float, seed: tuple[int, ...]) -> None:
        super().__init__(timeout_s, 0, drop_after_s, seed)
        self._aim_s = aim_s
        # No queue is full: a request takes less memory here than where it is served.
        self.queue = BatchQueue(QueueConfig(batch_timeout_s=timeout_s), maxsize)
        self._rng = np.random.default_rng(seed)
        self._pods: dict[str, Pods] = {}
        self._servers: dict[tuple[str, str], int] = {}
        # End, order, begin.
        self._busy: list[tuple[float, int, float, ModelServer, Batch]] = []
        self._due_s = inf
        self._ahead, self._told_s = UNKNOWN, 0.0
        # Batches and lost items since the last run: items, start, end, server, observed time.
        self._formed: list[tuple[list[Piece], float, float, int, float]] = []

    @property
    def waiting(self) -> int:
        """The number of items that wait now."""
        return self.queue.batcher.waiting_items

    def set_ahead(self, at_s: float, ahead: StageTimes) -> None:
        """Set the expected times of later stages as of `at_s`."""
        self._ahead, self._told_s = ahead, at_s

    def set_pods(self, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve with these pods from `at_s` on. Removed ones finish their work, a group's idle ones first."""
        super().set_pods(at_s, pods)
        self._configure(at_s)

    def _configure(self, at_s: float) -> None:
        groups = self._groups.values()
        self._pods = {str(number): group.pods for group in groups for number in sorted(group.replica)}
        config = self.queue.config
        for it in groups:
            config = replace(it.pods.config, batch_size=it.pods.batch_size)
        config = replace(
            config,
            batch_timeout_s=self._timeout_s,
            replicas={url: (it.variant, *it.lighter) for url, it in self._pods.items()},
            heavier={url: it.heavier for url, it in self._pods.items() if it.heavier},
        )
        self.queue.set_config(config, at_s)
        self._due_s = at_s

    def fail(self, at_s: float, name: str, count: int | None) -> tuple[int, int]:
        """Fail the group's first `count` replicas; return how many items wait again, how many are lost."""
        super().fail(at_s, name, count)
        gone = self._pods.keys() - {str(it) for group in self._groups.values() for it in group.replica}
        servers = [server for (url, _), server in self._servers.items() if url in gone]
        is_flying = np.isin(self.flying.server, servers) & (self.flying.done_s >= at_s)
        self.flying = self.flying.pick(~is_flying)
        for entry in [entry for entry in self._busy if entry[3].url in gone]:
            self._busy.remove(entry)
            self.queue.replicas.lost(entry[3], at_s)
            for request, start, stop, _ in entry[4].slices:
                if request.outcome is not None:
                    self._lose(request, stop - start, at_s)
            for request in self.queue.batcher.lose(entry[4], ""):
                self._lose(request, request.left, at_s)
        heapq.heapify(self._busy)
        self._configure(at_s)
        return int(is_flying.sum()), 0

    def run(self, until_s: float) -> list[FormedBatches]:
        """Form all batches that begin before `until_s`, and drop items that are due for that before."""
        waiting = self._queued()
        ids, arrived_s, born_s = (column.tolist() for column in waiting)
        head, total = 0, int(np.searchsorted(waiting[1], until_s))
        while True:
            come_s = arrived_s[head] if head < total else inf
            end_s = self._busy[0][0] if self._busy else inf
            now_s = min(come_s, end_s, self._due_s)
            if now_s >= until_s:
                break
            if end_s <= now_s:
                _, _, began_s, replica, batch = heapq.heappop(self._busy)
                self.queue.note_answer(replica, batch, now_s, now_s - began_s)
                self.queue.batcher.serve(batch)
            elif come_s <= now_s:
                first = head
                head += 1
                while ids[first] < 0 and head < total and ids[head] == ids[first]:
                    head += 1
                ahead, born = self._ahead.after(now_s - self._told_s), born_s[first]
                content, items, least_s = (ids[first], born), head - first, ahead.least_s
                times_s = born + self._drop_after_s - least_s, born + self._aim_s - least_s
                request = self.queue.arrive(content, items, now_s, *times_s, ahead)
                if request.outcome is not None:
                    self._lose(request, items, now_s)
            ended, batches, self._due_s = self.queue.pump(now_s)
            for request in ended:
                self._lose(request, request.left, now_s)
            for replica, batch in batches:
                self._begin(replica, batch, now_s)
        self._waiting = cut(waiting, slice(head, None))
        return self._take_formed()

    def _lose(self, request: QueuedRequest, items: int, now_s: float) -> None:
        """Report items of an ended request that no batch has."""
        if items:
            self._formed.append(([(request.content, request.arrived_s, items)], now_s, now_s, -1, nan))

    def _begin(self, replica: ModelServer, batch: Batch, now_s: float) -> None:
        number, variant = int(replica.url), replica.given_variant
        pods = self._pods[replica.url]
        size, service = pods.service_of(variant, batch.items)
        took_s = service.mean_s(batch.items, size)
        if service.spread > 0:
            took_s *= self._rng.gamma(1 / service.spread, service.spread)
        group = self._groups[pods.name]
        place = int(np.flatnonzero(group.replica == number)[0])
        if service.quota_cores > 0:
            # As in `kernel.advance`.
            credit_s, paid_s = min(CFS_PERIOD_S, self._saved_s[number] + now_s - group.free_s[place]), took_s
            took_s = max(paid_s * service.quota_cores, paid_s - credit_s)
            self._saved_s[number] = credit_s + took_s - paid_s
        group.free_s[place] = end_s = float(now_s + took_s)
        if (replica.url, variant) not in self._servers:
            self._servers[replica.url, variant] = int(self._new(replace(pods, variant=variant), 1)[0])
        heapq.heappush(self._busy, (end_s, replica.last_used, now_s, replica, batch))
        # As the metrics of the data plane have it.
        observed_s = took_s / replica.given_ratio if replica.given_level <= 0 else nan
        pieces = [(it.content, it.arrived_s, stop - start) for it, start, stop, _ in batch.slices]
        self._formed.append((pieces, now_s, end_s, self._servers[replica.url, variant], observed_s))

    def _take_formed(self) -> list[FormedBatches]:
        if not self._formed:
            return []
        pieces, starts_s, ends_s, server, observed_s = zip(*self._formed, strict=True)
        self._formed = []
        contents, arrived_s, items = zip(*chain.from_iterable(pieces), strict=True)
        ids, born_s = zip(*contents, strict=True)
        counts = [sum(items for *_, items in each) for each in pieces]
        numbers: Ints = np.array(server)
        formed = FormedBatches(
            np.repeat(ids, items),
            np.repeat(arrived_s, items),
            np.repeat(born_s, items),
            np.cumsum(counts),
            np.array(starts_s),
            np.array(ends_s),
            numbers,
            np.repeat(numbers < 0, counts),
            np.array(observed_s),
        )
        self.flying = Items.joined([self.flying, formed.items()])
        return [formed]
