"""An upper bound on what any completion of a partial plan can reach (Lagrange relaxation of the limits)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.columns import Array
from ipa.optimize.program import Options, Program

# Points at which the bound is tabulated over the product so far; between them it is read off the chord,
# which lies above, since the bound is convex in the product. The coarse one is for seeking multipliers.
GRID = 65
COARSE = 17
# Multipliers tried: powers of four around the natural scale of each limit, then between the best's two
# neighbours.
POWERS = np.concatenate([[0.0], 4.0 ** np.arange(-6, 5)])
FINER = np.geomspace(0.35, 2.8, 17)
FINEST = np.linspace(0.9, 1.1, 9)
AROUND = (0.25, 0.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Surrogates:
    """The limits as linear rows: `use` is, a stage, (rows × options); `most` one number a row.

    The limit of a path, Σ mean + sqrt(Σ spread²) ≤ sla, is weakened to the chord of the root over what
    Σ spread² can be.
    """

    use: tuple[Array, ...]
    most: Array


def surrogates(program: Program) -> Surrogates:
    """The linear rows of the program, those of the paths first."""
    rows: list[list[Array]] = []
    most: list[float] = []
    for path in program.graph.paths:
        slope, start = chord(*spread_range(program, path))
        rows.append(
            [
                stage.mean_s + slope * stage.spread_s2 if at in path else np.zeros(len(stage))
                for at, stage in enumerate(program.stages)
            ]
        )
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


class Bounding:
    """Tables of the bound for each stage, for a handful of good multiplier vectors.

    Where the accuracy is a plain product the tables run over the product so far; elsewhere the accuracy that
    can still be reached is bounded by itself (`reachable`, from the caller) and the tables are numbers.
    """

    def __init__(self, program: Program, prices: Array | None = None) -> None:
        self._stages = program.stages
        self._alpha = program.alpha if program.graph.is_product else 0.0
        self.rows = surrogates(program)
        self.free_alpha = program.alpha - self._alpha
        grid = GRID if self._alpha else 2
        coarse = COARSE if self._alpha else 2
        self._largest = np.cumprod([1.0, *(float(stage.factor.max()) for stage in program.stages)])
        self._groups = [_groups(stage, use) for stage, use in zip(program.stages, self.rows.use, strict=True)]
        self._cells: dict[int, list[tuple[NDArray[np.intp], Array]]] = {}
        best = self._search(coarse) if prices is None else prices
        self.prices = best
        self._multipliers = self._around(best)
        self._tables = self._tabulate(self._multipliers, grid)
        self._grid = grid

    @property
    def most(self) -> Array:
        """The limits of the rows."""
        return self.rows.most

    def use(self, stage: int) -> Array:
        """What each option of the stage takes of each row."""
        return self.rows.use[stage]

    @property
    def root(self) -> float:
        """The bound on the whole program, without what `free_alpha` weighs."""
        nothing = np.zeros((len(self.rows.most), 1))
        return float(self.upper(0, np.ones(1), np.zeros(1), nothing)[0])

    def upper(self, depth: int, product: Array, value: Array, use: Array) -> Array:
        """For partial plans of the first `depth` stages, the most their completions can reach."""
        table = self._tables[depth]
        cell, share = self._cell(depth, product, self._grid)
        rest = table[:, cell]
        rest += (table[:, cell + 1] - rest) * share
        rest += self._multipliers @ (self.rows.most[:, None] - use)
        bound: Array = rest.min(axis=0)
        bound += value
        return bound

    def guesses(self) -> NDArray[np.intp]:
        """(multiplier vectors × stages): the plan that is best where limits only cost what each vector says.

        Such a plan may break limits; the dearer they are the less it does.
        """
        count = len(self._multipliers)
        product = np.ones(count)
        at = np.arange(count)[:, None]
        chosen = np.zeros((count, len(self._stages)), dtype=np.intp)
        for depth, stage in enumerate(self._stages):
            worth = stage.value - self._multipliers @ self.rows.use[depth]
            if self._alpha:
                cell, share = self._cell(depth + 1, product[:, None] * stage.factor, self._grid)
                after = self._tables[depth + 1]
                worth += after[at, cell] * (1 - share) + after[at, cell + 1] * share
            chosen[:, depth] = worth.argmax(axis=1)
            product = product * stage.factor[chosen[:, depth]]
        return chosen

    def option_bounds(self, stage: int) -> Array:
        """For each option of the stage, the most that a whole plan with it can reach; product or sum only.

        The stage is taken first and the others after it: the order of factors is free.
        """
        others = [at for at in range(len(self._stages)) if at != stage]
        order = [stage, *others]
        largest = np.cumprod([1.0, *(float(self._groups[at][3][-1]) for at in order)])
        grid = COARSE * 2 if self._alpha else 2
        steps = np.linspace(0.0, 1.0, grid)
        multipliers = self._multipliers
        after = np.tile(self._alpha * largest[-1] * steps, (len(multipliers), 1))
        for depth in range(len(order) - 1, 0, -1):
            value, use, starts, factors = self._groups[order[depth]]
            best = np.maximum.reduceat(value - multipliers @ use, starts, axis=1)
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

    def _cell(self, depth: int, product: Array, grid: int) -> tuple[NDArray[np.intp], Array]:
        return _cells(product, float(self._largest[depth]), grid)

    def _tabulate(self, multipliers: Array, grid: int) -> list[Array]:
        """tables[s][i, g]: the most that completions from s on make of α·P·Π factor + Σ (value − use·m)."""
        steps = np.linspace(0.0, 1.0, grid)
        cells = self._onward_cells(steps) if self._alpha else []
        tables = [np.tile(self._alpha * self._largest[-1] * steps, (len(multipliers), 1))]
        for depth in range(len(self._stages) - 1, -1, -1):
            value, use, starts, _ = self._groups[depth]
            best = np.maximum.reduceat(value - multipliers @ use, starts, axis=1)
            if not self._alpha:
                tables.append(tables[-1] + best.max(axis=1)[:, None])
                continue
            cell, share = cells[depth]
            after = tables[-1]
            onward = after[:, cell]
            onward += (after[:, cell + 1] - onward) * share
            onward += best[:, :, None]
            tables.append(onward.max(axis=1))
        return tables[::-1]

    def _onward_cells(self, steps: Array) -> list[tuple[NDArray[np.intp], Array]]:
        """For each stage (factors × steps): where the product with a factor lies on the next stage's grid."""
        grid = len(steps)
        if grid not in self._cells:
            self._cells[grid] = [
                self._cell(depth + 1, (self._largest[depth] * factors)[:, None] * steps, grid)
                for depth, (_, _, _, factors) in enumerate(self._groups)
            ]
        return self._cells[grid]

    def _dual(self, multipliers: Array, grid: int) -> Array:
        """The bound on the whole program under each multiplier vector."""
        dual: Array = self._tabulate(multipliers, grid)[0][:, -1] + multipliers @ self.rows.most
        return dual

    def _search(self, grid: int) -> Array:
        """The best multipliers found by a coordinate search."""
        ranges = [float(np.ptp(stage.value)) for stage in self._stages]
        spread = self._alpha * self._largest[-1] + sum(ranges)
        best, reached = np.zeros(len(self.rows.most)), inf
        steps = [POWERS, FINER, FINEST]
        for axis in list(range(len(best))) * (2 if len(best) > 1 else 1):
            scale = spread / max(abs(float(self.rows.most[axis])), 1e-9)
            for step in steps:
                tries = np.tile(best, (len(step) + 1, 1))
                tries[1:, axis] = step * (scale if step is POWERS else best[axis])
                dual = self._dual(tries, grid)
                if float(dual.min()) >= reached and step is POWERS:
                    break
                best, reached = tries[int(np.argmin(dual))], float(dual.min())
                if not best[axis]:
                    break
        return best

    def _around(self, best: Array) -> Array:
        """No multiplier at all, the given ones, and some around: partial plans differ in what is scarce."""
        around = [np.zeros(len(best)), best]
        for axis in np.flatnonzero(best > 0).tolist():
            for ratio in AROUND:
                other = best.copy()
                other[axis] *= ratio
                around.append(other)
        return np.unique(np.array(around), axis=0)


def _cells(product: Array, largest: float, grid: int) -> tuple[NDArray[np.intp], Array]:
    """Where products lie on a grid from 0 to the largest: the point below, and the share of the way on."""
    at = product * ((grid - 1) / largest if largest > 0 else 0.0)
    cell = np.minimum(at.astype(np.intp), grid - 2)
    return cell, at - cell


def _groups(stage: Options, use: Array) -> tuple[Array, Array, NDArray[np.intp], Array]:
    """Value and use by rising factor, where each group of equal factors starts, and the factors."""
    order = np.argsort(stage.factor, kind="stable")
    ranked = stage.factor[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] > ranked[:-1]]))
    return stage.value[order], np.ascontiguousarray(use[:, order]), starts, ranked[starts]
