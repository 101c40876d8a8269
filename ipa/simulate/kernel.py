"""The inner loop of one stage between two changes: batches formed from a queue and given to replicas.

It runs as plain Python on lists and, compiled, on arrays, with equal results: only indexing, comparisons and
additions in one order. Random numbers are arguments.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from ipa.model.plan import CFS_PERIOD_S

# What happens to a request that is too old when a batch is formed (`drop`).
KEEP, REQUEST, BATCH = 0, 1, 2
# Returned by `advance` when all is done; any other result is the stream that ran out of draws.
DONE = -1
# Arrays of `advance` before those of the factors.
INPUTS = 14
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
    slow: Any,
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
    """Advance the loop. Returns DONE once nothing more begins before `until_s`, else the stream to refill.

    Items wait in the order of `arrived_s` from place state[HEAD] on. Of group g: `sizes[g]` its batch size,
    `means_s[first_mean[g] + k]` the mean service time of k items, `stream[g]` where its factors come from
    (-1: none), `slots[g]` its replicas, a heap by the time they are free in `free_s[first_slot[g]:]`, with
    their numbers in `replica` and by number how many times slower they are in `slow`; `quota[g]` the cores of
    their CPU quota, 0 without: the means are those of busy replicas, less what was saved up by number in
    `saved_s`. Each batch b leaves the place after its last item in `stops`, when it began and ended, and the
    replica (-1: none served it, all its items are lost). `lost` marks single items. Nothing begins before
    `since_s`; the head of the queue has been there since `moved_s`. With `drop` REQUEST an item is lost at
    the age `drop_after_s`, and at `give_way_after_s` if others would fill the batch that it would be in. A
    batch that `is_sealed` has what had come when it was due, whenever it begins.
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
        took = means_s[first_mean[chosen] + items] * factor * slow[server]
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


def drive_plain(loop: Any, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
    """Run `advance`, or a loop like it, as plain Python to its end; the arrays then hold its results.

    `scalars` and `arrays` are its arguments in order, without those of the factors (`ServiceNoise`).
    """
    before, after = [array.tolist() for array in arrays[:INPUTS]], arrays[INPUTS:]
    state = before[2]
    total = len(before[0])
    out: list[list[Any]] = [[0] * total for _ in after]
    place = factors.next.tolist()
    while (which := loop(*scalars, *before, factors.listed(), place, factors.last.tolist(), *out)) != DONE:
        factors.refill(which)
        place[which] = int(factors.next[which])
    factors.next[:] = place
    # The loop writes these inputs: its state, the heaps and the savings. It knows batches and, last, lost
    # items.
    for at in (2, 9, 10, 13):
        arrays[at][:] = before[at]
    for array, values in zip(after[:-1], out, strict=False):
        array[: state[BATCHES]] = values[: state[BATCHES]]
    after[-1][:] = out[-1]


def release(  # noqa: PLR0912, PLR0915 - see `advance`
    until_s: float,
    flying: Any,
    refs: Any,
    arrived_s: Any,
    born_s: Any,
    stops: Any,
    starts_s: Any,
    ends_s: Any,
    served_by: Any,
    lost: Any,
    replicas: int,
) -> Any:
    """Items that ended before `until_s`, and the others. For compilation; NumPy's steps are quicker without.

    `flying` are columns (ref, arrival, birth, end, server) of items from earlier, the other arguments new
    items and the batches over them. A batch of server -1 is lost whole; of others items that are `lost` end
    when their batch began. Servers are numbers below `replicas`. The answer is columns (ref, birth, end,
    server) by end, those of one moment in the order of the queue, and then those of what flies on, in that
    order. What is lost has server -1.
    """
    old_ref, old_arrived, old_born, old_done, old_server = flying
    old, batches = len(old_ref), len(stops)
    items = old + (stops[-1] if batches else 0)
    # The units that end at one moment: an item from earlier, or a batch. They are taken up nearly by their
    # end, a batch when its replica begins the next, so that the insertion sort moves few of them, and not
    # far.
    keys = np.empty(old + batches)
    order = np.empty(old + batches, np.int64)
    ended = 0
    newest = np.full(replicas, -1)
    for step in range(old + batches + replicas):
        unit = step
        if step < old:
            end = old_done[step]
        else:
            if step >= old + batches:
                unit = newest[step - old - batches]
            elif served_by[step - old] >= 0:
                server = served_by[step - old]
                unit = newest[server]
                newest[server] = step
            if unit < 0:
                continue
            end = ends_s[unit - old]
        if end >= until_s:
            continue
        place = ended
        while place > 0 and (keys[place - 1] > end or (keys[place - 1] == end and order[place - 1] > unit)):
            keys[place] = keys[place - 1]
            order[place] = order[place - 1]
            place -= 1
        keys[place] = end
        order[place] = unit
        ended += 1
    ref = np.empty(items, np.int64)
    born = np.empty(items)
    done = np.empty(items)
    by = np.empty(items, np.int64)
    some_lost = lost.any()
    # Batches begin in order: earlier ones have already released their lost items.
    begun = 0
    at = 0
    for place in range(ended + 1):
        while some_lost and begun < batches:
            start = starts_s[begun]
            if place < ended and (
                start > keys[place] or (start == keys[place] and old + begun >= order[place])
            ):
                break
            if served_by[begun] >= 0 and start < ends_s[begun]:
                for item in range(stops[begun - 1] if begun else 0, stops[begun]):
                    if lost[item]:
                        ref[at] = refs[item]
                        born[at] = born_s[item]
                        done[at] = start
                        by[at] = -1
                        at += 1
            begun += 1
        if place == ended:
            break
        unit = order[place]
        if unit < old:
            ref[at] = old_ref[unit]
            born[at] = old_born[unit]
            done[at] = keys[place]
            by[at] = old_server[unit]
            at += 1
            continue
        batch = unit - old
        for item in range(stops[batch - 1] if batch else 0, stops[batch]):
            server = served_by[batch]
            if some_lost and server >= 0 and lost[item]:
                if starts_s[batch] < ends_s[batch]:
                    continue
                server = -1
            ref[at] = refs[item]
            born[at] = born_s[item]
            done[at] = keys[place]
            by[at] = server
            at += 1
    gone = at
    rest = items - gone
    on_ref = np.empty(rest, np.int64)
    on_arrived = np.empty(rest)
    on_born = np.empty(rest)
    on_done = np.empty(rest)
    on_server = np.empty(rest, np.int64)
    at = 0
    for unit in range(old):
        if old_done[unit] >= until_s:
            on_ref[at] = old_ref[unit]
            on_arrived[at] = old_arrived[unit]
            on_born[at] = old_born[unit]
            on_done[at] = old_done[unit]
            on_server[at] = old_server[unit]
            at += 1
    first = 0
    for batch in range(batches):
        if ends_s[batch] >= until_s:
            for item in range(first, stops[batch]):
                if lost[item]:
                    continue
                on_ref[at] = refs[item]
                on_arrived[at] = arrived_s[item]
                on_born[at] = born_s[item]
                on_done[at] = ends_s[batch]
                on_server[at] = served_by[batch]
                at += 1
        first = stops[batch]
    return (ref[:gone], born[:gone], done[:gone], by[:gone]), (
        on_ref,
        on_arrived,
        on_born,
        on_done,
        on_server,
    )


# A sorted list has no unpredictable branches; with more pods a heap has fewer steps.
FEW_PODS = 16


def is_for(drop: int, sizes: Any, slots: Any, quota: Any) -> bool:
    """True if `advance_singles` gives the results of `kernel.advance` for these arguments."""
    return drop == KEEP and len(sizes) == 1 and sizes[0] == 1 and slots[0] <= FEW_PODS and not quota[0]


def advance_singles(
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
    slow: Any,
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
    """As `kernel.advance`, in a third of the time; of pods that are free at one moment the first is taken.

    `free_s` is kept sorted, which a valid heap may be.
    """
    head, batch = state[HEAD], state[BATCHES]
    total, count, which = len(arrived_s), slots[0], stream[0]
    mean_s = means_s[first_mean[0] + 1]
    answer = DONE
    while head < total and count > 0:
        free, arrived = free_s[0], arrived_s[head]
        start = arrived if arrived >= free else free
        start = start if start >= since_s else since_s
        if start >= until_s:
            break
        factor = 1.0
        if which >= 0:
            if next_factor[which] >= last_factor[which]:
                answer = which
                break
            factor = factors[next_factor[which]]
            next_factor[which] += 1
        server = replica[0]
        end = start + mean_s * factor * slow[server]
        head += 1
        stops[batch] = head
        starts_s[batch] = start
        ends_s[batch] = end
        served_by[batch] = server
        batch += 1
        # The pod moves to its place from the front; written so that only values depend on comparisons.
        for slot in range(1, count):
            free, other = free_s[slot], replica[slot]
            is_sooner = free <= end
            free_s[slot - 1] = min(free, end)
            replica[slot - 1] = other if is_sooner else server
            end = max(free, end)
            server = server if is_sooner else other
        free_s[count - 1] = end
        replica[count - 1] = server
    state[HEAD] = head
    state[BATCHES] = batch
    return answer
