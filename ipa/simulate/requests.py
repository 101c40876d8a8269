"""Requests of several items: split into items before the queue, joined after it."""

from __future__ import annotations

import numpy as np

from ipa.simulate.columns import EndedItems, Floats, Ints, grown


class Requests:
    """The requests whose items are at a stage. An item of a single-item request carries its request's id.

    An item of one with several carries -1 - the request's row in this table.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._ids = np.empty(0, dtype=np.int64)
        self._born_s = np.empty(0)
        self._left = np.empty(0, dtype=np.int64)  # items that have not ended
        self._told = np.empty(0, dtype=np.bool_)  # its end was reported
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

    def join(self, ended: EndedItems, until_s: float) -> EndedItems:
        """The requests that ended with these items, in order of their end, by their ids.

        A request is lost with its first item that is lost.
        """
        if self._rows and np.any(ended.ref < 0):
            ended = self._joined(ended)
        return self._with_empty(ended, until_s) if self._empty else ended

    def _joined(self, ended: EndedItems) -> EndedItems:
        places = np.flatnonzero(ended.ref < 0)
        rows = -1 - ended.ref[places]
        lost = ended.lost[places]
        np.subtract.at(self._left, rows, 1)
        keep = ended.ref >= 0
        lost_rows, at = np.unique(rows[lost], return_index=True)
        keep[places[lost][at]] = ~self._told[lost_rows]
        self._told[lost_rows] = True
        last_rows, at = np.unique(rows[::-1], return_index=True)
        whole = (self._left[last_rows] == 0) & ~self._told[last_rows]
        self._told[last_rows[whole]] = True
        keep[places[::-1][at[whole]]] = True
        ids = ended.ref.copy()
        ids[places] = self._ids[rows]
        return ended._replace(ref=ids).pick(keep)

    def _with_empty(self, ended: EndedItems, until_s: float) -> EndedItems:
        ids, times_s, born_s = (np.concatenate(each) for each in zip(*self._empty, strict=True))
        now = times_s < until_s
        self._empty = [] if now.all() else [(ids[~now], times_s[~now], born_s[~now])]
        count = int(now.sum())
        more = EndedItems(
            ids[now], born_s[now], times_s[now], np.zeros(count, dtype=np.bool_), np.full(count, -1)
        )
        return EndedItems(*(np.concatenate(pair) for pair in zip(ended, more, strict=True))).by_end()

    def _reserve(self, rows: int) -> None:
        for name in ("_ids", "_born_s", "_left", "_told"):
            setattr(self, name, grown(getattr(self, name), rows))
