"""The k best plans in order, or the best plan of each combination of variants in order: exact.

Lawler and Murty's partition: the rest of a set of choices without its best plan falls into one part a stage,
in which the stages before are as in that plan and the stage itself is not. Each part is a program of its own
with a best plan of its own, so the next best plan is the best of these, and no plan comes twice (Lawler,
Management Science 18(7), 1972; Murty, Operations Research 16(3), 1968).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from math import isclose

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, Termination
from ipa.optimize.backends import label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance_filter import without_hopeless
from ipa.optimize.goals import reach
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL, Options, Program, ProgramAnswer, evaluate
from ipa.optimize.verify import verify

# Equally good plans are put in the fixed order in groups of at most this many.
MOST_TIES = 64

PROVED = (Termination.OPTIMAL, Termination.INFEASIBLE)

Key = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One choice of an option a stage of `program`, and the multipliers of the search that found it."""

    program: Program
    chosen: tuple[int, ...]
    prices: Array | None = None


def k_best(problem: PlanningProblem, k: int, deadline_s: float = 30.0) -> tuple[Plan, ...]:
    """The k best plans by the problem's goal, best first; fewer if there are no more.

    Plans differ in the variant, batch size, cores or replicas of a stage; wasteful plans, such as those with
    a spare replica, count too. Equally good plans are in the order of `solve`: fewest changes to the running
    configuration, lowest cost, lowest latency, names (in groups of `MOST_TIES` if there are more). The first
    is optimal; for the others `bound` is the objective of the first, `gap` their distance from it.

    Errors: DeadlineError if the time runs out before k are known.
    """
    deadline = Deadline(deadline_s)
    found = list(islice(ranking(problem, deadline), max(0, k)))
    return plans_of(problem, found, deadline.elapsed_s)


def ranking(problem: PlanningProblem, deadline: Deadline, *, by_variant: bool = False) -> Iterator[Ranked]:
    """The plans in order; with `by_variant` the best plan of each combination of variants in order.

    Errors: DeadlineError, when asked for one more after the time ran out.
    """
    program = without_hopeless(full_program(problem))
    classes = [
        _variants(problem, at, options) if by_variant else np.arange(len(options))
        for at, options in enumerate(program.stages)
    ]
    return _Partition(program, problem.objective.goal, classes, deadline).in_order()


def plans_of(problem: PlanningProblem, found: Sequence[Ranked], solve_s: float) -> tuple[Plan, ...]:
    """The ranked choices as verified plans, in the order given; the first must be the best of all.

    Errors: SolverError if one is invalid.
    """
    plans: list[Plan] = []
    for each in found:
        best = plans[0].objective if plans else None
        ended = Termination.FEASIBLE if plans else Termination.OPTIMAL
        plan = plan_of(problem, each.program, "exact", ProgramAnswer(ended, each.chosen, prices=each.prices))
        assert plan.objective is not None
        bound = plan.objective if best is None else max(best, plan.objective)
        gap = (bound - plan.objective) / max(1.0, abs(plan.objective))
        plan = replace(plan, bound=bound, gap=gap, solve_s=solve_s)
        verify(problem, plan)
        plans.append(plan)
    return tuple(plans)


def _variants(problem: PlanningProblem, at: int, options: Options) -> Index:
    stage = problem.stages[at]
    return np.full(len(options), -1) if stage.is_free else stage.columns.variant[options.point]


@dataclass(order=True, slots=True)
class _Part:
    """A set of choices by each stage's allowed options, and its best; the part of the best comes first."""

    key: Key
    number: int
    allowed: list[Index] = field(compare=False)
    best: Ranked = field(compare=False)


class _Partition:
    """The choices of a program, partitioned best by best; `classes` groups options that are one choice."""

    def __init__(self, program: Program, goal: Goal, classes: Sequence[Index], deadline: Deadline) -> None:
        self._program = program
        self._goal = goal
        self._classes = classes
        self._deadline = deadline
        self._numbers = count()

    def in_order(self) -> Iterator[Ranked]:
        """The best of each choice; equally good ones are held back and yielded in the fixed order."""
        whole = [np.arange(len(stage)) for stage in self._program.stages]
        parts = self._solved(whole)
        group: list[_Part] = []
        while parts:
            if group and (len(group) == MOST_TIES or not _equal(group[0].key, parts[0].key)):
                yield from self._flushed(group)
                group = []
            part = heapq.heappop(parts)
            group.append(part)
            for allowed in self._rest(part):
                for piece in self._solved(allowed):
                    heapq.heappush(parts, piece)
        yield from self._flushed(group)

    def _flushed(self, group: Sequence[_Part]) -> list[Ranked]:
        return [part.best for part in sorted(group, key=lambda part: self._tie(part.best.chosen))]

    def _tie(self, chosen: tuple[int, ...]) -> tuple[float, float, float, tuple[int, ...]]:
        totals = evaluate(self._program, chosen)
        return round(totals.changes, 9), round(totals.cost, 9), round(totals.latency_s, 9), chosen

    def _rest(self, part: _Part) -> Iterator[list[Index]]:
        """The rest of a part without its best choice, in disjoint pieces."""
        mine = [classes[at] for classes, at in zip(self._classes, part.best.chosen, strict=True)]
        for stage, allowed in enumerate(part.allowed):
            other = allowed[self._classes[stage][allowed] != mine[stage]]
            if len(other):
                before = [
                    part.allowed[at][self._classes[at][part.allowed[at]] == mine[at]] for at in range(stage)
                ]
                yield [*before, other, *part.allowed[stage + 1 :]]

    def _solved(self, allowed: list[Index]) -> list[_Part]:
        """The part of these options with its best, None if nothing is within the limits."""
        program = replace(
            self._program,
            stages=tuple(
                stage if len(kept) == len(stage) else stage.take(kept)
                for stage, kept in zip(self._program.stages, allowed, strict=True)
            ),
        )
        reduced, found = reach(program, self._goal, lambda given: label_setting.solve(given, self._deadline))
        if (
            found.termination in (Termination.FEASIBLE, Termination.NO_SOLUTION_FOUND)
            or self._deadline.passed
        ):
            raise DeadlineError("the time was too short for the next best plan")
        if not found.chosen:
            return []
        chosen = tuple(
            int(kept[_place(before, after, at)])
            for kept, before, after, at in zip(
                allowed, program.stages, reduced.stages, found.chosen, strict=True
            )
        )
        # A goal's later criteria have limits that the program does not have.
        prices = found.prices if self._goal is Goal.WEIGHTED else None
        best = Ranked(self._program, chosen, prices)
        return [_Part(self._key(chosen), next(self._numbers), allowed, best)]

    def _key(self, chosen: tuple[int, ...]) -> Key:
        totals = evaluate(self._program, chosen)
        if self._goal is Goal.LEXICOGRAPHIC:
            return -totals.term, totals.cost, totals.batch
        if self._goal is Goal.CHEAPEST:
            return totals.cost, -totals.term, totals.batch
        return (-totals.objective,)


def _equal(one: Key, other: Key) -> bool:
    return all(isclose(a, b, rel_tol=EQUAL, abs_tol=EQUAL) for a, b in zip(one, other, strict=True))


def _place(before: Options, after: Options, at: int) -> int:
    """The place of an option of the reduced stage in the original stage."""
    same = (
        (before.point == after.point[at])
        & (before.replicas == after.replicas[at])
        & (before.enter == after.enter[at])
    )
    return int(np.flatnonzero(same)[0])
