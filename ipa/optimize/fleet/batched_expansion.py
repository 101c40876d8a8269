"""Batched label setting: partial plans of many lanes grow stage by stage; hopeless and dominated ones go.

The upper bounds on completions of partial plans are for a price of cores. The limits are relaxed with
multipliers (Lagrange); the rest is a recursion over the product so far, tabulated at some points and read off
the chord between them, which lies above since the bound is convex in the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.fleet.batches import LaneBatch, LaneStage, spans

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


# Partial plans expanded together at most, which bounds a step's memory.
MOST = 4_000_000
# Pairs of labels compared together, and the labels of a lane above which not all pairs are compared.
PAIRS, LARGE = 1_000_000, 1_000


@dataclass(frozen=True, slots=True, eq=False)
class LaneLabels:
    """Partial plans by lane; `parent` and `option` say how each grew from those of the stage before."""

    lane: Index
    product: Array
    value: Array
    cost: Array
    use: Array
    parent: Index
    option: Index

    def __len__(self) -> int:
        return len(self.lane)

    def take(self, at: Index | NDArray[np.bool_]) -> LaneLabels:
        """Return those labels only."""
        return LaneLabels(
            self.lane[at],
            self.product[at],
            self.value[at],
            self.cost[at],
            self.use[:, at],
            self.parent[at],
            self.option[at],
        )


@dataclass(frozen=True, slots=True, eq=False)
class ExpandedPlans:
    """Whole plans by lane, their cost and worth, and the best bound dropped of each lane (−inf: none).

    `history` holds for each stage the parent label and the option (an index into the stage's columns).
    """

    lane: Index
    cost: Array
    worth: Array
    dropped: Array
    history: tuple[tuple[Index, Index], ...]

    def options(self, at: Index) -> list[Index]:
        """The options of the plans, one array a stage."""
        chosen = []
        for parent, option in reversed(self.history):
            chosen.append(option[at])
            at = parent[at]
        return chosen[::-1]


def grow(
    lanes: LaneBatch, bounds: LaneBounds, price: float, least: Array, width: int | None, deadline: Deadline
) -> ExpandedPlans:
    """All undominated plans that may earn `least` (one a lane) at the price.

    Only the most promising partial plans of each lane are kept if there are more than `width`, or more than
    memory should hold; `dropped` is then the best bound of the others. DeadlineError if the time runs out.
    """
    count = len(lanes)
    none = np.zeros(count, dtype=np.intp)
    use = np.zeros((len(lanes.stages[0].use), count))
    labels = LaneLabels(np.arange(count), np.ones(count), np.zeros(count), np.zeros(count), use, none, none)
    rest = _least_after(lanes)
    dropped = np.full(count, -inf)
    history = []
    for depth, stage in enumerate(lanes.stages, start=1):
        if deadline.passed:
            raise DeadlineError("the time for the fleet's plan ran out")
        labels = _step(lanes, stage, labels, rest[depth])
        earned = labels.value - price * labels.cost
        bound = bounds.upper(depth, labels.lane, labels.product, earned, labels.use)
        good = np.flatnonzero(bound >= least[labels.lane])
        labels, bound = labels.take(good), bound[good]
        wide = _widest(lanes, depth)
        labels = _most_promising(labels, bound, wide if width is None else min(width, wide), dropped)
        labels = labels.take(_undominated(labels, count, bool(lanes.alpha.any()), deadline))
        history.append((labels.parent, labels.option))
    worth = lanes.alpha[labels.lane] * labels.product + labels.value
    return ExpandedPlans(labels.lane, labels.cost, worth, dropped, tuple(history))


def _widest(lanes: LaneBatch, depth: int) -> int:
    """Labels of each lane such that the next step fits into memory, whatever the other lanes do."""
    options = len(lanes.stages[min(depth, len(lanes.stages) - 1)].option)
    return max(1, MOST // max(options, 1))


def _least_after(lanes: LaneBatch) -> list[Array]:
    """The least use of each limit by the stages after each depth (limits × lanes)."""
    rest = [np.zeros((len(lanes.stages[0].use), len(lanes)))]
    for stage in reversed(lanes.stages):
        rest.append(rest[-1] + np.minimum.reduceat(stage.use, stage.start[:-1], axis=1))
    return rest[::-1]


def _step(lanes: LaneBatch, stage: LaneStage, labels: LaneLabels, rest: Array) -> LaneLabels:
    """Each label with each option of its lane that may still be within the limits."""
    option, parent = spans(stage.start, labels.lane)
    lane = labels.lane[parent]
    use = labels.use[:, parent] + stage.use[:, option]
    fits = np.flatnonzero(_within(lanes, use, rest, lane))
    option, parent = option[fits], parent[fits]
    return LaneLabels(
        lane[fits],
        labels.product[parent] * stage.factor[option],
        labels.value[parent] + stage.value[option],
        labels.cost[parent] + stage.cost[option],
        use[:, fits],
        parent,
        option,
    )


def _within(lanes: LaneBatch, use: Array, rest: Array, lane: Index) -> NDArray[np.bool_]:
    limits, paths = len(lanes.most), len(lanes.slope)
    most = lanes.most + 1e-9 * np.maximum(1.0, np.abs(lanes.most))
    fits = np.ones(use.shape[1], dtype=bool)
    for row in range(limits):
        total = use[row] + rest[row, lane] if rest[row].any() else use[row]
        if row < paths and lanes.has_spread:
            total = total + np.sqrt(use[limits + row] + rest[limits + row, lane])
        fits &= total <= most[row, lane]
    return fits


def _most_promising(labels: LaneLabels, bound: Array, width: int, dropped: Array) -> LaneLabels:
    """The `width` labels of each lane with the best bounds; the bounds of dropped ones are noted."""
    start = np.searchsorted(labels.lane, np.arange(len(dropped) + 1))
    if int(np.diff(start).max(initial=0)) <= width:
        return labels
    order = np.argsort(-bound)
    order = order[np.argsort(labels.lane[order].astype(np.int32), kind="stable")]
    rank = np.arange(len(order)) - start[labels.lane]
    out = order[rank == width]
    lane = labels.lane[out]
    dropped[lane] = np.maximum(dropped[lane], bound[out])
    return labels.take(np.sort(order[rank < width]))


def _undominated(labels: LaneLabels, lanes: int, with_product: bool, deadline: Deadline) -> Index:
    """The labels that no other of the lane equals or undercuts in all criteria; of equal ones the first."""
    start = np.searchsorted(labels.lane, np.arange(lanes + 1))
    rows = [-labels.value, labels.cost, *labels.use]
    if with_product:
        rows.insert(0, -labels.product)
    beaten = np.zeros(len(labels), dtype=bool)
    counts = np.diff(start)
    for lane in np.flatnonzero(counts > LARGE).tolist():
        own = np.arange(start[lane], start[lane + 1])
        beaten[own] = True
        beaten[own[undominated(np.array(rows)[:, own], deadline)]] = False
    at = np.flatnonzero((counts <= LARGE)[labels.lane])
    # All pairs of a lane, in parts that fit into memory.
    ends = np.cumsum(counts[labels.lane[at]])
    total = int(ends[-1]) if len(at) else 0
    for part in np.split(at, np.searchsorted(ends, np.arange(PAIRS, total, PAIRS))):
        other, whose = spans(start, labels.lane[part])
        _mark_beaten(rows, other, part[whose], beaten)
    return np.flatnonzero(~beaten)


def _mark_beaten(rows: list[Array], other: Index, whose: Index, beaten: NDArray[np.bool_]) -> None:
    pair = np.flatnonzero(other != whose)
    other, whose = other[pair], whose[pair]
    equal = np.ones(len(other), dtype=bool)
    for row in rows:
        mine, theirs = row[whose], row[other]
        within = np.flatnonzero(theirs <= mine)
        equal = equal[within] & (theirs[within] == mine[within])
        other, whose = other[within], whose[within]
    beaten[whose[~equal | (other < whose)]] = True
