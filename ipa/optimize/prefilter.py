"""Removes options that are too expensive before their times are computed.

A quantile takes far longer to compute than a cost. The worth of plans with an option is bounded without
times; an option is dropped if its bound is below a plan that is known to be in time.
"""

from __future__ import annotations

from math import inf

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.optimize.backends import label_setting
from ipa.optimize.candidates import PRODUCTS, Candidates
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import reduce_program
from ipa.optimize.options import draft_of, program_of
from ipa.optimize.problem import Array, Compat, Index, PlanningProblem
from ipa.optimize.program import EQUAL, PLACE, Program, evaluate

# Fewer options are not filtered: computing them takes less time.
FEW = 256
# Replicas beyond the least with which each point is tried first: this times the root of the least (the
# square-root rule of staffing).
STAFFING = 0.5


def narrow_program(problem: PlanningProblem, deadline: Deadline, known: float = -inf) -> Program:
    """The program of a problem without options that only plans worse than a `known` worth have.

    Without one it is that of the running plan if that is in time, else of one with about the usual number of
    replicas of each point. All options are kept if neither is in time, or if times are cheap to compute.
    """
    draft = draft_of(problem)
    if problem.compat is not Compat.TAIL or len(draft.point) <= FEW:
        return program_of(problem, draft)
    at_most = _worth_at_most(problem, draft)
    if at_most is None:
        return program_of(problem, draft)
    if known == -inf and problem.running:
        unchanged = draft.numbers[PLACE["changes"]] == 0
        known = _good(problem, draft.take(np.flatnonzero(unchanged)), deadline)
    if known == -inf:
        known = _good(problem, draft.take(_staffed(draft)), deadline)
    least = known - 10 * EQUAL * max(1.0, abs(known)) if known > -inf else -inf
    return program_of(problem, draft.take(np.flatnonzero(at_most >= least)))


def _worth_at_most(problem: PlanningProblem, draft: Candidates) -> Array | None:
    """For each candidate the highest worth of a plan with it, whatever its latency.

    None if accuracies neither add up nor multiply, or if a stage has no candidates.
    """
    alpha = problem.objective.alpha if problem.objective.accuracy_rule in PRODUCTS else 0.0
    if alpha and not problem.graph.is_product:
        return None
    stage = draft.stage
    starts = np.flatnonzero(np.diff(stage, prepend=-1))
    if len(starts) < len({block.index for block in draft.blocks}):
        return None
    counts = np.diff(starts, append=len(stage))
    factor, value = draft.numbers[PLACE["factor"]], draft.numbers[PLACE["value"]]
    factors, values = np.maximum.reduceat(factor, starts), np.maximum.reduceat(value, starts)
    others = np.array([np.delete(factors, at).prod() for at in range(len(factors))])
    worth: Array = alpha * factor * others.repeat(counts) + value + (values.sum() - values).repeat(counts)
    return worth


def _staffed(candidates: Candidates) -> Index:
    """One candidate for each point of each block, with the usual number of replicas."""
    is_first = np.ones(len(candidates.point), dtype=bool)
    is_first[1:] = (np.diff(candidates.point) != 0) | (np.diff(candidates.block) != 0)
    least = np.flatnonzero(is_first)
    most = np.append(least[1:], len(is_first)) - 1
    more = np.ceil(STAFFING * np.sqrt(candidates.replicas[least])).astype(np.intp)
    at: Index = np.minimum(least + more, most)
    return at


def _good(problem: PlanningProblem, draft: Candidates, deadline: Deadline) -> float:
    """The worth of a good plan of the draft's options; −inf if none is found at once."""
    program = reduce_program(program_of(problem, draft))
    if not all(len(stage) for stage in program.stages):
        return -inf
    try:
        if label_setting.is_small(program):
            chosen = label_setting.LabelSearch(program, deadline, bounded=False).every()
        else:
            chosen, _ = label_setting.LabelSearch(program, deadline).run(-inf, label_setting.WIDTHS[0])
    except DeadlineError:
        return -inf
    return evaluate(program, chosen).objective if chosen else -inf
