"""Requests of several items: told apart into items before the queue, joined after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipa.simulate.queue import Items
from ipa.simulate.service import Floats

Ints = NDArray[np.int64]


class Requests:
    """Those of which items are at a stage. An item of a single-item request carries its request's id.

    One of several carries -1 - its row in this table.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._ids = np.empty(0, dtype=np.int64)
        self._born_s = np.empty(0)
        self._left = np.empty(0, dtype=np.int64)  # items that have not ended
        self._told = np.empty(0, dtype=np.bool_)  # reported: the request has ended
        self._empty: list[tuple[Ints, Floats, Floats]] = []  # without items: id, time, birth

    def expand(self, ids: Ints, times_s: Floats, born_s: Floats, items: Ints) -> tuple[Ints, Floats, Floats]:
        """The items of these requests: reference, time, birth."""
        many = items > 1
        refs = ids.copy()
        count = int(many.sum())
        if count:
            if self._rows and self._told[: self._rows].all() and not self._left[: self._rows].any():
                self._rows = 0
            self._reserve(self._rows + count)
            rows = np.arange(self._rows, self._rows + count)
            self._ids[rows], self._born_s[rows] = ids[many], born_s[many]
            self._left[rows], self._told[rows] = items[many], False
            refs[many] = -1 - rows
            self._rows += count
        none = items == 0
        if none.any():
            self._empty.append((ids[none], times_s[none], born_s[none]))
        return np.repeat(refs, items), np.repeat(times_s, items), np.repeat(born_s, items)

    def join(self, items: Items, until_s: float) -> tuple[Ints, Floats, Floats, NDArray[np.bool_], Ints]:
        """The requests that ended with these items, in order of their end: id, birth, end, lost, server.

        A request is lost with its first item that is lost.
        """
        # In order of their end, those of one moment as they came: so however the run was cut.
        if np.any(items.done_s[1:] < items.done_s[:-1]):
            order = np.argsort(items.done_s, kind="stable")
            columns = [
                column[order] for column in (items.ref, items.born_s, items.done_s, items.lost, items.server)
            ]
        else:
            columns = [items.ref, items.born_s, items.done_s, items.lost, items.server]
        if np.any(columns[0] < 0):
            columns = self._joined(*columns)
        if self._empty:
            columns = self._with_empty(columns, until_s)
        return columns[0], columns[1], columns[2], columns[3], columns[4]

    def _joined(self, ref: Ints, *others: NDArray) -> list[NDArray]:
        lost = others[2]
        rows = -1 - ref[ref < 0]
        places = np.flatnonzero(ref < 0)
        # The first loss of each row, and the last item of each row whose items have all ended by now.
        np.subtract.at(self._left, rows, 1)
        lost_rows, at = np.unique(rows[lost[places]], return_index=True)
        lost_at = places[lost[places]][at]
        fresh = ~self._told[lost_rows]
        self._told[lost_rows] = True
        back_rows, at = np.unique(rows[::-1], return_index=True)
        last_at = places[::-1][at]
        whole = (self._left[back_rows] == 0) & ~self._told[back_rows]
        self._told[back_rows[whole]] = True
        keep = ref >= 0
        keep[lost_at[fresh]] = True
        keep[last_at[whole]] = True
        ids = ref.copy()
        ids[places] = self._ids[rows]
        return [ids[keep], *(column[keep] for column in others)]

    def _with_empty(self, columns: list[NDArray], until_s: float) -> list[NDArray]:
        ids, times_s, born_s = (np.concatenate(each) for each in zip(*self._empty, strict=True))
        now = times_s < until_s
        self._empty = [(ids[~now], times_s[~now], born_s[~now])] if not now.all() else []
        none = np.zeros(int(now.sum()), dtype=np.bool_)
        more = (ids[now], born_s[now], times_s[now], none, np.full(len(none), -1))
        columns = [np.concatenate(pair) for pair in zip(columns, more, strict=True)]
        order = np.argsort(columns[2], kind="stable")
        return [column[order] for column in columns]

    def _reserve(self, rows: int) -> None:
        if rows > len(self._ids):
            size = max(2 * len(self._ids), rows, 64)
            for name in ("_ids", "_born_s", "_left", "_told"):
                old = getattr(self, name)
                grown = np.zeros(size, dtype=old.dtype)
                grown[: self._rows] = old[: self._rows]
                setattr(self, name, grown)
