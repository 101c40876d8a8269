"""The result types of the solver backends."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.model.plan import Termination
from ipa.optimize.columns import Array

# Objectives this close (relative above 1) count as equal.
EQUAL = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ProgramAnswer:
    """The end of a solve, the chosen option of each stage, and the bound on the best objective.

    `chosen` is empty if there is no plan; `bound` is None if the solver has none. `note` has remarks on how
    it was found, `prices` the multipliers that a label search used.
    """

    termination: Termination
    chosen: tuple[int, ...] = ()
    bound: float | None = None
    note: str = ""
    prices: Array | None = None


@dataclass(frozen=True, slots=True)
class MilpSolution:
    """The end of a MILP solve, the value of every column, and the bound on the best objective.

    `values` is empty if there is no solution; `bound` is None if the solver has none.
    """

    termination: Termination
    values: tuple[float, ...] = ()
    bound: float | None = None
