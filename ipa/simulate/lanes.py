"""A queue in each replica of a stage, as MLServer batches; the alternative is one `QueueSim` for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ipa.simulate.columns import EndedItems, Floats, FormedBatches, Ints
from ipa.simulate.kernel_numba import KernelDriver
from ipa.simulate.queue import DrainedPod, Pods, QueueSim

# Of the seed by which requests are spread.
SPREAD = 2


@dataclass(slots=True)
class _Lane:
    number: int
    name: str
    queue: QueueSim
    left_s: float | None = None  # when it was removed
    is_told: bool = False


class ReplicaQueues:
    """A queue in each replica. A request goes to one of the replicas at random, with all its items.

    A batch is made when it is due, and waits as it is for its replica (`mlserver.batching`): under load it
    has what came within the timeout, and not what came while the replica was busy.
    """

    def __init__(
        self, timeout_s: float, drop: int, drop_after_s: float, seed: tuple[int, ...], drive: KernelDriver
    ) -> None:
        self._rules = (timeout_s, drop, drop_after_s)
        self._seed, self._drive = seed, drive
        self._lanes: list[_Lane] = []  # by number
        # Used without replicas.
        self._nobody = QueueSim(timeout_s, drop, drop_after_s, (*seed, 0), drive, is_sealed=True)
        self._offered: list[tuple[Ints, Floats, Floats]] = []
        self._rng = np.random.default_rng((*seed, SPREAD))
        self._drained: list[DrainedPod] = []
        self.names: list[str] = []
        self.variants: list[str] = []

    @property
    def waiting(self) -> int:
        """Items in all queues now."""
        return self._nobody.waiting + sum(lane.queue.waiting for lane in self._lanes)

    @property
    def in_service(self) -> int:
        """Items in batches that have not ended."""
        return sum(lane.queue.in_service for lane in self._lanes)

    def offer(self, refs: Ints, arrived_s: Floats, born_s: Floats) -> None:
        """Add arriving items; each goes to its replica at that moment."""
        if len(refs):
            self._offered.append((refs, arrived_s, born_s))

    def set_pods(self, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve with these pods; a removed replica first serves its queue, without waiting for more."""
        wanted = {each.name: each for each in pods}
        for lane in self._active():
            if lane.name not in wanted:
                self._leave(lane, at_s)
        for name, each in wanted.items():
            lanes = [lane for lane in self._active() if lane.name == name]
            lanes.sort(key=lambda lane: (lane.queue.waiting, lane.queue.free_s, lane.number))
            leaving = max(0, len(lanes) - each.count)
            for lane in lanes[:leaving]:
                self._leave(lane, at_s)
            for lane in lanes[leaving:]:
                lane.queue.set_pods(at_s, [replace(each, count=1)])
            for _ in range(each.count - len(lanes)):
                self._add(at_s, each)
        if self._active():
            self._give(self._nobody.take_waiting())

    def slow(self, name: str, factor: float, count: int | None) -> None:
        """Slow down the batches that some replicas begin."""
        for lane in self._named(name)[:count]:
            lane.queue.slow(name, factor, None)

    def fail(self, at_s: float, name: str, count: int | None) -> tuple[int, int]:
        """Fail some replicas; all items at them are lost."""
        left = 0
        for lane in self._named(name)[:count]:
            left += lane.queue.lose(at_s)
            lane.left_s, lane.is_told = at_s, True
        return 0, left

    def run(self, until_s: float) -> list[FormedBatches]:
        """Form all batches that begin before `until_s`."""
        if self._offered:
            columns = [np.concatenate(column) for column in zip(*self._offered, strict=True)]
            cut = int(np.searchsorted(columns[1], until_s, side="left"))
            self._offered = [(columns[0][cut:], columns[1][cut:], columns[2][cut:])]
            self._give((columns[0][:cut], columns[1][:cut], columns[2][:cut]))
        formed = self._nobody.run(until_s)
        for lane in self._lanes:
            formed += lane.queue.run(until_s)
            if lane.left_s is not None and not lane.is_told and not lane.queue.waiting:
                self._drained.append(DrainedPod(lane.name, max(lane.left_s, lane.queue.free_s)))
                lane.is_told = True
        return formed

    def take_done(self, until_s: float) -> EndedItems:
        """Take the items that ended before `until_s`."""
        parts = [self._nobody.take_done(until_s)]
        for lane in self._lanes:
            part = lane.queue.take_done(until_s)
            parts.append(part._replace(server=np.where(part.server >= 0, lane.number, -1)))
        done = EndedItems(*(np.concatenate(columns) for columns in zip(*parts, strict=True))).by_end()
        self._lanes = [
            lane
            for lane in self._lanes
            if not lane.is_told or lane.queue.waiting or len(lane.queue.flying.ref)
        ]
        return done

    def take_drained(self) -> list[DrainedPod]:
        """Take the pods that were removed since the last call."""
        taken, self._drained = self._drained, []
        return taken

    def _active(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.left_s is None]

    def _named(self, name: str) -> list[_Lane]:
        return [lane for lane in self._active() if lane.name == name]

    def _add(self, at_s: float, pods: Pods) -> None:
        number = len(self.names)
        self.names.append(pods.name)
        self.variants.append(pods.variant)
        queue = QueueSim(*self._rules, (*self._seed, 1, number), self._drive, is_sealed=True)
        queue.set_pods(at_s, [replace(pods, count=1)])
        self._lanes.append(_Lane(number, pods.name, queue))

    @staticmethod
    def _leave(lane: _Lane, at_s: float) -> None:
        lane.left_s = at_s
        lane.queue.hurry(at_s)

    def _give(self, items: tuple[Ints, Floats, Floats]) -> None:
        refs, arrived, born = items
        if not len(refs):
            return
        lanes = self._active()
        if not lanes:
            self._nobody.offer(refs, arrived, born)
            return
        request = np.cumsum(np.concatenate([[0], refs[1:] != refs[:-1]]))
        # Unlike those of `integers`, draws do not depend on how many are made at once.
        drawn = self._rng.random(int(request[-1]) + 1) * len(lanes)
        to = drawn.astype(np.int64)[request]
        for place, lane in enumerate(lanes):
            mine = to == place
            lane.queue.offer(refs[mine], arrived[mine], born[mine])


StageQueues = QueueSim | ReplicaQueues
