"""The program as a mixed-integer linear one, its product of accuracies made linear without error.

With x[s,o] ∈ {0,1} (stage s takes option o), factors a[s,v] (options of equal factor form one group v),
U[s] the largest product of the first s stages and P[s] = Σ_v a[s,v]·y[s,v], P[0] = 1:

    Σ_o x[s,o] = 1        Σ_v y[s,v] = P[s−1]        0 ≤ y[s,v] ≤ U[s−1] · Σ_{o of v} x[s,o]

Exactly one group of a stage has x = 1, so its y alone can be positive and equals P[s−1], whence P[s] is the
product. Without a product in the objective the y are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from ipa.model.errors import SolverError
from ipa.optimize.options import Option, Program

# An x this far from 0 or 1 is no choice.
INTEGRAL = 1e-5


@dataclass(frozen=True, slots=True)
class Row:
    """lower ≤ Σ coefficient · column ≤ upper, columns by index."""

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    lower: float
    upper: float


@dataclass(slots=True)
class Milp:
    """max Σ cost · column over the rows. The first `binaries` columns are 0 or 1, others in [0, upper]."""

    binaries: int = 0
    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def add_row(self, terms: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """Add a row from (column, coefficient) pairs."""
        columns, coefficients = zip(*terms, strict=True)
        self.rows.append(Row(columns, coefficients, lower, upper))


def build_milp(program: Program) -> Milp:
    """The linear program; columns are the stages' options in order, then the y of the product."""
    options = [option for stage in program.stages for option in stage]
    milp = Milp(len(options), [option.value for option in options], [1.0] * len(options))
    firsts = _first_columns(program)
    for first, stage in zip(firsts, program.stages, strict=True):
        milp.add_row([(first + index, 1.0) for index in range(len(stage))], 1.0, 1.0)
    _add_limits(milp, program, options)
    if program.alpha > 0:
        _add_product(milp, program, firsts)
    return milp


def chosen_options(program: Program, values: Sequence[float]) -> tuple[int, ...]:
    """The option of each stage whose x is 1; SolverError where the x are not integral."""
    chosen = []
    for name, (first, stage) in enumerate(zip(_first_columns(program), program.stages, strict=True)):
        part = [float(value) for value in values[first : first + len(stage)]]
        best = max(range(len(part)), key=part.__getitem__)
        if abs(part[best] - 1) > INTEGRAL or sum(part) - part[best] > INTEGRAL:
            raise SolverError(f"the solver's choice for stage {name} is not integral: {part}")
        chosen.append(best)
    return tuple(chosen)


def _first_columns(program: Program) -> list[int]:
    firsts = [0]
    for stage in program.stages[:-1]:
        firsts.append(firsts[-1] + len(stage))
    return firsts


def _add_limits(milp: Milp, program: Program, options: list[Option]) -> None:
    """The rows of SLA, cores and accuracy floor, each divided by its limit to keep the numbers near 1."""
    limits = (
        (program.sla_s, [option.latency_s for option in options]),
        (program.cores, [option.cost_cores for option in options]),
        (-program.log_floor, [-option.log_accuracy for option in options]),
    )
    for limit, uses in limits:
        if limit < inf:
            scale = max(abs(limit), 1e-3)
            milp.add_row([(at, use / scale) for at, use in enumerate(uses)], -inf, limit / scale)


def _add_product(milp: Milp, program: Program, firsts: list[int]) -> None:
    previous: list[tuple[int, float]] = []
    largest = 1.0
    for first, stage in zip(firsts, program.stages, strict=True):
        flow: list[tuple[int, float]] = []
        factors = sorted({option.factor for option in stage})
        for factor in factors:
            column = len(milp.costs)
            milp.costs.append(0.0)
            milp.uppers.append(largest)
            members = [first + at for at, option in enumerate(stage) if option.factor == factor]
            milp.add_row([(column, 1.0), *((member, -largest) for member in members)], -inf, 0.0)
            flow.append((column, factor))
        source = 0.0 if previous else 1.0
        milp.add_row([*((at, 1.0) for at, _ in flow), *((at, -a) for at, a in previous)], source, source)
        previous = flow
        largest *= factors[-1]
    for column, factor in previous:
        milp.costs[column] = program.alpha * factor
