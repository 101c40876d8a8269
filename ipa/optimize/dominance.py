"""Dominance among many candidates, and the removal of options that a best plan never needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Array
from ipa.optimize.program import COUNTS, Options, Program, tolerance

# Candidates compared at once: large enough for NumPy, small enough for the cache.
CHUNK = 256
# [i, j]: True if i comes before j.
BEFORE: NDArray[np.bool_] = np.ascontiguousarray(np.tri(CHUNK, CHUNK, -1, dtype=bool).T)

# From this row on an option's whole numbers are the numbers of items that it receives and sends.
ENTER = COUNTS.index("enter")


def undominated(
    columns: Array, deadline: Deadline | None = None, lasting: Sequence[int] | None = None
) -> NDArray[np.intp]:
    """The indices of the columns that no other column equals or undercuts in every row, ascending.

    `columns` is (criteria × candidates), smaller is better. Of equal candidates the first stays. With
    `lasting`, a candidate is dropped only for an earlier one, or for one that undercuts it in one of those
    rows. DeadlineError if the time runs out.
    """
    order = np.lexsort(columns[::-1])
    ranked = columns.take(order, axis=1)
    if len(order) <= CHUNK and (deadline is None or not deadline.passed):
        return np.sort(order[~_covered(ranked, ranked, order, order, lasting)])
    front = np.empty((len(columns), 0))
    front_at = np.zeros(0, dtype=np.intp)
    for start in range(0, ranked.shape[1], CHUNK):
        if deadline is not None and deadline.passed:
            raise DeadlineError("the solver's time ran out")
        block, at = ranked[:, start : start + CHUNK], order[start : start + CHUNK]
        if front.shape[1]:
            free = ~_covered(front, block, front_at, at, lasting)
            block, at = block[:, free], at[free]
        free = ~_covered(block, block, at, at, lasting)
        front = np.hstack([front, block[:, free]])
        front_at = np.concatenate([front_at, at[free]])
    return np.sort(front_at)


def _covered(
    front: Array,
    block: Array,
    front_at: NDArray[np.intp],
    at: NDArray[np.intp],
    lasting: Sequence[int] | None,
) -> NDArray[np.bool_]:
    """True for candidates of the block that one of the front equals or undercuts.

    Those of the front have less in row 0; if it is the block itself, which ascends there, earlier ones count.
    """
    count = block.shape[1]
    is_own = front is block
    covering = BEFORE[:count, :count].copy() if is_own else np.ones((front.shape[1], count), dtype=bool)
    for front_row, row in zip(front[1:], block[1:], strict=True):
        np.logical_and(covering, front_row[:, None] <= row[None, :], out=covering)
    if lasting is not None:
        # Candidate i of the front precedes j of the block, or undercuts it in a lasting row.
        for_good = front_at[:, None] < at[None, :]
        for row in lasting:
            for_good |= front[row][:, None] < block[row][None, :]
        covering &= for_good
    covered: NDArray[np.bool_] = np.logical_or.reduce(covering, axis=0)
    return covered


def reduce_program(program: Program) -> Program:
    """The program without needless options; no best plan is lost, nor the first of equally good ones."""
    fitting = without_hopeless(program)
    has_spread, has_levels = fitting.has_spread, _has_levels(fitting)
    stages = []
    for stage in fitting.stages:
        best = np.arange(len(stage))
        if len(stage) > 1:
            best = undominated(criteria(fitting, stage, has_spread, has_levels))
        stages.append(stage if len(best) == len(stage) else stage.take(best))
    return replace(fitting, stages=tuple(stages))


def without_hopeless(program: Program) -> Program:
    """Drop options that break a limit even with the lightest options elsewhere, or that fit no neighbour."""
    fits = [np.ones(len(stage), dtype=bool) for stage in program.stages]
    _drop_late(program, fits)
    for limit in program.limits():
        least = np.array([use.min(initial=inf) for use in limit.use])
        most = limit.most + tolerance(abs(limit.most))
        total = float(least.sum())
        if total == inf:
            _drop_all(fits)
            break
        for at, use in enumerate(limit.use):
            fits[at] &= use <= most - (total - least[at])
    _drop_unmatched(program, fits)
    if all(bool(each.all()) for each in fits):
        return program
    return replace(
        program, stages=tuple(stage.take(each) for stage, each in zip(program.stages, fits, strict=True))
    )


def _drop_late(program: Program, fits: list[NDArray[np.bool_]]) -> None:
    mean = np.array([stage.mean_s.min(initial=inf) for stage in program.stages])
    if not np.isfinite(mean).all():
        _drop_all(fits)
        return
    has_spread = program.has_spread
    spread = np.array([stage.spread_s2.min() if has_spread else 0.0 for stage in program.stages])
    most = program.sla_s + tolerance(program.sla_s)
    for path in program.graph.paths:
        members = list(path)
        mean_s, spread_s2 = float(mean[members].sum()), float(spread[members].sum())
        for at in path:
            stage = program.stages[at]
            least_s = stage.mean_s
            if has_spread:
                others_s2 = max(0.0, spread_s2 - float(spread[at]))
                least_s = least_s + np.sqrt(stage.spread_s2 + others_s2)
            fits[at] &= least_s <= most - (mean_s - float(mean[at]))


def _drop_all(fits: list[NDArray[np.bool_]]) -> None:
    for each in fits:
        each[:] = False


def _drop_unmatched(program: Program, fits: list[NDArray[np.bool_]]) -> None:
    """Drop options for numbers of items that no remaining option before them sends, or after them takes."""
    if not _has_levels(program):
        return
    before, left = -1, sum(int(each.sum()) for each in fits)
    while left != before:
        for at, children in enumerate(program.graph.children):
            for place, child in enumerate(children):
                leave, enter = program.stages[at].leave[place], program.stages[child].enter
                for mine, theirs, stage in ((leave, enter, at), (enter, leave, child)):
                    other = child if stage == at else at
                    fits[stage] &= np.isin(mine, theirs[fits[other]])
        before, left = left, sum(int(each.sum()) for each in fits)


def _has_levels(program: Program) -> bool:
    """True if a stage may see more than one number of items."""
    return any(stage.counts[ENTER:].any() for stage in program.stages)


def criteria(program: Program, stage: Options, has_spread: bool, has_levels: bool) -> Array:
    """The criteria as rows over the options, smaller is better; options must agree in numbers of items."""
    rows = [-stage.value, stage.cost, stage.mean_s]
    if program.uses_product:
        rows.insert(0, -stage.factor)
    if has_spread:
        rows.append(stage.spread_s2)
    if program.is_priced and program.max_cost < inf:
        rows.append(stage.cost_cores)
    if program.cores < inf and (stage.peak_cores != stage.cost).any():
        rows.append(stage.peak_cores)
    for at, budget in enumerate(program.budgets):
        rows.append(stage.peak(at))
        if budget.held < inf:
            rows.append(stage.held(at))
    if program.log_floor > -inf:
        rows.append(-stage.accuracy)
    if stage.changes.any():
        rows.append(stage.changes)
    for number in stage.counts[ENTER:] if has_levels else ():
        if (number != number[0]).any():
            rows.extend([number.astype(np.float64), -number.astype(np.float64)])
    return np.array(rows)
