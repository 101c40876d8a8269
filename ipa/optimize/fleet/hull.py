"""The choices of each owner that matter: the undominated ones, and the upper hull of worth over cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipa.optimize.columns import Array, Index
from ipa.optimize.program import tolerance


@dataclass(frozen=True, slots=True, eq=False)
class Hull:
    """Each owner's cheapest choice, and the steps up its hull: slopes fall along the steps of an owner.

    `to` is the choice that a step leads to. All arrays but `first` have an entry a step.
    """

    first: Index
    owner: Index
    to: Index
    cores: Array
    worth: Array
    slope: Array


@dataclass(frozen=True, slots=True, eq=False)
class HullBreak:
    """The point at which the budget ends on the hulls: its price, the Lagrange bound, and the choices."""

    price: float
    bound: float
    chosen: Index


def undominated_choices(owner: Index, cost: Array, worth: Array) -> Index:
    """The choices that no other of the owner undercuts or equals, by owner and rising cost (and worth)."""
    order: Index = np.lexsort((-worth, cost, owner))
    while True:
        who, good = owner[order], worth[order]
        fresh = np.r_[True, (who[1:] != who[:-1]) | (good[1:] > good[:-1])]
        if fresh.all():
            return order
        order = order[fresh]


def hull_of(owner: Index, cost: Array, worth: Array, owners: int) -> Hull:
    """The hulls of undominated choices in the order of `undominated_choices`."""
    at = np.arange(len(owner))
    while True:
        same = owner[at[1:]] == owner[at[:-1]]
        rise, run = np.diff(worth[at]), np.diff(cost[at])
        # A point on or below the line between its neighbours is no corner; they are choices themselves.
        low = same[1:] & same[:-1] & (rise[:-1] * run[1:] <= rise[1:] * run[:-1])
        if not low.any():
            break
        at = np.delete(at, np.flatnonzero(low) + 1)
    to = at[1:][same]
    first = np.searchsorted(owner, np.arange(owners))
    return Hull(first, owner[to], to, run[same], rise[same], rise[same] / run[same])


def break_of(hull: Hull, cost: Array, worth: Array, budget_cores: float) -> HullBreak:
    """The steps of steepest slope that the budget holds (the linear relaxation, Sinha and Zoltners 1979)."""
    least = float(cost[hull.first].sum())
    order = np.argsort(-hull.slope, kind="stable")
    spent = np.concatenate([[least], least + np.cumsum(hull.cores[order])])
    within = int(np.searchsorted(spent, budget_cores + tolerance(budget_cores), side="right")) - 1
    taken = order[:within]
    chosen = hull.first.copy()
    # Slopes fall along an owner's steps, so of those taken the last is the furthest.
    np.maximum.at(chosen, hull.owner[taken], hull.to[taken])
    reached = float(worth[chosen].sum())
    if within == len(order):
        return HullBreak(0.0, reached, chosen)
    price = float(hull.slope[order[within]])
    left = max(0.0, budget_cores - float(cost[chosen].sum()))
    return HullBreak(price, reached + price * left, chosen)
