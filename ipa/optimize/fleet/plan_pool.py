"""The pool of plans of a fleet found so far, and the search for more at a price of cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.batched_expansion import ExpandedPlans, Grid, LaneBounds, good_multipliers, grow
from ipa.optimize.fleet.batches import LaneBatch
from ipa.optimize.fleet.knapsack import Choices, Selection, break_of, hull_of, select, undominated_choices

# Lanes in one array: large enough for NumPy, small enough for the cache.
BLOCK = 256
# Points of the tables: few if only the multipliers are sought.
COARSE, FINE = 9, 33
# Ratios of tried multipliers to the best ones of whole plans: partial plans have more or less slack.
AROUND = (1.0, 0.5, 2.0)
# Multipliers are good enough at prices this many times larger or smaller.
SAME = 4.0
# Partial plans kept of each lane if only promising plans are sought.
BEAM = 12
# Partial plans kept if all within a window are sought: at first, then if these were too few.
WIDTHS = (64, None, None)


class LaneBlock:
    """Some lanes and their pipelines, with the tables shared by all prices, and the multipliers found."""

    def __init__(self, lanes: LaneBatch, who: Index) -> None:
        self.lanes, self.who = lanes, who
        self._coarse, self._fine = Grid(lanes, COARSE), Grid(lanes, FINE)
        self._multipliers: Array | None = None
        self._at = 0.0

    def bounds(self, price: float) -> LaneBounds:
        """The bounds at the price; the multipliers are kept while the price is about the same."""
        if self._multipliers is None or not self._at <= SAME * price <= SAME**2 * self._at:
            self._multipliers, self._at = good_multipliers(self.lanes, self._coarse, price), price
        around = np.array([ratio * self._multipliers for ratio in AROUND])
        return LaneBounds(self.lanes, self._fine, price, around)

    def take(self, lanes: Index) -> LaneBlock:
        """Return those lanes only, with the known multipliers."""
        part = LaneBlock(self.lanes.take(lanes), self.who[lanes])
        if self._multipliers is not None:
            part._multipliers, part._at = self._multipliers[:, lanes], self._at
        return part


def blocks_of(lanes: LaneBatch, who: Index) -> list[LaneBlock]:
    """The lanes in blocks of at most BLOCK, copied only if there are several."""
    count = len(lanes)
    if count <= BLOCK:
        return [LaneBlock(lanes, who)]
    parts = [np.arange(at, min(at + BLOCK, count)) for at in range(0, count, BLOCK)]
    return [LaneBlock(lanes.take(part), who[part]) for part in parts]


@dataclass(frozen=True, slots=True, eq=False)
class FoundPlans:
    """Plans, an entry each: the pipeline, cost and worth, the number of its source and its place there."""

    who: Index
    cost: Array
    worth: Array
    source: Index
    at: Index


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """The result of a search at a price: no plan of a pipeline earns more than `most` there.

    `complete` is True for pipelines whose undominated plans within the window are all known.
    """

    price: float
    most: Array
    complete: NDArray[np.bool_]

    def bound(self, budget_cores: float) -> float:
        """The Lagrange bound on the worth of all pipelines together."""
        spent = self.price * budget_cores if self.price > 0 else 0.0
        return spent + float(self.most.sum())


class PlanPool:
    """Plans of `count` pipelines: those of lanes are searched for, `known` ones are complete."""

    def __init__(self, count: int, blocks: Sequence[LaneBlock], known: Sequence[FoundPlans] = ()) -> None:
        self.count = count
        self.blocks = list(blocks)
        self._sources: list[tuple[LaneBlock, ExpandedPlans] | None] = [None]
        none, empty = np.zeros(0, dtype=np.intp), np.zeros(0)
        self.found = FoundPlans(none, empty, empty, none, none)
        self._add(known)

    def _add(self, parts: Sequence[FoundPlans]) -> None:
        whole = [self.found, *parts]
        self.found = FoundPlans(
            np.concatenate([part.who for part in whole]),
            np.concatenate([part.cost for part in whole]),
            np.concatenate([part.worth for part in whole]),
            np.concatenate([part.source for part in whole]),
            np.concatenate([part.at for part in whole]),
        )

    def probe(self, price: float, window: float | None, deadline: Deadline) -> Probe:
        """Search for plans at the price: all those within the window, or the promising ones if it is None.

        DeadlineError if the time runs out; nothing is added then.
        """
        most = self.profit(price)
        complete = np.ones(self.count, dtype=bool)
        parts: list[FoundPlans] = []
        for block in self.blocks:
            if window is None:
                dropped = self._look(block, price, most, 0.0, BEAM, deadline, parts)
            else:
                dropped = self._within(block, price, most, window, deadline, parts)
                complete[block.who] = (dropped == -inf) | (dropped < most[block.who] - window)
            most[block.who] = np.maximum(most[block.who], dropped)
        self._add(parts)
        return Probe(price, most, complete)

    def _within(
        self,
        block: LaneBlock,
        price: float,
        most: Array,
        window: float,
        deadline: Deadline,
        parts: list[FoundPlans],
        step: int = 0,
    ) -> Array:
        """Search for all plans within the window; hard lanes come last and alone, with most known by then."""
        dropped = self._look(block, price, most, window, WIDTHS[step], deadline, parts)
        hard = np.flatnonzero((dropped > -inf) & (dropped >= most[block.who] - window))
        if len(hard) and step + 1 < len(WIDTHS):
            # The second time together, the third each alone, so that it has all memory.
            for some in [hard] if step == 0 else hard[:, None]:
                dropped[some] = self._within(block.take(some), price, most, window, deadline, parts, step + 1)
        return dropped

    def _look(
        self,
        block: LaneBlock,
        price: float,
        most: Array,
        window: float,
        width: int | None,
        deadline: Deadline,
        parts: list[FoundPlans],
    ) -> Array:
        """Add plans of the block to the parts and to the known profit; return the best bounds dropped."""
        bounds = block.bounds(price)
        best = most[block.who]
        least = best - window - 1e-9 * np.maximum(1.0, np.abs(best))
        least[~np.isfinite(best)] = -inf
        grown = grow(block.lanes, bounds, price, least, width, deadline)
        parts.append(self._noted(block, grown))
        np.maximum.at(most, block.who[grown.lane], grown.worth - price * grown.cost)
        return np.minimum(grown.dropped, bounds.root)

    def _noted(self, block: LaneBlock, grown: ExpandedPlans) -> FoundPlans:
        self._sources.append((block, grown))
        count = len(grown.lane)
        return FoundPlans(
            block.who[grown.lane],
            grown.cost,
            grown.worth,
            np.full(count, len(self._sources) - 1, dtype=np.intp),
            np.arange(count),
        )

    def cheapest(self, deadline: Deadline) -> None:
        """Add the plan of the fewest cores of every lane. Lanes without a plan afterwards cannot have one."""
        for block in self.blocks:
            lanes = block.lanes
            stages = tuple(replace(stage, value=-stage.cost) for stage in lanes.stages)
            alone = PlanPool(
                self.count, [LaneBlock(replace(lanes, stages=stages, alpha=0.0 * lanes.alpha), block.who)]
            )
            alone.probe(0.0, None, deadline)
            if not alone.probe(0.0, 0.0, deadline).complete[block.who].all():
                raise DeadlineError("what the pipelines need at the least is too hard to find")
            for where, grown in filter(None, alone._sources):
                own = block.take(np.searchsorted(block.who, where.who))
                self._add([self._noted(own, _worth_of(own.lanes, grown))])

    def profit(self, price: float) -> Array:
        """The highest profit of each pipeline's plans, −inf if none is known."""
        best = np.full(self.count, -inf)
        np.maximum.at(best, self.found.who, self.found.worth - price * self.found.cost)
        return best

    def spent(self, price: float) -> Array:
        """The cost of each pipeline's best plan at the price, 0 if none is known."""
        found = self.found
        order = np.lexsort((found.worth - price * found.cost, found.who))
        last = np.searchsorted(found.who[order], np.arange(1, self.count + 1)) - 1
        at = order[np.maximum(last, 0)] if len(order) else np.zeros(self.count, dtype=np.intp)
        spent = np.zeros(self.count)
        if len(order):
            spent = np.where(found.who[at] == np.arange(self.count), found.cost[at], 0.0)
        return spent

    @property
    def least_cores(self) -> Array:
        """The cost of the cheapest known plan of each pipeline, inf if none is known."""
        least = np.full(self.count, inf)
        np.minimum.at(least, self.found.who, self.found.cost)
        return least

    def select(self, budget_cores: float, deadline: Deadline) -> Selection:
        """The best selection among the known plans; every pipeline must have one."""
        found = self.found
        return select(Choices(self.count, found.who, found.cost, found.worth), budget_cores, deadline)

    def break_price(self, budget_cores: float) -> float:
        """The price by the linear relaxation, of the pipelines that have plans."""
        found = self.found
        kept = undominated_choices(found.who, found.cost, found.worth)
        owners, owner = np.unique(found.who[kept], return_inverse=True)
        cost, worth = found.cost[kept], found.worth[kept]
        return break_of(hull_of(owner, cost, worth, len(owners)), cost, worth, budget_cores).price

    def options(self, chosen: Index) -> dict[int, tuple[int, ...]]:
        """The options of each pipeline's chosen plan, as numbered in its stages; the place of a known one."""
        plans: dict[int, tuple[int, ...]] = {}
        source = self.found.source[chosen]
        for number in np.unique(source).tolist():
            mine = chosen[source == number]
            at, who = self.found.at[mine], self.found.who[mine].tolist()
            where = self._sources[number]
            if where is None:
                plans.update((w, (place,)) for w, place in zip(who, at.tolist(), strict=True))
                continue
            block, grown = where
            columns = [
                stage.option[option].tolist()
                for stage, option in zip(block.lanes.stages, grown.options(at), strict=True)
            ]
            plans.update(zip(who, zip(*columns, strict=True), strict=True))
        return plans


def _worth_of(lanes: LaneBatch, grown: ExpandedPlans) -> ExpandedPlans:
    """The plans with their worth in the lanes."""
    product, value = np.ones(len(grown.lane)), np.zeros(len(grown.lane))
    for stage, option in zip(lanes.stages, grown.options(np.arange(len(grown.lane))), strict=True):
        product *= stage.factor[option]
        value += stage.value[option]
    return replace(grown, worth=lanes.alpha[grown.lane] * product + value)
