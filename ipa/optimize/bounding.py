"""An upper bound on all completions of a partial plan (Lagrange relaxation of the limits)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, sqrt

import numpy as np

from ipa.optimize.problem import Array, Index
from ipa.optimize.program import Program

# Points at which the bound is tabulated over the product so far; between them it is read off the chord, which
# lies above, since the bound is convex in the product. The coarse one serves the search for multipliers.
GRID = 65
COARSE = 17
# Multipliers tried: powers of four around the natural scale of each limit, then between the best's two
# neighbours.
POWERS = np.concatenate([[0.0], 4.0 ** np.arange(-6, 5)])
FINER = np.geomspace(0.35, 2.8, 9)
FINEST = np.linspace(0.88, 1.12, 5)
AROUND = (0.25, 0.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Surrogates:
    """The limits as linear rows: `use` is (rows × options) for each stage, `most` one number per row.

    The limit of a path, Σ mean + sqrt(Σ spread²) ≤ sla, is weakened: a chord replaces the root over the range
    of Σ spread².
    """

    use: tuple[Array, ...]
    most: Array


def surrogates(program: Program) -> Surrogates:
    """The linear rows of the program, those of the paths first."""
    rows: list[list[Array]] = []
    most: list[float] = []
    has_spread = program.has_spread
    for path in program.graph.paths:
        slope, start = chord(*spread_range(program, path)) if has_spread else (0.0, 0.0)
        row = [np.zeros(len(stage)) for stage in program.stages]
        for at in path:
            stage = program.stages[at]
            row[at] = stage.mean_s + slope * stage.spread_s2 if has_spread else stage.mean_s
        rows.append(row)
        most.append(program.sla_s - start)
    for limit in program.limits():
        rows.append(list(limit.use))
        most.append(limit.most)
    use = tuple(np.array([row[at] for row in rows]) for at in range(len(program.stages)))
    return Surrogates(use, np.array(most))


def spread_range(program: Program, path: tuple[int, ...]) -> tuple[float, float]:
    """The least and the largest Σ spread² that a plan within the SLA can have along the path."""
    low = sum(float(program.stages[at].spread_s2.min()) for at in path)
    high = sum(float(program.stages[at].spread_s2.max()) for at in path)
    room_s = max(0.0, program.sla_s - sum(float(program.stages[at].mean_s.min()) for at in path))
    return low, max(low, min(high, room_s**2))


def chord(low: float, high: float) -> tuple[float, float]:
    """Slope and intercept of the line that lies below the square root from `low` to `high`."""
    if high <= low:
        return 0.0, sqrt(low)
    slope = (sqrt(high) - sqrt(low)) / (high - low)
    return slope, sqrt(low) - slope * low


class LagrangeBounds:
    """Tables of the bound for each stage, for a few good multiplier vectors.

    If the accuracy is a plain product, the tables run over the product so far; otherwise the caller bounds
    the reachable accuracy (`reachable`), and the tables are plain numbers.
    """

    def __init__(self, program: Program, prices: Array | None = None) -> None:
        stages = program.stages
        self._stages = stages
        self._alpha = program.alpha if program.graph.is_product else 0.0
        self.rows = surrogates(program)
        self.free_alpha = program.alpha - self._alpha
        self._largest = np.cumprod([1.0, *(float(stage.factor.max()) for stage in stages)])
        self._groups = [_groups(stage.factor) for stage in stages]
        counts = np.cumsum([0, *(len(stage) for stage in stages)]).tolist()
        # All options of all stages: their values, their use of limits, and their order by stage and factor.
        self._whole = np.concatenate([stage.value for stage in stages]), np.concatenate(self.rows.use, axis=1)
        self._options = [slice(*ends) for ends in pairwise(counts)]
        self._order = np.concatenate([g.order + at for g, at in zip(self._groups, counts, strict=False)])
        self._starts = np.concatenate([g.starts + at for g, at in zip(self._groups, counts, strict=False)])
        self._steps: dict[int, list[tuple[Index, Array]]] = {}
        self.prices = self._search(COARSE if self._alpha else 1) if prices is None else prices
        self._grid = GRID if self._alpha else 1

    @cached_property
    def _multipliers(self) -> Array:
        """The zero vector, the best multipliers, and some near them: limits differ in how scarce they are."""
        around = [np.zeros(len(self.prices)), self.prices]
        for axis in np.flatnonzero(self.prices > 0).tolist():
            for ratio in AROUND:
                other = self.prices.copy()
                other[axis] *= ratio
                around.append(other)
        return np.array(list(dict.fromkeys(tuple(each.tolist()) for each in around)))

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """The tables, each limit's `most` times its multiplier added, and the rise to the next grid point.

        Built for the first bound; a caller that needs only multipliers does not build them.
        """
        tables = np.array(self._tabulate(self._multipliers, self._grid))
        rises = np.zeros_like(tables)
        np.subtract(tables[:, :, 1:], tables[:, :, :-1], out=rises[:, :, :-1])
        return tables + (self._multipliers @ self.rows.most)[:, None], rises

    @property
    def is_product(self) -> bool:
        """True if the tables run over the product of factors so far."""
        return bool(self._alpha)

    def upper(self, depth: int, product: Array | None, value: Array, use: Array) -> Array:
        """For partial plans of the first `depth` stages, an upper bound on the worth of their completions.

        `product` is the product of their factors, needed if `is_product`; the part that `free_alpha` weighs
        is not included.
        """
        rest = -(self._multipliers @ use)
        tables, rises = self._table
        if self._alpha and product is not None:
            cell, share = _cells(product, float(self._largest[depth]), self._grid)
            rest += tables[depth].take(cell, axis=1)
            rest += rises[depth].take(cell, axis=1) * share
        else:
            rest += tables[depth]
        bound: Array = np.minimum.reduce(rest)
        bound += value
        return bound

    def option_bounds(self, stage: int) -> Array:
        """For each option of the stage, an upper bound on whole plans with it; accuracies multiply or add up.

        The stage is taken first and the others after it: factors commute.
        """
        others = [at for at in range(len(self._stages)) if at != stage]
        order = [stage, *others]
        largest = np.cumprod([1.0, *(float(self._groups[at].factors[-1]) for at in order)])
        grid = COARSE * 2 if self._alpha else 2
        bests = self._bests(self._multipliers)
        steps = np.linspace(0.0, 1.0, grid)
        multipliers = self._multipliers
        after = np.tile(self._alpha * largest[-1] * steps, (len(multipliers), 1))
        for depth in range(len(order) - 1, 0, -1):
            best, factors = bests[order[depth]], self._groups[order[depth]].factors
            cell, share = _cells((largest[depth] * factors)[:, None] * steps, largest[depth + 1], grid)
            onward = after[:, cell]
            onward += (after[:, cell + 1] - onward) * share
            onward += best[:, :, None]
            after = onward.max(axis=1)
        options = self._stages[stage]
        cell, share = _cells(options.factor, largest[1], grid)
        whole = after[:, cell] * (1 - share) + after[:, cell + 1] * share
        whole += multipliers @ (self.rows.most[:, None] - self.rows.use[stage])
        bound: Array = whole.min(axis=0) + options.value
        return bound

    def _bests(self, multipliers: Array) -> list[Array]:
        """For each stage (multiplier vectors × factors): the highest worth of an option with that factor."""
        value, use = self._whole
        # (Multiplier vectors × all options): the value less the price of the limits used.
        worth = (value - multipliers @ use).take(self._order, axis=1)
        best = np.maximum.reduceat(worth, self._starts, axis=1)
        ends = np.cumsum([0, *(len(group.starts) for group in self._groups)]).tolist()
        return [best[:, first:last] for first, last in pairwise(ends)]

    def _tabulate(self, multipliers: Array, grid: int) -> list[Array]:
        """tables[s][i, g]: the highest α·P·Π factor + Σ (value − use·m) of completions from s on."""
        bests = self._bests(multipliers)
        if not self._alpha:
            most = [np.zeros(len(multipliers)), *(best.max(axis=1) for best in reversed(bests))]
            return [total[:, None] for total in np.cumsum(most, axis=0)[::-1]]
        steps = np.linspace(0.0, 1.0, grid)
        after = np.tile(self._alpha * self._largest[-1] * steps, (len(multipliers), 1))
        tables = [after]
        for best, (cell, share) in zip(reversed(bests), reversed(self._onward(steps)), strict=True):
            onward = after.take(cell, axis=1)
            onward += (after.take(cell + 1, axis=1) - onward) * share
            onward += best[:, :, None]
            after = np.maximum.reduce(onward, axis=1)
            tables.append(after)
        return tables[::-1]

    def _onward(self, steps: Array) -> list[tuple[Index, Array]]:
        """For each stage (factors × steps): the product with a factor, placed on the next stage's grid."""
        grid = len(steps)
        if grid not in self._steps:
            self._steps[grid] = [
                _cells((before * group.factors)[:, None] * steps, float(after), grid)
                for (before, after), group in zip(pairwise(self._largest), self._groups, strict=True)
            ]
        return self._steps[grid]

    def _search(self, grid: int) -> Array:
        """The best multipliers that a coordinate search finds."""
        ranges = [float(np.ptp(stage.value)) for stage in self._stages]
        spread = self._alpha * self._largest[-1] + sum(ranges)
        best, reached = np.zeros(len(self.rows.most)), inf
        steps = [POWERS, FINER, FINEST]
        # The multiplier of a limit that no plan can exceed is 0.
        largest = np.sum([use.max(axis=1) for use in self.rows.use], axis=0)
        axes = np.flatnonzero(largest > self.rows.most).tolist()
        for axis in axes * (2 if len(axes) > 1 else 1):
            scale = spread / max(abs(float(self.rows.most[axis])), 1e-9)
            for step in steps:
                tries = np.tile(best, (len(step) + 1, 1))
                tries[1:, axis] = step * (scale if step is POWERS else best[axis])
                # The bound on the whole program under each multiplier vector.
                dual = self._tabulate(tries, grid)[0][:, -1] + tries @ self.rows.most
                if float(dual.min()) >= reached and step is POWERS:
                    break
                best, reached = tries[int(np.argmin(dual))], float(dual.min())
                if not best[axis]:
                    break
        return best


@dataclass(frozen=True, slots=True)
class _Group:
    """The options of a stage by rising factor, the start of each group of equal factors, and the factors."""

    order: Index
    starts: Index
    factors: Array


def _groups(factor: Array) -> _Group:
    order = factor.argsort(kind="stable")
    ranked = factor.take(order)
    first = np.ones(len(order), dtype=bool)
    np.greater(ranked[1:], ranked[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    return _Group(order, starts, ranked.take(starts))


def _cells(product: Array, largest: float, grid: int) -> tuple[Index, Array]:
    """The places of products on a grid from 0 to the largest: the index below, and the fraction above it."""
    at = product * ((grid - 1) / largest if largest > 0 else 0.0)
    cell = np.minimum(at.astype(np.intp), grid - 2)
    return cell, at - cell
