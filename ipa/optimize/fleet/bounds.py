"""Upper bounds on the worth of completions of partial plans at a price of cores, for many lanes at once.

The limits are relaxed with multipliers (Lagrange); the rest is a recursion over the product so far, tabulated
at some points and read off the chord between them, which lies above since the bound is convex in the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from ipa.optimize.columns import Array, Index
from ipa.optimize.fleet.batches import LaneBatch

# Multipliers tried first, relative to the natural scale of the lane; then some between the best neighbours.
SCALES = np.concatenate([[0.0], 4.0 ** np.arange(-6, 3)])
BETWEEN = 3
ROUNDS = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A stage's groups in equally many slots for every lane; a lane with fewer repeats its first group.

    For each slot and each point of the table before it: the place to read in the table after it.
    """

    group: Index
    slots: int
    cell: Index
    share: Array


class Grid:
    """The points of the product at each depth: `points` ones from the smallest to the largest reachable."""

    def __init__(self, lanes: LaneBatch, points: int) -> None:
        self.points = points
        count = len(lanes)
        steps = np.linspace(0.0, 1.0, points)
        self.largest = [np.ones(count)]
        self._least = [np.ones(count)]
        self.steps: list[_Step] = []
        for stage in lanes.stages:
            last = stage.factor[stage.start[1:] - 1]
            first = stage.factor[stage.start[:-1]]
            largest = np.where(last > 0, last, 1.0)
            before = self._least[-1][:, None] + (1.0 - self._least[-1])[:, None] * steps
            self._least.append(self._least[-1] * first / largest)
            self.largest.append(self.largest[-1] * largest)
            counts = np.diff(stage.group_start)
            slots = int(counts.max())
            slot = np.arange(slots)
            group = stage.group_start[:-1, None] + np.where(slot < counts[:, None], slot, 0)
            ratio = stage.factor[stage.group][group] / largest[:, None]
            lane = np.arange(count)[:, None, None]
            cell, share = self._place(len(self.steps) + 1, lane, before[:, None, :] * ratio[:, :, None])
            self.steps.append(
                _Step(group.ravel(), slots, cell.reshape(-1, points), share.reshape(-1, points))
            )
        self.top = (
            lanes.alpha[:, None]
            * self.largest[-1][:, None]
            * (self._least[-1][:, None] + (1.0 - self._least[-1])[:, None] * steps)
        )

    def _place(self, depth: int, lane: Index, product: Array) -> tuple[Index, Array]:
        least = self._least[depth][lane]
        width = 1.0 - least
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.where(width > 0, (product - least) / width, 0.0) * (self.points - 1)
        cell = np.clip(at.astype(np.intp), 0, self.points - 2)
        return lane * self.points + cell, np.clip(at - cell, 0.0, 1.0)

    def place(self, depth: int, lane: Index, product: Array) -> tuple[Index, Array]:
        """The cell of the flat table at that depth, and the place within it, of a product."""
        return self._place(depth, lane, product / self.largest[depth][lane])


class LaneBounds:
    """The tables at a price for some multipliers (choices × limits × lanes)."""

    def __init__(self, lanes: LaneBatch, grid: Grid, price: float, multipliers: Array) -> None:
        self._lanes, self._grid, self._price = lanes, grid, price
        self.multipliers = multipliers
        self._tables = tables(lanes, grid, price, multipliers)
        self._most = _finite(lanes.weak_most)

    @property
    def root(self) -> Array:
        """The bound of each lane on all its plans."""
        whole = self._tables[0][:, :, -1] + np.einsum("mlp,lp->mp", self.multipliers, self._most)
        bound: Array = whole.min(axis=0)
        return bound

    def upper(self, depth: int, lane: Index, product: Array, reward: Array, use: Array) -> Array:
        """The bound of partial plans: `reward` is their value less the price of their cores."""
        cell, share = self._grid.place(depth, lane, product)
        # Multipliers of limits that a lane does not have are 0.
        slack = self._most[:, lane] - self._lanes.weak_use(use, lane)
        best = np.full(len(lane), inf)
        for table, multipliers in zip(self._tables[depth], self.multipliers, strict=True):
            flat = table.reshape(-1)
            low = flat[cell]
            bound = low + (flat[cell + 1] - low) * share
            for row, multiplier in zip(slack, multipliers, strict=True):
                bound += multiplier[lane] * row
            np.minimum(best, bound, out=best)
        return best + reward


def tables(lanes: LaneBatch, grid: Grid, price: float, multipliers: Array) -> list[Array]:
    """The highest α · product + Σ (value − price · cost − use · m) from each depth on.

    An array (choices × lanes × points) a depth.
    """
    choices = len(multipliers)
    found = [np.broadcast_to(grid.top, (choices, *grid.top.shape))]
    for stage, step in zip(reversed(lanes.stages), reversed(grid.steps), strict=True):
        reward = stage.value - price * stage.cost
        lane = stage.lane
        rewards = np.repeat(reward[None, :], choices, axis=0)
        rows = lanes.weak_use(stage.use, lane)
        for choice in range(choices):
            for use, multiplier in zip(rows, multipliers[choice], strict=True):
                rewards[choice] -= use * multiplier[lane]
        best = np.maximum.reduceat(rewards, stage.group, axis=1)[:, step.group]
        after = found[-1].reshape(choices, -1)
        table = np.take(after, step.cell, axis=1, mode="clip")
        rise = np.take(after, step.cell + 1, axis=1, mode="clip")
        rise -= table
        rise *= step.share
        table += rise
        table += best[:, :, None]
        found.append(table.reshape(choices, len(lanes), step.slots, -1).max(axis=2))
    return found[::-1]


def good_multipliers(lanes: LaneBatch, grid: Grid, price: float) -> Array:
    """The multipliers (limits × lanes) of the least bound, found limit by limit."""
    limits, count = lanes.most.shape
    best = np.zeros((limits, count))
    spread = lanes.alpha * grid.largest[-1]
    for stage in lanes.stages:
        reward = stage.value - price * stage.cost
        spread = spread + np.maximum.reduceat(reward, stage.start[:-1])
        spread -= np.minimum.reduceat(reward, stage.start[:-1])
    real = np.isfinite(lanes.most)
    most = _finite(lanes.weak_most)
    for _ in range(1 if limits == 1 else 2):
        for limit in range(limits):
            scale = np.where(real[limit], spread / np.maximum(np.abs(most[limit]), 1e-9), 0.0)
            tries = SCALES[:, None] * scale
            for again in range(ROUNDS + 1):
                whole = np.repeat(best[None], len(tries), axis=0)
                whole[:, limit] = tries
                dual = tables(lanes, grid, price, whole)[0][:, :, -1] + np.einsum("mlp,lp->mp", whole, most)
                at = np.argmin(dual, axis=0)
                best[limit] = tries[at, np.arange(count)]
                if again < ROUNDS:
                    low = tries[np.maximum(at - 1, 0), np.arange(count)]
                    high = tries[np.minimum(at + 1, len(tries) - 1), np.arange(count)]
                    tries = _between(low, best[limit], high)
    return best


def _finite(most: Array) -> Array:
    return np.where(np.isfinite(most), most, 0.0)


def _between(low: Array, middle: Array, high: Array) -> Array:
    """Points from the one neighbour to the other, the middle one among them, ascending."""
    parts = np.linspace(0.0, 1.0, BETWEEN, endpoint=False)[:, None]
    return np.concatenate([low + (middle - low) * parts, middle + (high - middle) * parts, high[None]])
