"""Dominance among many candidates, and within many small groups at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline

# Candidates compared at once: large enough for NumPy, small enough for the cache.
CHUNK = 256
# Candidates that all others are compared with first, if there are more.
STRONG = 16
# [i, j]: True if i comes before j.
BEFORE: NDArray[np.bool_] = np.ascontiguousarray(np.tri(CHUNK, CHUNK, -1, dtype=bool).T)
# Neighbours compared first: the number of batch sizes of a variant, since those dominate each other most.
RUN = 8
# Comparisons held in memory at once.
MOST = 500_000


def undominated(
    columns: Array, deadline: Deadline | None = None, lasting: Sequence[int] | None = None
) -> NDArray[np.intp]:
    """The indices of the columns that no other column equals or undercuts in every row, ascending.

    `columns` is (criteria × candidates), smaller is better. Of equal candidates the first stays. With
    `lasting`, a candidate goes only for an earlier one, or for one that undercuts it in one of those rows.
    DeadlineError if the time runs out.
    """
    order = np.lexsort(columns[::-1])
    ranked = columns.take(order, axis=1)
    if len(order) > CHUNK and lasting is None:
        left = (~_covered_by_strong(ranked)).nonzero()[0]
        order, ranked = order.take(left), ranked.take(left, axis=1)
    if len(order) <= CHUNK and (deadline is None or not deadline.passed):
        return np.sort(order[~_covered_before(ranked, order, lasting)])
    kept = np.empty((len(columns), 0))
    kept_at = np.zeros(0, dtype=np.intp)
    for start in range(0, ranked.shape[1], CHUNK):
        if deadline is not None and deadline.passed:
            raise DeadlineError("the solver's time is up")
        block, at = ranked[:, start : start + CHUNK], order[start : start + CHUNK]
        if kept.shape[1]:
            free = ~_covered(kept, block, kept_at, at, lasting)
            block, at = block[:, free], at[free]
        free = ~_covered_before(block, at, lasting)
        kept = np.hstack([kept, block[:, free]])
        kept_at = np.concatenate([kept_at, at[free]])
    return np.sort(kept_at)


def _covered_by_strong(ranked: Array) -> NDArray[np.bool_]:
    """Find the candidates that one of a few good ones equals or undercuts.

    The order of the candidates is kept, so that of equal ones the first stays.
    """
    low, high = ranked.min(axis=1), ranked.max(axis=1)
    width = np.where((high > low) & np.isfinite(high - low), high - low, np.inf)
    with np.errstate(invalid="ignore"):
        score = ((ranked - low[:, None]) / width[:, None]).sum(axis=0)
    strong = np.sort(np.argpartition(score, STRONG)[:STRONG])
    covering = strong[:, None] < np.arange(ranked.shape[1])
    for row in ranked:
        np.logical_and(covering, row[strong][:, None] <= row[None, :], out=covering)
    covered: NDArray[np.bool_] = np.logical_or.reduce(covering, axis=0)
    return covered


def _covered_before(block: Array, at: NDArray[np.intp], lasting: Sequence[int] | None) -> NDArray[np.bool_]:
    """The candidates of the block that an earlier one equals or undercuts; the first row is ascending."""
    count = block.shape[1]
    within = BEFORE[:count, :count].copy()
    for row in block[1:]:
        np.logical_and(within, row[:, None] <= row[None, :], out=within)
    if lasting is not None:
        within &= _for_good(block, block, at, at, lasting)
    covered: NDArray[np.bool_] = np.logical_or.reduce(within, axis=0)
    return covered


def _covered(
    kept: Array,
    block: Array,
    kept_at: NDArray[np.intp],
    at: NDArray[np.intp],
    lasting: Sequence[int] | None,
) -> NDArray[np.bool_]:
    """The candidates of the block that a kept one equals or undercuts; it comes before in the first row."""
    covering = np.ones((kept.shape[1], block.shape[1]), dtype=bool)
    for kept_row, row in zip(kept[1:], block[1:], strict=True):
        np.logical_and(covering, kept_row[:, None] <= row[None, :], out=covering)
    if lasting is not None:
        covering &= _for_good(kept, block, kept_at, at, lasting)
    covered: NDArray[np.bool_] = np.logical_or.reduce(covering, axis=0)
    return covered


def _for_good(
    mine: Array, theirs: Array, mine_at: NDArray[np.intp], at: NDArray[np.intp], lasting: Sequence[int]
) -> NDArray[np.bool_]:
    """[i, j]: True if mine i comes before j of theirs, or undercuts it in a row that lasts."""
    found = mine_at[:, None] < at[None, :]
    for row in lasting:
        found |= mine[row][:, None] < theirs[row][None, :]
    return found


def undominated_in_groups(rows: Array, start: Index) -> NDArray[np.bool_]:
    """True for candidates that none of their group equals or undercuts in all rows; of equal ones the first.

    `rows` is (criteria × candidates), smaller is better; group g is start[g]..start[g+1]−1.
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
