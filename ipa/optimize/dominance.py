"""Dominance among many candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.columns import Array
from ipa.optimize.deadline import Deadline

# Candidates compared at once: large enough for NumPy, small enough for the cache.
CHUNK = 256
# [i, j]: True if i comes before j.
BEFORE: NDArray[np.bool_] = np.ascontiguousarray(np.tri(CHUNK, CHUNK, -1, dtype=bool).T)


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
    if len(order) <= CHUNK and (deadline is None or not deadline.passed):
        return np.sort(order[~_covered_before(ranked, order, lasting)])
    kept = np.empty((len(columns), 0))
    kept_at = np.zeros(0, dtype=np.intp)
    for start in range(0, ranked.shape[1], CHUNK):
        if deadline is not None and deadline.passed:
            raise DeadlineError("the solver's time ran out")
        block, at = ranked[:, start : start + CHUNK], order[start : start + CHUNK]
        if kept.shape[1]:
            free = ~_covered(kept, block, kept_at, at, lasting)
            block, at = block[:, free], at[free]
        free = ~_covered_before(block, at, lasting)
        kept = np.hstack([kept, block[:, free]])
        kept_at = np.concatenate([kept_at, at[free]])
    return np.sort(kept_at)


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
