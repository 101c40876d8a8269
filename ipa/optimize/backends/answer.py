"""What every backend gives back."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.model.plan import Termination
from ipa.optimize.columns import Array

# Objectives this close (relative above 1) count as equal.
EQUAL = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ProgramAnswer:
    """How the solver ended, the option it chose of each stage, and its bound on the best objective.

    `chosen` is empty where there is no plan; `bound` is None where the solver has none. `note` says what a
    reader should know about how it was found, `prices` the multipliers that a label search used.
    """

    termination: Termination
    chosen: tuple[int, ...] = ()
    bound: float | None = None
    note: str = ""
    prices: Array | None = None


@dataclass(frozen=True, slots=True)
class MilpSolution:
    """How a MILP solver ended, the value of every column, and its bound on the best objective.

    `values` is empty where there is no solution; `bound` is None where the solver has none.
    """

    termination: Termination
    values: tuple[float, ...] = ()
    bound: float | None = None
