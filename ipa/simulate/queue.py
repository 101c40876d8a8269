"""The queues of a stage, one for all its replicas or one in each, and the replicas that take batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipa.model.plan import CFS_PERIOD_S
from ipa.queueing.service import ServiceTime
from ipa.serving.batchqueue import QueueConfig
from ipa.simulate.columns import NO_ITEMS, Bools, Floats, FormedBatches, Ints, Items, Waiting
from ipa.simulate.kernel import KEEP, KernelDriver, ServiceNoise, drive_plain


@dataclass(frozen=True, slots=True)
class Pods:
    """A group of equal replicas: their number, their largest batch, and their service time.

    `name` identifies pods from one call to the next: pods of a name that stays keep their work, whatever
    their new batch size and service time. `variant` decides fan-outs that depend on it. The last fields are
    for a queue that chooses: other variants, its configuration without replicas, and by variant the service
    times of batches of up to so many items, the smallest first.
    """

    count: int
    batch_size: int
    service: ServiceTime
    name: str = ""
    variant: str = ""
    lighter: tuple[str, ...] = ()
    heavier: tuple[str, ...] = ()
    config: QueueConfig = field(default_factory=QueueConfig)
    services: Mapping[str, tuple[tuple[int, ServiceTime], ...]] = field(default_factory=dict)

    def service_of(self, variant: str, items: int) -> tuple[int, ServiceTime]:
        """The batch size and service time that tell how long the variant serves this many items."""
        known = self.services.get(variant) or ((self.batch_size, self.service),)
        return next((it for it in known if it[0] >= items), known[-1])


class DrainedPod(NamedTuple):
    """A pod that was removed, and the time at which its work was done."""

    name: str
    end_s: float


@dataclass(slots=True)
class _Group:
    """Pods of one name: a heap of the times at which they are free, and their numbers."""

    pods: Pods
    free_s: Floats
    replica: Ints


def _table(groups: Sequence[_Group], factors: ServiceNoise) -> tuple[NDArray[Any], ...]:
    """The groups as arguments of `kernel.advance`, whose heaps become the groups' own."""
    means = [group.pods.service.means_s(group.pods.batch_size) for group in groups]
    counts = np.array([len(group.replica) for group in groups], dtype=np.int64)
    first_slot = np.cumsum(counts) - counts
    free_s = np.concatenate([np.empty(0), *(group.free_s for group in groups)])
    replica = np.concatenate([np.empty(0, dtype=np.int64), *(group.replica for group in groups)])
    for group, at, count in zip(groups, first_slot, counts, strict=True):
        group.free_s, group.replica = free_s[at : at + count], replica[at : at + count]
    return (
        np.array([group.pods.batch_size for group in groups], dtype=np.int64),
        np.array([mean for each in means for mean in each], dtype=np.float64),
        np.cumsum([0, *(len(each) for each in means[:-1])]) if means else counts,
        np.array([factors.stream(group.pods.service.spread) for group in groups], dtype=np.int64),
        first_slot,
        counts,
        free_s,
        replica,
        np.array([group.pods.service.quota_cores for group in groups], dtype=np.float64),
    )


NOBODY: Waiting = NO_ITEMS[:3]


def _join(pieces: Sequence[Waiting]) -> Waiting:
    ids, arrived_s, born_s = map(np.concatenate, zip(*pieces, strict=True))
    return ids, arrived_s, born_s


def cut(items: Waiting, which: Ints | Bools | slice) -> Waiting:
    """The items at these indices."""
    ids, arrived_s, born_s = items
    return ids[which], arrived_s[which], born_s[which]


class QueueSim:
    """A queue, first in first out. Times rise from call to call; events at `until_s` have not happened.

    A batch accepts items until it begins, or, with `is_sealed`, until it is due.
    """

    def __init__(
        self,
        timeout_s: float,
        drop: int,
        drop_after_s: float,
        seed: tuple[int, ...],
        drive: KernelDriver = drive_plain,
        *,
        is_sealed: bool = False,
    ) -> None:
        self._timeout_s, self._is_sealed = timeout_s, is_sealed
        self._drop, self._drop_after_s, self._drive = drop, drop_after_s, drive
        self.give_way_after_s = inf
        self._factors = ServiceNoise(seed)
        self._since_s = self._now_s = self._moved_s = 0.0
        # The waiting items, and those offered since.
        self._waiting: Waiting = NOBODY
        self._offered: list[Waiting] = []
        self._groups: dict[str, _Group] = {}
        self._known: tuple[NDArray[Any], ...] | None = None  # built from the groups when needed
        self._saved_s = np.empty(0)  # savings of a quota, by replica
        self.drained: list[DrainedPod] = []
        self.variants: list[str] = []  # of each replica, by its number
        # Items whose end is not reported yet.
        self.flying = NO_ITEMS

    @property
    def waiting(self) -> int:
        """The number of items that wait now."""
        return int(np.searchsorted(self._queued()[1], self._now_s))

    @property
    def free_s(self) -> float:
        """The time at which all replicas will have finished their work."""
        return max((float(group.free_s.max(initial=0.0)) for group in self._groups.values()), default=0.0)

    def _queued(self) -> Waiting:
        if self._offered:
            self._waiting = _join([self._waiting, *self._offered])
            self._offered = []
        return self._waiting

    def set_give_way(self, at_s: float, after_s: float) -> None:
        """From `at_s` on, items of that age are dropped if others can fill their batch."""
        self._since_s, self.give_way_after_s = at_s, after_s

    def offer(self, items: Waiting) -> None:
        """Add arriving items, after all earlier ones."""
        if len(items[0]):
            self._offered.append(items)

    def set_pods(self, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve with these pods from `at_s` on. Removed ones finish their work, a group's idle ones first."""
        self._since_s = at_s
        wanted = {each.name: each for each in pods}
        self.drained += [
            DrainedPod(name, max(at_s, float(end)))
            for name, group in self._groups.items()
            if name not in wanted
            for end in np.sort(group.free_s)
        ]
        groups = {}
        for name, each in wanted.items():
            group = self._groups.get(name) or _Group(each, np.empty(0), np.empty(0, dtype=np.int64))
            order = np.lexsort((group.replica, group.free_s))
            leaving = max(0, len(order) - each.count)
            self.drained += [DrainedPod(name, max(at_s, float(group.free_s[at]))) for at in order[:leaving]]
            stay = order[leaving:]
            more = each.count - len(stay)
            # A sorted list is a heap: pods that were idle before come first, in order of time.
            free = np.concatenate([group.free_s[stay], np.full(more, at_s)])
            numbers = np.concatenate([group.replica[stay], self._new(each, more)])
            order = np.lexsort((numbers, free))
            groups[name] = _Group(each, free[order], numbers[order])
        self._groups, self._known = groups, None

    def _new(self, pods: Pods, count: int) -> Ints:
        numbers = np.arange(len(self.variants), len(self.variants) + count)
        self.variants += [pods.variant] * count
        self._saved_s = np.concatenate([self._saved_s, np.full(count, CFS_PERIOD_S)])
        return numbers

    def fail(self, at_s: float, name: str, count: int | None) -> tuple[int, int]:
        """Fail the group's first `count` replicas; return how many items wait again, how many are lost."""
        group = self._groups.get(name)
        if group is None:
            return 0, 0
        self._since_s = self._moved_s = at_s
        gone = np.sort(group.replica)[:count]
        self._known = None
        stay = ~np.isin(group.replica, gone)
        order = np.lexsort((group.replica[stay], group.free_s[stay]))
        self._groups[name] = _Group(group.pods, group.free_s[stay][order], group.replica[stay][order])
        back = np.isin(self.flying.server, gone) & ~self.flying.lost & (self.flying.done_s >= at_s)
        items, self.flying = self.flying.pick(back), self.flying.pick(~back)
        if len(items.ids):
            joined = _join([items[:3], self._queued()])
            self._waiting = cut(joined, np.argsort(joined[1], kind="stable"))
        return len(items.ids), 0

    def hurry(self, at_s: float) -> None:
        """From `at_s` on no batch waits for more items."""
        self._since_s, self._timeout_s = at_s, 0.0

    def lose(self, at_s: float, name: str) -> int:
        """Fail the group's replicas, and lose all items; return the number of those that waited before."""
        back, _ = self.fail(at_s, name, None)
        waiting, self._waiting = self._queued(), NOBODY
        count = len(waiting[0])
        gone = Items(*waiting, np.full(count, at_s), np.ones(count, dtype=np.bool_), np.full(count, -1))
        self.flying = Items.joined([self.flying, gone])
        return count - back

    def run(self, until_s: float) -> list[FormedBatches]:
        """Form all batches that begin before `until_s`, and drop items that are due for that before."""
        self._now_s = until_s
        waiting = self._queued()
        _, arrived, born = waiting
        total = int(np.searchsorted(arrived, until_s))
        if not total:
            return []
        if self._known is None:
            self._known = _table(list(self._groups.values()), self._factors)
        state = np.zeros(2, dtype=np.int64)
        stops, server = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        starts, ends, lost = np.empty(total), np.empty(total), np.zeros(total, dtype=np.bool_)
        self._drive(
            (
                *(self._since_s, self._moved_s, float(until_s), self._timeout_s),
                *(self._drop, self._drop_after_s, self.give_way_after_s, self._is_sealed),
            ),
            (
                arrived[:total],
                born[:total],
                state,
                *self._known,
                self._saved_s,
                stops,
                starts,
                ends,
                server,
                lost,
            ),
            self._factors,
        )
        head, batches = int(state[0]), int(state[1])
        if not head:
            return []
        self._moved_s = float(starts[batches - 1])
        self._waiting = cut(waiting, slice(head, None))
        formed = FormedBatches(
            *cut(waiting, slice(head)),
            stops[:batches],
            starts[:batches],
            ends[:batches],
            server[:batches],
            lost[:head],
            ends[:batches] - starts[:batches],
        )
        self.flying = Items.joined([self.flying, formed.items()])
        return [formed]

    def take_done(self, until_s: float) -> Items:
        """Take the items that ended before `until_s`, in order of their end."""
        items, done_s = self.flying, self.flying.done_s
        if np.all(done_s[1:] >= done_s[:-1]):
            end = int(np.searchsorted(done_s, until_s))
            self.flying = items.pick(slice(end, None))
            return items.pick(slice(end))
        order = np.argsort(done_s, kind="stable")
        end = int(np.searchsorted(done_s[order], until_s))
        self.flying = items.pick(np.sort(order[end:]))
        return items.pick(order[:end])


# Of the seed by which requests are spread.
SPREAD = 2


@dataclass(slots=True)
class _Lane:
    number: int
    name: str
    queue: QueueSim
    left_s: float | None = None  # when it was removed
    is_reported: bool = False


class ReplicaQueues:
    """A queue in each replica. A request goes to one of the replicas at random, with all its items.

    A batch is formed when it is due, and then waits unchanged for its replica (`mlserver.batching`): under
    load it has the items that arrived within the timeout, not those that arrived while the replica was busy.
    """

    def __init__(self, timeout_s: float, seed: tuple[int, ...], drive: KernelDriver) -> None:
        self._timeout_s, self._seed, self._drive = timeout_s, seed, drive
        self._lanes: list[_Lane] = []  # by number
        # Items that have not arrived yet, and those that arrived while there was no replica.
        self._offered: list[Waiting] = []
        self._without: list[Waiting] = []
        self._rng = np.random.default_rng((*seed, SPREAD))
        self.drained: list[DrainedPod] = []
        self.variants: list[str] = []

    def offer(self, items: Waiting) -> None:
        """Add arriving items; each goes to its replica at that moment."""
        if len(items[0]):
            self._offered.append(items)

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
        if self._without and self._active():
            items, self._without = _join(self._without), []
            self._give(items)

    def fail(self, at_s: float, name: str, count: int | None) -> tuple[int, int]:
        """Fail some replicas; all items at them are lost."""
        left = 0
        for lane in [lane for lane in self._active() if lane.name == name][:count]:
            left += lane.queue.lose(at_s, name)
            lane.left_s, lane.is_reported = at_s, True
        return 0, left

    def run(self, until_s: float) -> list[FormedBatches]:
        """Form all batches that begin before `until_s`."""
        if self._offered:
            offered = _join(self._offered)
            end = int(np.searchsorted(offered[1], until_s))
            self._offered = [cut(offered, slice(end, None))]
            self._give(cut(offered, slice(end)))
        formed: list[FormedBatches] = []
        for lane in self._lanes:
            formed += lane.queue.run(until_s)
            if lane.left_s is not None and not lane.is_reported and not lane.queue.waiting:
                self.drained.append(DrainedPod(lane.name, max(lane.left_s, lane.queue.free_s)))
                lane.is_reported = True
        return formed

    def take_done(self, until_s: float) -> Items:
        """Take the items that ended before `until_s`."""
        parts = []
        for lane in self._lanes:
            part = lane.queue.take_done(until_s)
            parts.append(part._replace(server=np.where(part.server >= 0, lane.number, -1)))
        self._lanes = [
            lane
            for lane in self._lanes
            if not lane.is_reported or lane.queue.waiting or len(lane.queue.flying.ids)
        ]
        return Items.joined(parts).by_end()

    def _active(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.left_s is None]

    def _add(self, at_s: float, pods: Pods) -> None:
        number = len(self.variants)
        self.variants.append(pods.variant)
        seed = (*self._seed, 1, number)
        queue = QueueSim(self._timeout_s, KEEP, inf, seed, self._drive, is_sealed=True)
        queue.set_pods(at_s, [replace(pods, count=1)])
        self._lanes.append(_Lane(number, pods.name, queue))

    @staticmethod
    def _leave(lane: _Lane, at_s: float) -> None:
        lane.left_s = at_s
        lane.queue.hurry(at_s)

    def _give(self, items: Waiting) -> None:
        ids, lanes = items[0], self._active()
        if not len(ids):
            return
        if not lanes:
            self._without.append(items)
            return
        request = np.cumsum(np.concatenate([[0], ids[1:] != ids[:-1]]))
        # Unlike those of `integers`, draws do not depend on how many are made at once.
        drawn = self._rng.random(int(request[-1]) + 1) * len(lanes)
        to = drawn.astype(np.int64)[request]
        for place, lane in enumerate(lanes):
            lane.queue.offer(cut(items, to == place))


StageQueues = QueueSim | ReplicaQueues
