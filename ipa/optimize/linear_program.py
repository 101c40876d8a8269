"""A program as a mixed-integer linear one, for any MILP solver, and its solution by branching on chords.

With x[s,o] ∈ {0,1} (stage s takes option o), factors a[s,v] (options of equal factor form one group v), U the
largest product so far and P the product so far, P = 1 at first, one column y[s,v] a group:

    Σ_o x[s,o] = 1      Σ_v y[s,v] = P before     0 ≤ y[s,v] ≤ U · Σ_{o of v} x[s,o]     P = Σ_v a[s,v]·y[s,v]

Exactly one group of a stage has x = 1, so its y alone can be positive and equals P before, whence P is the
product. Products that share their first stages share those columns. A max combiner adds one binary for each
of its inputs. Where a fan-out depends on the variant, the options of a stage are those for every number of
items it may get, and rows make the number that is chosen the one that is sent.

The limit of a path, Σ mean + sqrt(Σ spread²) ≤ SLA, is not convex: the root is concave. A linear program with
the root's chord misses no plan but may allow one that is late. If it returns such a plan, the range of Σ
spread² is cut in two at that plan's value, where both new chords touch the root, and both parts are solved:
branch and bound over a few linear programs, exact at its end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import exp, inf, sqrt

import numpy as np

from ipa.model.errors import SolverError
from ipa.model.plan import Termination
from ipa.optimize.bounding import chord, spread_range
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Array
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, evaluate, tolerance


@dataclass(frozen=True, slots=True)
class MilpRow:
    """lower ≤ Σ coefficient · column ≤ upper, columns by index."""

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    lower: float
    upper: float


@dataclass(slots=True)
class Milp:
    """Maximise Σ cost · column, subject to the rows.

    The first `binaries` columns and those in `choices` are 0 or 1, others in [0, upper].
    """

    binaries: int = 0
    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    rows: list[MilpRow] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)

    @property
    def is_binary(self) -> list[bool]:
        """True for each column that must be 0 or 1."""
        choices = set(self.choices)
        return [at < self.binaries or at in choices for at in range(len(self.costs))]

    def add_row(self, terms: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """Add a row from (column, coefficient) pairs."""
        columns, coefficients = zip(*terms, strict=True)
        self.rows.append(MilpRow(columns, coefficients, lower, upper))


@dataclass(frozen=True, slots=True)
class MilpSolution:
    """The end of a MILP solve, the value of every column, and the bound on the best objective.

    `values` is empty without a solution; `bound` is None if the solver gives none.
    """

    termination: Termination
    values: tuple[float, ...] = ()
    bound: float | None = None


# An x this far from 0 or 1 is no choice.
INTEGRAL = 1e-5

# A cut this close to an end of its range (relative) would leave it as it is.
SAME = 1e-12
# Columns with their coefficients.
Expression = list[tuple[int, float]]
Maximise = Callable[[Milp, Deadline], MilpSolution]
# A MILP solver by its name.
Solvers = Callable[[str], Maximise]
# For each path, the least and the largest Σ spread² considered.
Ranges = tuple[tuple[float, float], ...]


def build_milp(program: Program, ranges: Ranges) -> Milp:
    """The linear program; columns are the stages' options in order, then those for products.

    On each path a chord over the path's range replaces the root of Σ spread², so a solution may exceed the
    SLA by the distance of the chord from the root, but no valid plan is lost.
    """
    firsts = first_columns(program)
    options = sum(len(stage) for stage in program.stages)
    milp = Milp(options, [float(value) for stage in program.stages for value in stage.value], [1.0] * options)
    for first, stage in zip(firsts, program.stages, strict=True):
        milp.add_row([(first + at, 1.0) for at in range(len(stage))], 1.0, 1.0)
    _add_levels(milp, program, firsts)
    _add_limits(milp, program, firsts)
    _add_paths(milp, program, firsts, ranges)
    _add_accuracies(milp, program, firsts)
    return milp


def chosen_options(program: Program, values: Sequence[float]) -> tuple[int, ...]:
    """The option of each stage whose x is 1; SolverError if an x is missing or not integral."""
    chosen = []
    if len(values) < sum(len(stage) for stage in program.stages):
        raise SolverError(f"the solver's solution has {len(values)} columns only")
    for name, (first, stage) in enumerate(zip(first_columns(program), program.stages, strict=True)):
        part = [float(value) for value in values[first : first + len(stage)]]
        best = max(range(len(part)), key=part.__getitem__)
        others = [abs(value) for at, value in enumerate(part) if at != best]
        # Written with `not`, since every comparison with NaN is false.
        if not (abs(part[best] - 1) <= INTEGRAL and sum(others) <= INTEGRAL):
            raise SolverError(f"the solver's choice for stage {name} is not integral: {part}")
        chosen.append(best)
    return tuple(chosen)


def first_columns(program: Program) -> list[int]:
    """The column of each stage's first option."""
    return [int(first) for first in np.cumsum([0, *(len(stage) for stage in program.stages[:-1])])]


def _terms(program: Program, firsts: list[int], uses: Sequence[Array], scale: float) -> Expression:
    return [
        (first + at, value / scale)
        for first, use in zip(firsts, uses, strict=True)
        for at, value in enumerate(use.tolist())
        if value
    ]


def _add_levels(milp: Milp, program: Program, firsts: list[int]) -> None:
    """Add rows that make each stage's number of items equal to the one that the stages before it send."""
    for at, children in enumerate(program.graph.children):
        for place, child in enumerate(children):
            sent, due = program.stages[at].leave[place], program.stages[child].enter
            numbers = sorted({*sent.tolist(), *due.tolist()})
            for number in numbers[1:]:
                row = [(firsts[at] + int(o), 1.0) for o in np.flatnonzero(sent == number)]
                row += [(firsts[child] + int(o), -1.0) for o in np.flatnonzero(due == number)]
                milp.add_row(row, 0.0, 0.0)


def _add_limits(milp: Milp, program: Program, firsts: list[int]) -> None:
    """Add the linear limits, each divided by its size to keep the numbers near 1."""
    for limit in program.limits():
        scale = max(abs(limit.most), 1e-3)
        row = _terms(program, firsts, limit.use, scale)
        if row:
            milp.add_row(row, -inf, limit.most / scale)


def _add_paths(milp: Milp, program: Program, firsts: list[int], ranges: Ranges) -> None:
    """Add Σ mean + slope · Σ spread² ≤ SLA − intercept, and Σ spread² within the range, for each path."""
    for path, (low, high) in zip(program.graph.paths, ranges, strict=True):
        slope, start = chord(low, high)
        stages = [program.stages[at] for at in path]
        columns = [firsts[at] for at in path]
        uses = [stage.mean_s + slope * stage.spread_s2 for stage in stages]
        row = _terms(program, columns, uses, program.sla_s)
        if row:
            milp.add_row(row, -inf, 1.0 - start / program.sla_s)
        if program.has_spread:
            square = program.sla_s**2
            spreads = _terms(program, columns, [stage.spread_s2 for stage in stages], square)
            if spreads:
                milp.add_row(spreads, low / square, high / square)


def _add_accuracies(milp: Milp, program: Program, firsts: list[int]) -> None:
    if program.alpha > 0:
        factors = [stage.factor for stage in program.stages]
        for column, weight in _Products(milp, firsts, factors).accuracy(program):
            milp.costs[column] += program.alpha * weight
    if program.log_floor > -inf and not program.graph.is_product:
        accuracies = [stage.accuracy for stage in program.stages]
        whole = _Products(milp, firsts, accuracies).accuracy(program)
        milp.add_row(whole, exp(program.log_floor), inf)


class _Products:
    """The columns of products of one factor a stage, shared by products with equal beginnings."""

    def __init__(self, milp: Milp, firsts: list[int], factors: Sequence[Array]) -> None:
        self._milp = milp
        self._firsts = firsts
        self._factors = factors
        self._made: dict[tuple[int, ...], tuple[Expression, float]] = {}

    def accuracy(self, program: Program) -> Expression:
        """The accuracy of the graph as a linear expression."""
        whole: dict[int, float] = {}
        for term in program.graph.terms:
            parts = [self._product(stages) for stages in term.alternatives]
            best = parts[0][0] if len(parts) == 1 else self._largest(parts)
            for column, coefficient in best:
                whole[column] = whole.get(column, 0.0) + term.weight * coefficient
        return list(whole.items())

    def _product(self, stages: tuple[int, ...]) -> tuple[Expression, float]:
        """The product over the stages, and the largest that it can be."""
        if stages in self._made:
            return self._made[stages]
        before, largest = self._product(stages[:-1]) if len(stages) > 1 else ([], 1.0)
        at = stages[-1]
        factors, group = np.unique(self._factors[at], return_inverse=True)
        product: Expression = []
        for number, factor in enumerate(factors.tolist()):
            column = self._column(largest)
            members = np.flatnonzero(group == number).tolist()
            shares = [(self._firsts[at] + member, -largest) for member in members]
            self._milp.add_row([(column, 1.0), *shares], -inf, 0.0)
            product.append((column, factor))
        source = 0.0 if before else 1.0
        self._milp.add_row(
            [*((column, 1.0) for column, _ in product), *((column, -a) for column, a in before)],
            source,
            source,
        )
        self._made[stages] = (product, largest * float(factors[-1]))
        return self._made[stages]

    def _column(self, upper: float, kind_is_choice: bool = False) -> int:
        self._milp.costs.append(0.0)
        self._milp.uppers.append(upper)
        if kind_is_choice:
            self._milp.choices.append(len(self._milp.costs) - 1)
        return len(self._milp.costs) - 1

    def _largest(self, parts: list[tuple[Expression, float]]) -> Expression:
        """The largest of the products, as a sum of columns: only the chosen product's column is above 0."""
        chosen: Expression = []
        total: Expression = []
        for product, most in parts:
            choice, column = self._column(1.0, kind_is_choice=True), self._column(most)
            self._milp.add_row([(column, 1.0), (choice, -most)], -inf, 0.0)
            self._milp.add_row([(column, 1.0), *((at, -a) for at, a in product)], -inf, 0.0)
            chosen.append((choice, 1.0))
            total.append((column, 1.0))
        self._milp.add_row(chosen, 1.0, 1.0)
        return total


@dataclass(order=True, slots=True)
class _Part:
    """A subset of the plans, by each path's range of Σ spread²; the most promising subset sorts first."""

    minus_bound: float
    number: int
    ranges: Ranges = field(compare=False)


def by_milp(maximise: Maximise, program: Program, deadline: Deadline) -> ProgramAnswer:
    """The best plan that the solver finds in time. Errors: those of the solver."""
    if not all(len(stage) for stage in program.stages):
        return ProgramAnswer(Termination.INFEASIBLE)
    numbers = count()
    parts = [_Part(-inf, next(numbers), whole_ranges(program))]
    best: tuple[int, ...] = ()
    reached = -inf
    while parts and (not best or -parts[0].minus_bound > reached + EQUAL * max(1.0, abs(reached))):
        part = heapq.heappop(parts)
        solution = maximise(build_milp(program, part.ranges), deadline)
        if solution.termination is Termination.INFEASIBLE:
            continue
        bound = -part.minus_bound if solution.bound is None else min(-part.minus_bound, solution.bound)
        chosen = chosen_options(program, solution.values) if solution.values else ()
        cut = _cut(program, chosen, part.ranges) if chosen else None
        if chosen and cut is None and evaluate(program, chosen).objective > reached:
            best, reached = chosen, evaluate(program, chosen).objective
        if solution.termination is not Termination.OPTIMAL:
            most = max(bound, *(-other.minus_bound for other in parts), reached)
            return ProgramAnswer(
                Termination.FEASIBLE if best else Termination.NO_SOLUTION_FOUND,
                best,
                most if most < inf else None,
            )
        for ranges in cut or ():
            heapq.heappush(parts, _Part(-bound, next(numbers), ranges))
    return (
        ProgramAnswer(Termination.OPTIMAL, best, reached) if best else ProgramAnswer(Termination.INFEASIBLE)
    )


def whole_ranges(program: Program) -> Ranges:
    """For each path, the full range of Σ spread²."""
    return tuple(spread_range(program, path) for path in program.graph.paths)


def _cut(program: Program, chosen: tuple[int, ...], ranges: Ranges) -> tuple[Ranges, Ranges] | None:
    """The ranges cut in two on the path on which the plan is latest; None if the plan is in time."""
    stages = program.stages
    latest, at, where = program.sla_s + tolerance(program.sla_s), -1, 0.0
    for path, members in enumerate(program.graph.paths):
        mean = sum(float(stages[stage].mean_s[chosen[stage]]) for stage in members)
        spread = sum(float(stages[stage].spread_s2[chosen[stage]]) for stage in members)
        if mean + sqrt(spread) > latest:
            latest, at, where = mean + sqrt(spread), path, spread
    if at < 0:
        return None
    low, high = ranges[at]
    if min(where - low, high - where) <= SAME * high:
        # The plan is late only by rounding: at an end of its range the chord equals the root.
        return None
    return (
        (*ranges[:at], (low, where), *ranges[at + 1 :]),
        (*ranges[:at], (where, high), *ranges[at + 1 :]),
    )
