"""Items and batches that leave a queue, as columns of equal length; the log of batches for metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipa.model.observation import Batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


class EndedItems(NamedTuple):
    """Columns of ended items, by their end, those of one moment in the order of the queue."""

    ref: Ints
    born_s: Floats
    done_s: Floats
    lost: Bools
    server: Ints

    def pick(self, which: Ints | Bools | slice) -> EndedItems:
        """The items at these places."""
        return EndedItems._make(column[which] for column in self)

    def by_end(self) -> EndedItems:
        """The items sorted by their end."""
        return self.pick(np.argsort(self.done_s, kind="stable"))


class DepartedItems(NamedTuple):
    """Columns of items that left the queue, in the order in which they left it."""

    ref: Ints
    arrived_s: Floats
    born_s: Floats
    done_s: Floats
    server: Ints
    lost: Bools

    def cut(self, chosen: Bools | Ints | slice) -> DepartedItems:
        """The chosen items."""
        return DepartedItems._make(column[chosen] for column in self)

    def and_then(self, later: DepartedItems) -> DepartedItems:
        """These items, then those."""
        if not len(self.ref) or not len(later.ref):
            return later if len(later.ref) else self
        return DepartedItems._make(map(np.concatenate, zip(self, later, strict=True)))


class FormedBatches(NamedTuple):
    """Batches by their number and the items in them, in the order of the queue.

    Batch k ends before item `stops[k]`; `lost` is by item, and a batch of server -1 is lost whole.
    """

    ref: Ints
    arrived_s: Floats
    born_s: Floats
    stops: Ints
    starts_s: Floats
    ends_s: Floats
    server: Ints
    lost: Bools

    def items(self) -> DepartedItems:
        """The items one by one."""
        sizes = np.diff(self.stops, prepend=0)
        done_s, server = np.repeat(self.ends_s, sizes), np.repeat(self.server, sizes)
        if self.lost.any():
            done_s[self.lost], server[self.lost] = np.repeat(self.starts_s, sizes)[self.lost], -1
        return DepartedItems(self.ref, self.arrived_s, self.born_s, done_s, server, self.lost)


def no_items() -> DepartedItems:
    """No items."""
    none, ints = np.empty(0), np.empty(0, dtype=np.int64)
    return DepartedItems(ints, none, none, none, ints, np.empty(0, dtype=np.bool_))


def grown(column: NDArray[T], length: int) -> NDArray[T]:
    """The column, extended to that length with zeros; to more, so that most additions have room."""
    if length <= len(column):
        return column
    larger = np.zeros(max(2 * len(column), length, 64), dtype=column.dtype)
    larger[: len(column)] = column
    return larger


# The longest past that is read: a window of metrics, their delay, and a long batch.
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

    def latencies_in(self, since_s: float, until_s: float) -> Floats:
        """The seconds from arrival to end of the items served after `since_s` and until `until_s`."""
        found: list[Floats] = [np.empty(0)]
        for formed in reversed(self._pieces):
            if formed.starts_s[-1] + self._longest_s <= since_s:
                break
            items = formed.items()
            ended = (items.done_s > since_s) & (items.done_s <= until_s) & ~items.lost & (items.server >= 0)
            found.append((items.done_s - items.arrived_s)[ended])
        return np.concatenate(found)

    def sums(self, since_s: float, until_s: float) -> tuple[int, float, int]:
        """The number of batches that ended after `since_s` and until `until_s`, their seconds and items.

        Those whose items were all lost are none.
        """
        count, seconds, total = 0, 0.0, 0
        for formed in reversed(self._pieces):
            if formed.starts_s[-1] + self._longest_s <= since_s:
                break
            ended = (formed.ends_s > since_s) & (formed.ends_s <= until_s) & (formed.server >= 0)
            if not ended.any():
                continue
            lost = np.concatenate([[0], np.cumsum(formed.lost)])[formed.stops]
            items = np.diff(formed.stops - lost, prepend=0)
            count += int(np.count_nonzero(ended))
            seconds += float(np.sum((formed.ends_s - formed.starts_s)[ended]))
            total += int(np.sum(items[ended]))
        return count, seconds, total


def served(logs: Sequence[BatchLog], since_s: float, until_s: float) -> Batches | None:
    """The batches of all logs together that ended in that time; None if there are none."""
    sums = [log.sums(since_s, until_s) for log in logs]
    count, seconds, items = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0.0, 0)
    if not count:
        return None
    return Batches(float(count), seconds / count, items / count, until_s - since_s)
