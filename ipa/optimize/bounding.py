"""An upper bound on what any completion of a partial plan can reach (Lagrange relaxation of the limits)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.options import Program

Array = NDArray[np.float64]

# Points at which the bound is tabulated over the product so far; between them it is read off the chord,
# which lies above, since the bound is convex in the product.
GRID = 129
# Multipliers tried: this many powers of two around the natural scale of each limit.
POWERS = np.concatenate([[0.0], 2.0 ** np.arange(-12, 9)])
FINER = np.linspace(0.55, 1.45, 19)


@dataclass(frozen=True, slots=True)
class StageArrays:
    """A stage's options as columns. `use` is (limits × options): what each takes of each limit."""

    factor: Array
    value: Array
    use: Array


def stage_arrays(program: Program) -> list[StageArrays]:
    """The options of each stage as arrays, limits in the order latency, cores, −ln accuracy."""
    return [
        StageArrays(
            factor=np.array([option.factor for option in stage]),
            value=np.array([option.value for option in stage]),
            use=np.array(
                [
                    [option.latency_s for option in stage],
                    [option.cost_cores for option in stage],
                    [-option.log_accuracy for option in stage],
                ]
            ),
        )
        for stage in program.stages
    ]


class Bounding:
    """Tables of the bound for each stage, for a handful of good multiplier vectors."""

    def __init__(self, program: Program, stages: list[StageArrays]) -> None:
        self._stages = stages
        self._alpha = program.alpha
        self._limits = np.array([program.sla_s, program.cores, -program.log_floor])
        self._active = np.isfinite(self._limits)
        self._largest = np.cumprod([1.0, *(stage.factor.max() for stage in stages)])
        multipliers = self._good_multipliers()
        self._tables = self._tabulate(multipliers)
        # Multipliers of limits that are not there are 0: such limits may be infinite, so they are left out.
        self._multipliers = multipliers[:, self._active]

    @property
    def root(self) -> float:
        """The bound on the whole program."""
        return float(self.upper(0, np.ones(1), np.zeros(1), np.zeros((3, 1)))[0])

    def upper(self, depth: int, product: Array, value: Array, use: Array) -> Array:
        """For partial plans of the first `depth` stages, the most their completions can reach."""
        cell, share = self._cell(depth, product)
        table = self._tables[depth]
        rest = table[:, cell] * (1 - share) + table[:, cell + 1] * share
        slack = self._limits[self._active, None] - use[self._active]
        bound: Array = (rest + self._multipliers @ slack).min(axis=0) + value
        return bound

    def _cell(self, depth: int, product: Array) -> tuple[NDArray[np.intp], Array]:
        width = self._largest[depth] / (GRID - 1) or 1.0
        at = product / width
        cell = np.clip(at.astype(np.intp), 0, GRID - 2)
        return cell, at - cell

    def _tabulate(self, multipliers: Array) -> list[Array]:
        """tables[s][i, g]: the most that completions from s on make of α·P·Π factor + Σ (value − use·m)."""
        grid = np.linspace(0.0, 1.0, GRID)
        last = np.tile(self._alpha * self._largest[-1] * grid, (len(multipliers), 1))
        tables = [last]
        for depth in range(len(self._stages) - 1, -1, -1):
            stage = self._stages[depth]
            active = self._active
            reward = stage.value - multipliers[:, active] @ stage.use[active]
            table = np.full((len(multipliers), GRID), -inf)
            for factor in np.unique(stage.factor):
                best = reward[:, stage.factor == factor].max(axis=1)
                cell, share = self._cell(depth + 1, grid * self._largest[depth] * factor)
                after = tables[-1]
                onward = after[:, cell] * (1 - share) + after[:, cell + 1] * share
                np.maximum(table, onward + best[:, None], out=table)
            tables.append(table)
        return tables[::-1]

    def _dual(self, multipliers: Array) -> Array:
        """The bound on the whole program under each multiplier vector."""
        active = self._active
        dual: Array = self._tabulate(multipliers)[0][:, -1] + multipliers[:, active] @ self._limits[active]
        return dual

    def _good_multipliers(self) -> Array:
        """No multiplier at all, the best found by a coordinate search, and its halves and doubles."""
        spread = self._alpha * self._largest[-1] + sum(float(np.ptp(stage.value)) for stage in self._stages)
        best = np.zeros(3)
        steps = [POWERS, POWERS, FINER]
        for axis in np.flatnonzero(self._active).tolist() * 2:
            scale = spread / max(abs(float(self._limits[axis])), 1e-9)
            for step in steps:
                tries = np.tile(best, (len(step) + 1, 1))
                tries[1:, axis] = step * (best[axis] if step is FINER else scale)
                best = tries[int(np.argmin(self._dual(tries)))]
            steps = [FINER]
        around = [np.zeros(3), best]
        for axis in np.flatnonzero(self._active & (best > 0)).tolist():
            for ratio in (0.5, 2.0):
                other = best.copy()
                other[axis] *= ratio
                around.append(other)
        return np.array(around)
