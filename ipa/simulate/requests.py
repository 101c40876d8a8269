"""Requests of several items: told apart into items before the queue, joined after it."""

from __future__ import annotations

import numpy as np

from ipa.simulate.queue import Bools, Ints, Items
from ipa.simulate.service import Floats

# id, birth, end, lost, server
Columns = tuple[Ints, Floats, Floats, Bools, Ints]


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

    def join(self, items: Items, until_s: float) -> Columns:
        """The requests that ended with these items, in order of their end.

        A request is lost with its first item that is lost.
        """
        columns = (items.ref, items.born_s, items.done_s, items.lost, items.server)
        # In order of their end, those of one moment as they came: so however the run was cut.
        if np.any(items.done_s[1:] < items.done_s[:-1]):
            columns = _pick(columns, np.argsort(items.done_s, kind="stable"))
        if np.any(columns[0] < 0):
            columns = self._joined(columns)
        return self._with_empty(columns, until_s) if self._empty else columns

    def _joined(self, columns: Columns) -> Columns:
        ref, lost = columns[0], columns[3]
        places = np.flatnonzero(ref < 0)
        rows = -1 - ref[places]
        np.subtract.at(self._left, rows, 1)
        lost_rows, at = np.unique(rows[lost[places]], return_index=True)
        keep = ref >= 0
        keep[places[lost[places]][at]] = ~self._told[lost_rows]
        self._told[lost_rows] = True
        last_rows, at = np.unique(rows[::-1], return_index=True)
        whole = (self._left[last_rows] == 0) & ~self._told[last_rows]
        self._told[last_rows[whole]] = True
        keep[places[::-1][at[whole]]] = True
        ids = ref.copy()
        ids[places] = self._ids[rows]
        return _pick((ids, *columns[1:]), keep)

    def _with_empty(self, columns: Columns, until_s: float) -> Columns:
        ids, times_s, born_s = (np.concatenate(each) for each in zip(*self._empty, strict=True))
        now = times_s < until_s
        self._empty = [] if now.all() else [(ids[~now], times_s[~now], born_s[~now])]
        count = int(now.sum())
        more = (ids[now], born_s[now], times_s[now], np.zeros(count, dtype=np.bool_), np.full(count, -1))
        both: Columns = (
            np.concatenate([columns[0], more[0]]),
            np.concatenate([columns[1], more[1]]),
            np.concatenate([columns[2], more[2]]),
            np.concatenate([columns[3], more[3]]),
            np.concatenate([columns[4], more[4]]),
        )
        return _pick(both, np.argsort(both[2], kind="stable"))

    def _reserve(self, rows: int) -> None:
        if rows > len(self._ids):
            size = max(2 * len(self._ids), rows, 64)
            for name in ("_ids", "_born_s", "_left", "_told"):
                old = getattr(self, name)
                grown = np.zeros(size, dtype=old.dtype)
                grown[: self._rows] = old[: self._rows]
                setattr(self, name, grown)


def _pick(columns: Columns, which: Ints | Bools) -> Columns:
    ids, born_s, done_s, lost, server = columns
    return ids[which], born_s[which], done_s[which], lost[which], server[which]
