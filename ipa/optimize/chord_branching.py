"""Solve a program with a MILP solver by branching on chords.

The limit of a path, Σ mean + sqrt(Σ spread²) ≤ SLA, is not convex: the root is concave. A linear program with
the root's chord misses no plan but may allow one that is late. If it returns such a plan, the range of Σ
spread² is cut in two at that plan's value, where both new chords touch the root, and both parts are solved:
branch and bound over a few linear programs, exact at its end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf, sqrt

from ipa.model.plan import Termination
from ipa.optimize.bounding import spread_range
from ipa.optimize.deadline import Deadline
from ipa.optimize.linearise import build_milp, chosen_options
from ipa.optimize.milp import Milp, MilpSolution
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, evaluate, tolerance

Maximise = Callable[[Milp, Deadline], MilpSolution]
# A MILP solver by its name.
Solvers = Callable[[str], Maximise]
Ranges = tuple[tuple[float, float], ...]

# A cut this close to an end of its range (relative) would leave it as it is.
SAME = 1e-12


@dataclass(order=True, slots=True)
class _Part:
    """A subset of the plans, by the range of Σ spread² of each path; the most promising one comes first."""

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
    """The ranges cut in two on the path on which the plan is latest; None if it is in time."""
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
        # The plan is late by rounding alone: at an end of the range the chord is the root.
        return None
    return (
        (*ranges[:at], (low, where), *ranges[at + 1 :]),
        (*ranges[:at], (where, high), *ranges[at + 1 :]),
    )
