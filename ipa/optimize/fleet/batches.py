"""The options of many pipelines side by side, so that one NumPy call does a step of all of them.

A lane is a pipeline whose plans are worth α · Π factor + Σ value. The lanes of one array have the same number
of stages and of limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa.optimize.columns import Array, Index


@dataclass(frozen=True, slots=True, eq=False)
class LaneStage:
    """One stage of all lanes: the options by lane and factor, and their indices in the lane's stage.

    `use` is (limits × options); if times vary, rows of the squared excesses of each path follow. `start` is
    (lanes + 1). Options of a lane with equal factors form a group; `group` is the start of each group,
    `group_start` (lanes + 1) the start of each lane's groups.
    """

    option: Index
    factor: Array
    value: Array
    cost: Array
    use: Array
    start: Index
    group: Index
    group_start: Index

    @property
    def lane(self) -> Index:
        """The lane of each option."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


@dataclass(frozen=True, slots=True, eq=False)
class LaneBatch:
    """Stages, and for each lane the weight of the product and the limits.

    `most` is (limits × lanes), the limits of the paths first, inf if a lane has no such limit. The limit of a
    path is Σ use + sqrt(Σ squared excess) ≤ most; `slope` and `start` (paths × lanes) are a line below the
    root over the range of the sum under it.
    """

    stages: tuple[LaneStage, ...]
    alpha: Array
    most: Array
    slope: Array
    start: Array

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def has_spread(self) -> bool:
        """True if times vary."""
        return len(self.stages[0].use) > len(self.most)

    @property
    def weak_most(self) -> Array:
        """The limits of the linear rows of `weak_use`, never tighter than the limits themselves."""
        weak = self.most.copy()
        weak[: len(self.start)] -= self.start
        return weak

    def weak_use(self, use: Array, lane: Index) -> Array:
        """The use of the linear rows: paths by the line below the root, other limits as they are."""
        if not self.has_spread:
            return use
        limits, paths = len(self.most), len(self.slope)
        rows = use[:limits].copy()
        rows[:paths] += self.slope[:, lane] * use[limits:]
        return rows

    def take(self, lanes: Index) -> LaneBatch:
        """Return those lanes only, in that order."""
        stages = tuple(_take(stage, lanes) for stage in self.stages)
        return LaneBatch(
            stages, self.alpha[lanes], self.most[:, lanes], self.slope[:, lanes], self.start[:, lanes]
        )


def lane_stage(
    lane: Index, lanes: int, option: Index, factor: Array, value: Array, cost: Array, use: Array
) -> LaneStage:
    """The stage of options given in any order."""
    order = np.lexsort((factor, lane))
    lane, factor = lane[order], factor[order]
    starts = np.flatnonzero(np.r_[True, (lane[1:] != lane[:-1]) | (factor[1:] != factor[:-1])])
    bounds = np.arange(lanes + 1)
    return LaneStage(
        option[order],
        factor,
        value[order],
        cost[order],
        np.ascontiguousarray(use[:, order]),
        np.searchsorted(lane, bounds),
        starts,
        np.searchsorted(lane[starts], bounds),
    )


def lanes_of(stages: Sequence[LaneStage], alpha: Array, most: Array, paths: int) -> LaneBatch:
    """The lanes with the line below the root of each path, over the range within the limit."""
    none = np.zeros((paths, len(alpha)))
    limits = len(most)
    if len(stages[0].use) == limits:
        return LaneBatch(tuple(stages), alpha, most, none, none)
    low, high, mean = none.copy(), none.copy(), none.copy()
    for stage in stages:
        at = stage.start[:-1]
        low += np.minimum.reduceat(stage.use[limits:], at, axis=1)
        high += np.maximum.reduceat(stage.use[limits:], at, axis=1)
        mean += np.minimum.reduceat(stage.use[:paths], at, axis=1)
    room = np.maximum(most[:paths] - mean, 0.0) ** 2
    high = np.maximum(low, np.minimum(high, room))
    wide = high > low
    slope = np.zeros(low.shape)
    np.divide(np.sqrt(high) - np.sqrt(low), high - low, out=slope, where=wide)
    return LaneBatch(tuple(stages), alpha, most, slope, np.sqrt(low) - slope * low)


def spans(start: Index, at: Index) -> tuple[Index, Index]:
    """The entries start[i]..start[i+1]−1 for each i of `at`, concatenated, and the owner of each."""
    counts = (start[1:] - start[:-1])[at]
    whose = np.repeat(np.arange(len(at)), counts)
    ends = np.cumsum(counts)
    entries: Index = np.arange(len(whose)) + np.repeat(start[:-1][at] - (ends - counts), counts)
    return entries, whose


def _take(stage: LaneStage, lanes: Index) -> LaneStage:
    at, whose = spans(stage.start, lanes)
    groups, group_whose = spans(stage.group_start, lanes)
    counts = np.diff(np.r_[stage.group, len(stage.factor)])[groups]
    return LaneStage(
        stage.option[at],
        stage.factor[at],
        stage.value[at],
        stage.cost[at],
        np.ascontiguousarray(stage.use[:, at]),
        np.searchsorted(whose, np.arange(len(lanes) + 1)),
        np.cumsum(counts) - counts,
        np.searchsorted(group_whose, np.arange(len(lanes) + 1)),
    )
