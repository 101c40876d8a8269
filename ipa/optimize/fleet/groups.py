"""Dominance within many small groups at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.columns import Array, Index

# Neighbours compared first: the number of batch sizes of a variant, since those dominate each other most.
RUN = 8
# Comparisons held in memory at once.
MOST = 500_000


def undominated_in_groups(rows: Array, start: Index) -> NDArray[np.bool_]:
    """True for candidates that none of their group equals or undercuts in all rows; of equal ones the first.

    `rows` is (criteria × candidates), all to be small; group g is start[g]..start[g+1]−1.
    """
    kept = np.ones(rows.shape[1], dtype=bool)
    counts = np.diff(start)
    widest = int(counts.max(initial=0))
    if widest <= 1:
        return kept
    width = -(-widest // RUN) * RUN
    places = np.minimum(start[:-1, None] + np.arange(width), rows.shape[1] - 1)
    empty = np.arange(width) >= counts[:, None]
    places, empty = _without(rows, places.reshape(-1, RUN), empty.reshape(-1, RUN))
    places, empty = places.reshape(-1, width), empty.reshape(-1, width)
    # The remaining candidates of each group, at its front.
    narrow = int((~empty).sum(axis=1).max())
    order = np.argsort(empty, axis=1, kind="stable")[:, :narrow]
    places, empty = np.take_along_axis(places, order, axis=1), np.take_along_axis(empty, order, axis=1)
    places, empty = _without(rows, places, empty)
    kept[:] = False
    kept[places[~empty]] = True
    return kept


def _without(rows: Array, places: Index, empty: NDArray[np.bool_]) -> tuple[Index, NDArray[np.bool_]]:
    """The same places (groups × width), marked empty if dominated by another of the row."""
    count, width = places.shape
    beaten = empty.copy()
    first = ~np.tri(width, k=-1, dtype=bool).T
    step = max(1, MOST // width**2)
    for at in range(0, count, step):
        part = slice(at, at + step)
        inside = ~empty[part]
        within = inside[:, :, None] & inside[:, None, :]
        for row in rows:
            values = row[places[part]]
            within &= values[:, :, None] <= values[:, None, :]
        # Of equal ones, each within the other, only a later one is dominated.
        within &= ~(within.transpose(0, 2, 1) & first)
        beaten[part] |= within.any(axis=1)
    return places, beaten
