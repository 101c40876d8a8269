"""The inner loop of one stage between two changes: batches formed from a queue and given to replicas.

It runs as plain Python on lists and, compiled by numba, on arrays, with equal results: only indexing,
comparisons and additions in one order. Random numbers are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from math import inf
from typing import Any

import numpy as np

from ipa.model.errors import InputError
from ipa.model.plan import CFS_PERIOD_S
from ipa.simulate.columns import Floats

# What happens to a request that is too old when a batch is formed (`drop`).
KEEP, REQUEST, BATCH = 0, 1, 2
# Returned by `advance` when all is done; any other result is the stream that ran out of draws.
DONE = -1
# Arrays of `advance` before those of the factors.
INPUTS = 13
# Places in `state`.
HEAD, BATCHES = 0, 1


def advance(  # noqa: PLR0912, PLR0915 - one loop without calls is what compiles well
    since_s: float,
    moved_s: float,
    until_s: float,
    timeout_s: float,
    drop: int,
    drop_after_s: float,
    give_way_after_s: float,
    is_sealed: bool,
    arrived_s: Any,
    born_s: Any,
    state: Any,
    sizes: Any,
    means_s: Any,
    first_mean: Any,
    stream: Any,
    first_slot: Any,
    slots: Any,
    free_s: Any,
    replica: Any,
    quota: Any,
    saved_s: Any,
    factors: Any,
    next_factor: Any,
    last_factor: Any,
    stops: Any,
    starts_s: Any,
    ends_s: Any,
    served_by: Any,
    lost: Any,
) -> int:
    """Advance the loop. Return DONE once nothing more begins before `until_s`, else the stream to refill.

    Items wait in the order of `arrived_s` from index state[HEAD] on. For group g, `sizes[g]` is its batch
    size, `means_s[first_mean[g] + k]` the mean service time of k items, `stream[g]` the stream of its random
    factors (-1: none), `slots[g]` its number of replicas, a heap by the time they are free in
    `free_s[first_slot[g]:]`, with their numbers in `replica`; `quota[g]` the cores of its CPU quota, 0
    without one: with a quota the means are those of busy replicas, less what a replica saved up, by number,
    in `saved_s`. Batch b ends before item `stops[b]`; `starts_s`, `ends_s` and `served_by` have its times and
    its replica (-1: none, all its items are lost). `lost` marks single items. Nothing begins before
    `since_s`; the item at the head became the head at `moved_s`. With `drop` REQUEST an item is lost at the
    age `drop_after_s`, and at `give_way_after_s` if others would fill its batch. A batch that `is_sealed` has
    the items that had arrived when it was due, whenever it begins.
    """
    head = state[HEAD]
    batch = state[BATCHES]
    total = len(arrived_s)
    groups = len(sizes)
    moved = moved_s if batch == 0 else starts_s[batch - 1]
    while head < total:
        due_late = arrived_s[head] + timeout_s
        start = inf
        chosen = -1
        chosen_free = inf
        cut = inf
        for g in range(groups):
            if slots[g] > 0:
                free = free_s[first_slot[g]]
                last = head + sizes[g] - 1
                moment = due_late
                if last < total and arrived_s[last] < moment:
                    moment = arrived_s[last]
                due = moment
                moment = max(moment, free, since_s)
                if moment < start or (moment == start and free < chosen_free):
                    start = moment
                    chosen = g
                    chosen_free = free
                    cut = due if is_sealed else start
        if drop == REQUEST:
            expiry = max(born_s[head] + drop_after_s, arrived_s[head], moved)
            if expiry > start and born_s[head] + give_way_after_s < start:
                place = head + sizes[chosen]
                if place < total and arrived_s[place] <= start:
                    expiry = start
            if expiry <= start:
                if expiry >= until_s:
                    break
                lost[head] = 1
                head += 1
                stops[batch] = head
                starts_s[batch] = expiry
                ends_s[batch] = expiry
                moved = expiry
                served_by[batch] = -1
                batch += 1
                continue
        if start >= until_s:
            break
        which = stream[chosen]
        if which >= 0 and next_factor[which] >= last_factor[which]:
            state[HEAD] = head
            state[BATCHES] = batch
            return int(which)
        stop = head + 1
        size = sizes[chosen]
        items = 1
        if drop == REQUEST:
            while items < size and stop < total and arrived_s[stop] <= cut:
                if born_s[stop] + drop_after_s <= start:
                    lost[stop] = 1
                else:
                    items += 1
                stop += 1
        else:
            limit = min(head + size, total)
            while stop < limit and arrived_s[stop] <= cut:
                stop += 1
            items = stop - head
            if drop == BATCH:
                oldest = born_s[head]
                for place in range(head + 1, stop):
                    oldest = min(oldest, born_s[place])
                if oldest + drop_after_s <= start:
                    for place in range(head, stop):
                        lost[place] = 1
                    head = stop
                    stops[batch] = stop
                    starts_s[batch] = start
                    ends_s[batch] = start
                    moved = start
                    served_by[batch] = -1
                    batch += 1
                    continue
        factor = 1.0
        if which >= 0:
            factor = factors[next_factor[which]]
            next_factor[which] += 1
        root = first_slot[chosen]
        server = replica[root]
        took = means_s[first_mean[chosen] + items] * factor
        if quota[chosen] > 0.0:
            # The quota saved while idle, a period's worth at most; it computes all the same.
            credit = min(CFS_PERIOD_S, saved_s[server] + start - chosen_free)
            paid = took
            took = max(paid * quota[chosen], paid - credit)
            saved_s[server] = credit + took - paid
        end = start + took
        head = stop
        stops[batch] = stop
        starts_s[batch] = start
        ends_s[batch] = end
        served_by[batch] = server
        moved = start
        batch += 1
        # The replica sinks to its place in the heap.
        count = slots[chosen]
        at = 0
        while True:
            child = 2 * at + 1
            if child >= count:
                break
            if child + 1 < count and free_s[root + child + 1] < free_s[root + child]:
                child += 1
            if free_s[root + child] >= end:
                break
            free_s[root + at] = free_s[root + child]
            replica[root + at] = replica[root + child]
            at = child
        free_s[root + at] = end
        replica[root + at] = server
    state[HEAD] = head
    state[BATCHES] = batch
    return DONE


class ServiceNoise:
    """Streams of random factors of mean one, one stream for each spread, in blocks of one array.

    Stream s has its next draw at `next[s]` and ends before `last[s]`. The same seed gives the same factors,
    in calls of any size. A stream's seed is the order in which its spread was first requested.
    """

    BLOCK = 1024

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._seed = seed
        self._streams: dict[float, int] = {}
        self._rngs: list[np.random.Generator] = []
        self._listed: list[float] | None = None
        self.values: Floats = np.empty(0)
        self.next = np.empty(0, dtype=np.int64)
        self.last = np.empty(0, dtype=np.int64)

    def stream(self, spread: float) -> int:
        """The number of the stream of that spread; -1 for none (spread 0)."""
        if spread <= 0:
            return -1
        if spread not in self._streams:
            number = self._streams[spread] = len(self._rngs)
            self._rngs.append(np.random.default_rng((*self._seed, number)))
            self._listed = None
            self.values = np.concatenate([self.values, np.empty(self.BLOCK)])
            self.next = np.append(self.next, number * self.BLOCK)
            self.last = np.append(self.last, number * self.BLOCK)
        return self._streams[spread]

    def refill(self, number: int) -> None:
        """Draw the next block of an exhausted stream."""
        spread, start = list(self._streams)[number], number * self.BLOCK
        stop = start + self.BLOCK
        self.values[start:stop] = self._rngs[number].gamma(1 / spread, spread, self.BLOCK)
        self.next[number], self.last[number] = start, stop
        self._listed = None

    def listed(self) -> list[float]:
        """The factors as a list."""
        if self._listed is None:
            self._listed = self.values.tolist()
        return self._listed


def drive_plain(scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: ServiceNoise) -> None:
    """Run `advance` as plain Python to its end; the arrays then hold its results.

    `scalars` and `arrays` are its arguments in order, without those of the factors (`ServiceNoise`).
    """
    before, after = [array.tolist() for array in arrays[:INPUTS]], arrays[INPUTS:]
    state = before[2]
    total = len(before[0])
    out: list[list[Any]] = [[0] * total for _ in after]
    place = factors.next.tolist()
    loop: Callable[..., int] = advance
    while (which := loop(*scalars, *before, factors.listed(), place, factors.last.tolist(), *out)) != DONE:
        factors.refill(which)
        place[which] = int(factors.next[which])
    factors.next[:] = place
    # The loop writes these inputs: its state, the heaps and the savings. It knows batches and, last, lost
    # items.
    for at in (2, 9, 10, 12):
        arrays[at][:] = before[at]
    for array, values in zip(after[:-1], out, strict=False):
        array[: state[BATCHES]] = values[: state[BATCHES]]
    after[-1][:] = out[-1]


def drive_compiled(scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: ServiceNoise) -> None:
    """Run `advance` compiled by numba, as `drive_plain` runs it; InputError without numba."""
    loop, before, after = _compiled(), arrays[:INPUTS], arrays[INPUTS:]
    while (which := loop(*scalars, *before, factors.values, factors.next, factors.last, *after)) != DONE:
        factors.refill(which)


@cache
def _compiled() -> Callable[..., int]:
    try:
        import numba
    except ImportError as error:
        raise InputError("numba is not installed", hint="Install it with: pip install numba") from error
    try:
        made: Callable[..., int] = numba.njit(cache=True)(advance)
    except RuntimeError:  # no folder to keep the compiled code in
        made = numba.njit(advance)
    return made


class LazyDriver:
    """A driver that runs plain Python first, and loads the compiled loop (1.5 s) once that pays."""

    ENOUGH = 500_000

    def __init__(self) -> None:
        self._items = 0

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: ServiceNoise) -> None:
        """Run `advance` as `drive_plain` does."""
        run = drive_plain if self._items < self.ENOUGH else drive_compiled
        self._items += len(arrays[0])
        run(scalars, arrays, factors)


# Takes the scalars, the arrays and the factors of `drive_plain`.
KernelDriver = Callable[[tuple[Any, ...], tuple[Any, ...], ServiceNoise], None]
# Plain at first, then compiled if numba is installed.
AUTO: KernelDriver = drive_plain if find_spec("numba") is None else LazyDriver()
