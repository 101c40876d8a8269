"""Combine shares and plans into the best mixture within the cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from ipa.optimize.columns import Array, Index
from ipa.optimize.program import tolerance


@dataclass(frozen=True, slots=True)
class ShareFrontier:
    """Ways to serve a share, by strictly rising cost and worth; `first` and `rest` give their parts.

    For one part `first` is the index of its plan. For more it is that of the added plan, `share` its share,
    `rest` the place in the frontier of the other parts.
    """

    cost: Array
    worth: Array
    share: Index
    first: Index
    rest: Index

    @classmethod
    def of_plans(cls, share: int, cost: Array, worth: Array) -> ShareFrontier:
        """The frontier of one part, from plans in any order."""
        count = np.arange(len(cost))
        return undominated(cost, worth, np.full(len(cost), share), count, np.zeros(len(cost), dtype=np.intp))


def undominated(cost: Array, worth: Array, share: Index, first: Index, rest: Index) -> ShareFrontier:
    """The ways that no other equals or exceeds in cost and worth."""
    order = np.lexsort((-worth, np.round(cost, 9)))
    before = np.maximum.accumulate(np.append(-inf, worth[order][:-1]))
    at = order[worth[order] > before]
    return ShareFrontier(cost[at], worth[at], share[at], first[at], rest[at])


def best_mixture(
    plans: Mapping[int, ShareFrontier], max_parts: int, cores: float
) -> tuple[float, list[tuple[int, int]]]:
    """The most worth of at most `max_parts` shares that sum to 100, and (share, index of plan) of each.

    −inf and nothing if no shares with plans do. By dynamic programming over the sum of shares: with k parts
    it is each single part beside the frontier of k − 1 parts with the rest; a part never has more than those
    after it, since order does not matter.
    """
    levels: list[dict[int, ShareFrontier]] = [dict(plans)]
    for parts in range(2, max_parts + 1):
        last = parts == max_parts
        sums = [100] if last else sorted({a + b for a in plans for b in levels[-1] if a + b < 100} | {100})
        grown = {
            total: joined for total in sums if (joined := _joined(plans, levels[-1], total, parts, cores))
        }
        levels.append(grown)
    best, found = -inf, []
    for depth, level in enumerate(levels):
        frontier = level.get(100)
        within = (
            0 if frontier is None else int(np.searchsorted(frontier.cost, cores + tolerance(cores), "right"))
        )
        if frontier is not None and within and frontier.worth[within - 1] > best:
            best = float(frontier.worth[within - 1])
            found = _trace(levels, depth, 100, within - 1)
    return best, found


def _joined(
    plans: Mapping[int, ShareFrontier],
    others: Mapping[int, ShareFrontier],
    total: int,
    parts: int,
    cores: float,
) -> ShareFrontier | None:
    """The frontier of a part beside `others` that together serve `total` percent."""
    pieces = []
    for share, plan in plans.items():
        # The smallest part is added last.
        if share * parts > total or total - share not in others:
            continue
        other = others[total - share]
        cost = np.add.outer(plan.cost, other.cost)
        row, column = np.nonzero(cost <= cores + tolerance(cores))
        worth = plan.worth[row] + other.worth[column]
        pieces.append((cost[row, column], worth, np.full(len(row), share), plan.first[row], column))
    if not pieces:
        return None
    joined = undominated(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    return joined if len(joined.cost) else None


def _trace(levels: list[dict[int, ShareFrontier]], depth: int, total: int, at: int) -> list[tuple[int, int]]:
    found = []
    for level in range(depth, -1, -1):
        frontier = levels[level][total]
        share = int(frontier.share[at])
        found.append((share, int(frontier.first[at])))
        total, at = total - share, int(frontier.rest[at])
    return found
