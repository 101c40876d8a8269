"""One stage between decisions: requests arrive, wait, are served in batches by replicas, or are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import ArrayLike

from ipa.model.errors import InputError
from ipa.simulate.choosing import ChoosingQueue
from ipa.simulate.columns import BatchLog, Floats, Ints, Items, RowTable, Waiting
from ipa.simulate.kernel import AUTO, BATCH, KEEP, REQUEST, KernelDriver
from ipa.simulate.queue import DrainedPod, Pods, QueueSim, ReplicaQueues, StageQueues

# Columns of a request with several items.
ID, LEFT, ENDED = ("id",), ("left",), ("ended",)


class Requests:
    """The requests at a stage that have several items, or none.

    The id of an item is -1 - the request's number in this table; the only item of a request has the request's
    own id.
    """

    def __init__(self) -> None:
        self._count = 0
        # Its id, its items that have not ended, and if its end was reported.
        self._table = RowTable({ID: 0, LEFT: 0, ENDED: False})
        # Without items, until their moment.
        self._empty: list[Items] = []

    def expand(self, ids: Ints, times_s: Floats, born_s: Floats, items: Ints) -> Waiting:
        """The items of these requests."""
        many = items > 1
        of_items = ids.copy()
        count = int(many.sum())
        if count:
            rows = np.arange(self._count, self._count + count)
            self._count += count
            self._table.reach(self._count)
            self._table.columns[ID][rows], self._table.columns[LEFT][rows] = ids[many], items[many]
            of_items[many] = -1 - rows
        none = items == 0
        if none.any():
            self._empty.append(Items.passed(ids[none], born_s[none], times_s[none]))
        return np.repeat(of_items, items), np.repeat(times_s, items), np.repeat(born_s, items)

    def join(self, ended: Items, until_s: float) -> Items:
        """The requests that end with these items, in order of their end, by their ids.

        A request is lost with its first item that is lost.
        """
        if self._count:
            ended = self._join_items(ended)
        if not self._empty:
            return ended
        empty = Items.joined(self._empty)
        now = empty.done_s < until_s
        self._empty = [] if now.all() else [empty.pick(~now)]
        return Items.joined([ended, empty.pick(now)]).by_end()

    def _join_items(self, ended: Items) -> Items:
        places = np.flatnonzero(ended.ids < 0)
        rows = -1 - ended.ids[places]
        named, left, is_ended = (self._table.columns[name] for name in (ID, LEFT, ENDED))
        lost = ended.lost[places]
        np.subtract.at(left, rows, 1)
        keep = ended.ids >= 0
        lost_rows, at = np.unique(rows[lost], return_index=True)
        keep[places[lost][at]] = ~is_ended[lost_rows]
        is_ended[lost_rows] = True
        last_rows, at = np.unique(rows[::-1], return_index=True)
        whole = (left[last_rows] == 0) & ~is_ended[last_rows]
        is_ended[last_rows[whole]] = True
        keep[places[::-1][at[whole]]] = True
        ids = ended.ids.copy()
        ids[places] = named[rows]
        return ended._replace(ids=ids).pick(keep)


class CountsPerSecond:
    """Counts of events per second."""

    def __init__(self) -> None:
        self._counts = np.zeros(64, dtype=np.int64)

    def add(self, times_s: Floats, totals: Ints | None = None) -> None:
        """Count each of these moments: rising, finite, zero or more.

        With `totals`, a moment counts several times: `totals[k]` for moments 0 to k together.
        """
        if not len(times_s):
            return
        first, last = int(times_s[0]), int(times_s[-1])
        if last >= len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(last + 1, dtype=np.int64)])
        places = np.searchsorted(times_s, np.arange(first, last + 2))
        if totals is not None:
            places = np.concatenate([[0], totals])[places]
        self._counts[first : last + 1] += np.diff(places)

    def before(self, second: int) -> int:
        """The count of all seconds before that one."""
        return int(self._counts[:second].sum())


QUEUES = ("central", "deadline", "batch", "replica", "choosing")


class StageSim:
    """A stage of a pipeline in virtual time.

    A batch is due once its size waits or the oldest item has waited `batch_timeout_s`; it begins as soon as a
    replica is also free, and accepts items until then. Of several groups of pods the one that can begin first
    takes it. Intervals are half open: `run(until_s)` handles all events before `until_s`, so offers and
    changes at `until_s` come after. However a run is cut into calls, the results are equal.

    `queue`: a "central" one for all replicas drops each request that is `drop_after_s` old (since `born_s`)
    when it would be taken into a batch, and each that is older when its batch ends: its caller was refused at
    that age, and the loss is reported with the end of the batch. "deadline" also drops requests older than
    the age of `set_give_way` if others would fill the batch without them, as the data plane's queue does.
    "batch" drops a whole batch whose oldest member is that old when it would begin (as IPA's released code
    does). With one in each "replica" (`ReplicaQueues`) requests go to one at random, and none is dropped.
    "choosing" is central, and chooses the variant of each batch to answer requests within `aim_s` of their
    birth (`ChoosingQueue`). All drivers of the `kernel` give equal results.
    """

    def __init__(
        self,
        *,
        batch_timeout_s: float = inf,
        drop_after_s: float | None = None,
        queue: str = "central",
        seed: int | Sequence[int] = 0,
        kernel: KernelDriver = AUTO,
        aim_s: float = inf,
    ) -> None:
        if queue not in QUEUES:
            raise InputError(f"there is no kind of queue {queue!r}", hint=f"There are: {', '.join(QUEUES)}")
        if batch_timeout_s < 0 or (drop_after_s is not None and drop_after_s <= 0):
            raise InputError("batch_timeout_s must be zero or more, drop_after_s above zero")
        last_s, timeout_s = float(drop_after_s or inf), float(batch_timeout_s)
        # The age at which a request is lost even while it is served.
        self._drop_after_s = inf if queue in ("batch", "replica") else last_s
        seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        self.queue: StageQueues
        if queue == "choosing":
            self.queue = ChoosingQueue(timeout_s, last_s, aim_s, seeds)
        elif queue == "replica":
            self.queue = ReplicaQueues(timeout_s, seeds, kernel)
        else:
            rule = KEEP if drop_after_s is None else BATCH if queue == "batch" else REQUEST
            self.queue = QueueSim(timeout_s, rule, last_s, seeds, kernel)
        self._requests = Requests()
        self.now_s = 0.0  # the stage has run until then
        self._last_offer_s = 0.0
        # Items that arrived or came back, and items that left.
        self._entered, self._left = CountsPerSecond(), CountsPerSecond()
        # The batches that its replicas took.
        self.batches = BatchLog()

    def set_replicas(self, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve with these groups from `at_s` on.

        InputError for names that are not distinct, or a past moment. Removed replicas finish their work and
        take nothing more (`drained` reports when each ended); idle ones of a group go first.
        """
        if len({each.name for each in pods}) < len(pods) or any(
            each.count < 0 or each.batch_size < 1 for each in pods
        ):
            raise InputError("groups need distinct names, counts of zero or more and batch sizes above zero")
        self._reach(at_s)
        self.queue.set_pods(float(at_s), pods)

    def set_give_way(self, at_s: float, after_s: float) -> None:
        """From `at_s` on requests of the age `after_s` give way to others (queue "deadline")."""
        assert isinstance(self.queue, QueueSim)
        self._reach(at_s)
        self.queue.set_give_way(float(at_s), float(after_s))

    def fail(self, at_s: float, *, name: str = "", count: int | None = None) -> None:
        """At `at_s` `count` replicas of the group (None: all) fail, those with the lowest numbers.

        The items in their batches return to the front of the queue; with a queue in each replica they are
        lost, as are those in its queue. `set_replicas` starts others.
        """
        self._reach(at_s)
        back, lost = self.queue.fail(float(at_s), name, count)
        self._entered.add(np.full(back, at_s))
        self._left.add(np.full(lost, at_s))

    def offer(
        self,
        times_s: ArrayLike,
        ids: ArrayLike,
        born_s: ArrayLike | None = None,
        items: ArrayLike | None = None,
    ) -> None:
        """Offer requests that arrive at `times_s` (rising, none before `now_s` or earlier offers).

        `ids` are the caller's, `born_s` are the arrival times at the pipeline (None: now), `items` the items
        of each request (None: one each); one with none ends at once.
        """
        times = np.ascontiguousarray(times_s, dtype=np.float64)
        if not len(times):
            return
        if times[0] < max(self.now_s, self._last_offer_s) or np.any(times[1:] < times[:-1]):
            raise InputError(
                f"times_s must rise from {max(self.now_s, self._last_offer_s)} on; the first is {times[0]}"
            )
        self._last_offer_s = float(times[-1])
        born = times if born_s is None else np.ascontiguousarray(born_s, dtype=np.float64)
        refs = np.ascontiguousarray(ids, dtype=np.int64)
        entering = refs, times, born
        if items is not None:
            entering = self._requests.expand(*entering, np.asarray(items, dtype=np.int64))
        self._entered.add(entering[1])
        self.queue.offer(entering)

    def run(self, until_s: float) -> Items:
        """Advance; return the requests that ended in [now_s, until_s), served or dropped. Others stay.

        `done_s` is when the last item was served, or when the request was dropped, `server` the number of the
        replica that served the last item (-1: none); `variants` has its variant.
        """
        self._reach(until_s)
        done = self._requests.join(self.queue.take_done(until_s), until_s)
        if self._drop_after_s < inf:
            late = done.done_s > done.born_s + self._drop_after_s
            if late.any():
                done = done._replace(lost=done.lost | late)
        return done

    def served_in(self, since_s: float, until_s: float) -> Counter[str]:
        """The items served after `since_s` and until `until_s` by each variant."""
        servers, counts = np.unique(self.batches.items_in(since_s, until_s).server, return_counts=True)
        served = Counter[str]()
        for server, count in zip(servers.tolist(), counts.tolist(), strict=True):
            served[self.queue.variants[server]] += count
        return served

    def drained(self) -> list[DrainedPod]:
        """Return the pods removed since the last call, with the end of their work."""
        taken, self.queue.drained = self.queue.drained, []
        return taken

    def items_before(self, second: int) -> int:
        """The items that entered the queue before that second; those of a failed replica count again."""
        return self._entered.before(second)

    def waiting_at(self, second: int) -> int:
        """The items that wait at the beginning of that second, as far as it has been simulated."""
        return self._entered.before(second) - self._left.before(second)

    def _reach(self, at_s: float) -> None:
        """Handle all events before `at_s`; InputError for a past moment."""
        if at_s < self.now_s:
            raise InputError(f"the stage has run until {self.now_s}: a time must be that or more, not {at_s}")
        for formed in self.queue.run(at_s):
            self._left.add(formed.starts_s, formed.stops)
            self.batches.add(formed)
        self.now_s = float(at_s)
