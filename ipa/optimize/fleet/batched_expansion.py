"""Batched label setting: partial plans of many lanes grow stage by stage; hopeless and dominated ones go."""

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
from ipa.optimize.fleet.bounds import LaneBounds

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
    memory should hold; `dropped` is then the best bound of the others. DeadlineError if the time is up.
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
            raise DeadlineError("the time of the fleet's plan is up")
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
