"""A mixed-integer linear program in plain numbers, for any solver, and its solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ipa.model.plan import Termination


@dataclass(frozen=True, slots=True)
class MilpRow:
    """lower ≤ Σ coefficient · column ≤ upper, columns by index."""

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    lower: float
    upper: float


@dataclass(slots=True)
class Milp:
    """max Σ cost · column over the rows.

    The first `binaries` columns and those in `choices` are 0 or 1, others in [0, upper].
    """

    binaries: int = 0
    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    rows: list[MilpRow] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)

    @property
    def is_binary(self) -> list[bool]:
        """True for each column that is 0 or 1."""
        choices = set(self.choices)
        return [at < self.binaries or at in choices for at in range(len(self.costs))]

    def add_row(self, terms: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """Add a row from (column, coefficient) pairs."""
        columns, coefficients = zip(*terms, strict=True)
        self.rows.append(MilpRow(columns, coefficients, lower, upper))


@dataclass(frozen=True, slots=True)
class MilpSolution:
    """The end of a MILP solve, the value of every column, and the bound on the best objective.

    `values` is empty if there is no solution; `bound` is None if the solver has none.
    """

    termination: Termination
    values: tuple[float, ...] = ()
    bound: float | None = None
