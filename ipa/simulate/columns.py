"""Items and batches that leave a queue, as columns of equal length; the log of batches for metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipa.model.observation import Batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Items that wait, in order of arrival: their ids, their arrivals at the queue and at the pipeline.
Waiting = tuple[Ints, Floats, Floats]


class Items(NamedTuple):
    """Columns of requests or items that left a queue.

    If a request has several items, the id of each is -1 - the request's number. They arrived at the queue at
    `arrived_s`, at the pipeline at `born_s`, and ended at `done_s`; `server` is the number of the replica
    that served them (-1: none).
    """

    ids: Ints
    arrived_s: Floats
    born_s: Floats
    done_s: Floats
    lost: Bools
    server: Ints

    @property
    def latency_s(self) -> Floats:
        """The seconds from arrival at the pipeline to the end."""
        return self.done_s - self.born_s

    def pick(self, which: Ints | Bools | slice) -> Items:
        """The items at these indices."""
        return Items._make(column[which] for column in self)

    @staticmethod
    def joined(pieces: Sequence[Items]) -> Items:
        """The items of all pieces, one after the other."""
        full = [piece for piece in pieces if len(piece.ids)]
        if len(full) < 2:
            return full[0] if full else NO_ITEMS
        return Items._make(map(np.concatenate, zip(*full, strict=True)))

    def by_end(self) -> Items:
        """The items sorted by their end; those that end together keep their order."""
        return self.pick(np.argsort(self.done_s, kind="stable"))

    @staticmethod
    def passed(ids: Ints, born_s: Floats, at_s: Floats) -> Items:
        """The requests as items that a stage without variants passed on at once, at `at_s`."""
        return Items(ids, at_s, born_s, at_s, np.zeros(len(ids), dtype=np.bool_), np.full(len(ids), -1))


NO_ITEMS = Items.passed(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


class FormedBatches(NamedTuple):
    """Batches by number and the items in them, in the order of the queue.

    Batch k ends before item `stops[k]`; `lost` marks items, and all items of a batch of server -1 are lost.
    Metrics have the times `observed_s`, of the planned variant; not those of lighter ones (NaN).
    """

    ids: Ints
    arrived_s: Floats
    born_s: Floats
    stops: Ints
    starts_s: Floats
    ends_s: Floats
    server: Ints
    lost: Bools
    observed_s: Floats

    def items(self) -> Items:
        """The items one by one."""
        sizes = np.diff(self.stops, prepend=0)
        done_s, server = np.repeat(self.ends_s, sizes), np.repeat(self.server, sizes)
        if self.lost.any():
            done_s[self.lost], server[self.lost] = np.repeat(self.starts_s, sizes)[self.lost], -1
        return Items(self.ids, self.arrived_s, self.born_s, done_s, self.lost, server)


class RowTable:
    """Columns of values by a row number from 0 on; new rows begin with each column's default."""

    def __init__(self, first_values: Mapping[tuple[str | int, ...], float | bool]) -> None:
        self._first_values = dict(first_values)
        self._length = 0
        self.columns = {name: np.full(0, value) for name, value in first_values.items()}

    def reach(self, length: int) -> None:
        """Grow the table to at least that many rows."""
        if length > self._length:
            for name, value in self._first_values.items():
                grown = np.full(2 * length, value)
                grown[: self._length] = self.columns[name]
                self.columns[name] = grown
            self._length = 2 * length


# The longest past of batches that is read: a window of metrics, their delay, and a long batch.
KEPT_S = 600.0


class BatchLog:
    """Formed batches, in the order of their start; pieces older than `KEPT_S` are dropped."""

    def __init__(self) -> None:
        self._pieces: deque[FormedBatches] = deque()
        self._longest_s = 0.0

    def add(self, formed: FormedBatches) -> None:
        """Add batches with their start and end."""
        self._pieces.append(formed)
        self._longest_s = max(self._longest_s, float(np.max(formed.ends_s - formed.starts_s)))
        oldest_s = formed.starts_s[-1] - KEPT_S
        while self._pieces[0].starts_s[-1] < oldest_s:
            self._pieces.popleft()

    def items_in(self, since_s: float, until_s: float) -> Items:
        """The items served after `since_s` and until `until_s`."""
        pieces = []
        for formed in reversed(self._pieces):
            if formed.starts_s[-1] + self._longest_s <= since_s:
                break
            items = formed.items()
            ended = (items.done_s > since_s) & (items.done_s <= until_s) & ~items.lost & (items.server >= 0)
            pieces.append(items.pick(ended))
        return Items.joined(pieces)

    def sums(self, since_s: float, until_s: float) -> tuple[int, float, int]:
        """The number of batches that ended after `since_s` and until `until_s`, their seconds and items.

        Batches whose items were all lost do not count.
        """
        count, seconds, total = 0, 0.0, 0
        for formed in reversed(self._pieces):
            if formed.starts_s[-1] + self._longest_s <= since_s:
                break
            ended = (formed.ends_s > since_s) & (formed.ends_s <= until_s) & (formed.server >= 0)
            ended &= ~np.isnan(formed.observed_s)
            if not ended.any():
                continue
            lost = np.concatenate([[0], np.cumsum(formed.lost)])[formed.stops]
            items = np.diff(formed.stops - lost, prepend=0)
            count += int(np.count_nonzero(ended))
            seconds += float(np.sum(formed.observed_s[ended]))
            total += int(np.sum(items[ended]))
        return count, seconds, total


def served(logs: Sequence[BatchLog], since_s: float, until_s: float) -> Batches | None:
    """The batches of all logs together that ended in that time; None if there are none."""
    sums = [log.sums(since_s, until_s) for log in logs]
    count, seconds, items = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0.0, 0)
    if not count:
        return None
    return Batches(float(count), seconds / count, items / count, until_s - since_s)
