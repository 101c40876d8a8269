"""Items that leave a queue, as columns of equal length."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

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
        return EndedItems(
            self.ref[which], self.born_s[which], self.done_s[which], self.lost[which], self.server[which]
        )

    def by_end(self) -> EndedItems:
        """The items sorted by their end."""
        return self.pick(np.argsort(self.done_s, kind="stable"))


@dataclass(slots=True)
class DepartedItems:
    """Columns of items that left the queue, in the order in which they left it."""

    ref: Ints
    arrived_s: Floats
    born_s: Floats
    done_s: Floats
    server: Ints
    lost: Bools

    def cut(self, chosen: Bools | Ints | slice) -> DepartedItems:
        """The chosen items."""
        return DepartedItems(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def and_then(self, later: DepartedItems) -> DepartedItems:
        """These items, then those."""
        if not len(self.ref) or not len(later.ref):
            return later if len(later.ref) else self
        return DepartedItems(
            *(
                np.concatenate([getattr(each, column.name) for each in (self, later)])
                for column in fields(self)
            )
        )


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
