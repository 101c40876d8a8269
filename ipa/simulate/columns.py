"""Items and batches that leave a queue, as columns of equal length; the log of batches for metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipa.model.observation import Batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


class EndedItems(NamedTuple):
    """Columns of ended requests or items, by their end, those of one moment in the order of the queue.

    The id of an item of a request with several is -1 - the request's number.
    """

    ids: Ints
    born_s: Floats
    done_s: Floats
    lost: Bools
    server: Ints

    @property
    def latency_s(self) -> Floats:
        """Seconds from birth to end."""
        return self.done_s - self.born_s

    def pick(self, which: Ints | Bools | slice) -> EndedItems:
        """The items at these places."""
        return EndedItems._make(column[which] for column in self)

    @staticmethod
    def joined(pieces: Sequence[EndedItems]) -> EndedItems:
        """The items of all pieces, one or more."""
        return (
            pieces[0]
            if len(pieces) == 1
            else EndedItems._make(map(np.concatenate, zip(*pieces, strict=True)))
        )

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


# Rows of a table that has few.
LEAST_ROWS = 64


class RowTable:
    """Columns of values by a number that rises, for the numbers from the oldest that `is_inside` on.

    A new row is inside, and has the first value of each column. Memory is that of the rows inside.
    """

    def __init__(self, first_values: Mapping[tuple[str | int, ...], float | bool]) -> None:
        self._first_values = dict(first_values)
        self.columns = {name: np.full(LEAST_ROWS, value) for name, value in first_values.items()}
        self.is_inside = np.zeros(LEAST_ROWS, dtype=np.bool_)
        # The number of the first row.
        self._first = 0

    def rows(self, numbers: Ints) -> Ints:
        """The places of these numbers in the columns, until the next call of `add`."""
        return numbers - self._first

    def add(self, numbers: Ints) -> Ints:
        """Begin the rows of these numbers, which rise and are above all earlier ones; their places."""
        if len(numbers) and numbers[-1] - self._first >= len(self.is_inside):
            inside = np.flatnonzero(self.is_inside)
            oldest = self._first + int(inside[0]) if len(inside) else int(numbers[0])
            length = max(LEAST_ROWS, 2 * (int(numbers[-1]) + 1 - oldest))
            self.is_inside = moved(self.is_inside, oldest - self._first, length)
            for name, column in self.columns.items():
                self.columns[name] = moved(column, oldest - self._first, length)
            self._first = oldest
        rows = self.rows(numbers)
        self.is_inside[rows] = True
        for name, value in self._first_values.items():
            self.columns[name][rows] = value
        return rows


def moved(column: NDArray[T], first: int, length: int) -> NDArray[T]:
    """The column from that place on, with zeros up to the length."""
    larger = np.zeros(length, dtype=column.dtype)
    kept = column[first : first + length]
    larger[: len(kept)] = kept
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
