"""The best selection within one budget: a multiple-choice knapsack, by the states that no other betters.

A state is a choice for the first owners: what it uses of the budget, and what it loses of its owners' most
profit (worth − price · use). A selection loses, together with its unused budget at the price, as much as its
worth is below the bound, which is the owners' most profit and the budget at the price. So states that lose
more than a window are left out, and if the best of the rest is within the window of the bound, it is best.
"""

from __future__ import annotations

from math import inf

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.program import EQUAL, tolerance

# The first window, relative to the bound above 1, and how much wider each next one is.
FIRST, WIDER = 1e-6, 8.0
# Worths closer than this, relative to the budget at the price, are equal.
ROUNDING = 1e-13


def best_selection(
    owner: Index, worth: Array, use: Array, budget: float, price: float, deadline: Deadline
) -> Index | None:
    """The columns, one of each owner, of most worth within the budget, of equally good ones of least use.

    `owner` is sorted, from 0 on without a gap. None if no selection fits. Errors: DeadlineError.
    """
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    profit = worth - price * use
    top = np.maximum.reduceat(profit, starts)
    lost = top[owner] - profit
    bound = float(top.sum()) + price * budget
    window = FIRST * max(1.0, abs(bound))
    columns = np.split(np.arange(len(owner)), starts[1:])
    while True:
        chosen = _within(columns, lost, use, budget, price, window, deadline)
        if window == inf or (chosen is not None and bound - float(worth[chosen].sum()) <= window):
            return chosen
        window = WIDER * window if window < lost.sum() else inf


def _within(
    columns: list[Index],
    lost: Array,
    use: Array,
    budget: float,
    price: float,
    window: float,
    deadline: Deadline,
) -> Index | None:
    """The selection of most worth of those that lose no more than the window; None if none fits."""
    least = [float(use[mine].min()) for mine in columns]
    # What the owners after each one use at least.
    later = np.append(np.cumsum(least[::-1])[::-1][1:], 0.0)
    rounding = ROUNDING * max(1.0, abs(price * budget))
    used, gone = np.zeros(1), np.zeros(1)
    steps: list[tuple[Index, Index]] = []
    for mine, others in zip(columns, later.tolist(), strict=True):
        if deadline.passed:
            raise DeadlineError("the time for the fleet's plan ran out among its selections")
        total_use = (used[:, None] + use[mine]).ravel()
        total_lost = (gone[:, None] + lost[mine]).ravel()
        fits = (total_lost <= window) & (total_use + others <= budget + tolerance(budget))
        worth = price * total_use - total_lost
        at = np.flatnonzero(fits)
        at = at[np.lexsort((-worth[at], total_use[at]))]
        # Sums that are equal up to rounding are one state.
        before = np.maximum.accumulate(np.append(-inf, worth[at]))[:-1]
        at = at[worth[at] > before + rounding]
        if not len(at):
            return None
        used, gone = total_use[at], total_lost[at]
        steps.append((at // len(mine), mine[at % len(mine)]))
    worth = price * used - gone
    best = int(np.argmax(worth >= worth.max() - EQUAL))
    chosen = []
    for parent, column in reversed(steps):
        chosen.append(int(column[best]))
        best = int(parent[best])
    return np.array(chosen[::-1], dtype=np.intp)
