"""Remove options that are too expensive before their times are computed.

A quantile takes far longer to compute than a cost. The worth of a plan with an option, were all its stages in
time, needs no times; options below a plan that is known to be in time need not be computed. Options behind a
class of what leaves the stage before are computed last: only those that the options of that class, whose
times are known then, leave time and worth for.
"""

from __future__ import annotations

from math import inf, prod

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.optimize.backends import label_setting
from ipa.optimize.candidates import PRODUCTS, Candidates
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import reduce_program
from ipa.optimize.options import draft_of, program_of
from ipa.optimize.problem import Array, Compat, Index, PlanningProblem
from ipa.optimize.program import EQUAL, PLACE, Program, evaluate
from ipa.optimize.timing import least_time_s, option_times

# Fewer options are not filtered: computing them takes less time.
FEW = 256
# Replicas beyond the least with which each point is tried first: this times the root of the least (the
# square-root rule of staffing).
STAFFING = 0.5


def narrow_program(problem: PlanningProblem, deadline: Deadline) -> Program:
    """The program of a problem without options that no plan as good as a known one can have.

    The known plan is what runs if that is in time, else one with about the usual number of replicas of each
    point. All options are kept if none is found, or if times cost nothing.
    """
    draft = draft_of(problem)
    if problem.compat is not Compat.TAIL or len(draft.point) <= FEW:
        return program_of(problem, draft)
    at_most = _worth_at_most(problem, draft)
    if at_most is None:
        return program_of(problem, _in_time(problem, draft, -inf))
    known = -inf
    if problem.running:
        unchanged = draft.numbers[PLACE["changes"]] == 0
        known = _good(problem, draft.take(unchanged.nonzero()[0]), deadline)
    if known == -inf:
        known = _good(problem, _in_time(problem, draft.take(_staffed(draft)), -inf), deadline)
    least = known - 10 * EQUAL * max(1.0, abs(known)) if known > -inf else -inf
    return program_of(problem, _in_time(problem, draft.take((at_most >= least).nonzero()[0]), least))


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


def _in_time(problem: PlanningProblem, draft: Candidates, least: float) -> Candidates:
    """The draft without candidates behind a class whose senders leave them too little time, or worth.

    A sender leaves what the SLA has beyond its own time, of which a candidate behind it takes its service
    time at least. `least` is the worth that a plan must have: a pair's with the best of the other stages.
    """
    alpha = problem.objective.alpha if problem.objective.accuracy_rule in PRODUCTS else 0.0
    for index in range(len(problem.stages)):
        sender = problem.sender(index)
        if sender is None:
            continue
        stage = draft.stage
        sent = (stage == sender).nonzero()[0]
        if not len(sent):
            continue
        senders = draft.take(sent)
        _, _, mean_s, spread_s2 = option_times(problem, senders.points, senders.replicas, senders.scalars)
        left_s = problem.sla_s * (1 + EQUAL) - mean_s - np.sqrt(spread_s2)
        sent, left_s = sent[left_s > 0], left_s[left_s > 0]
        factor, value = draft.numbers[PLACE["factor"]], draft.numbers[PLACE["value"]]
        others = [stage == each for each in set(stage.tolist()) - {index, sender}]
        rest_factor = alpha * prod(float(factor[other].max()) for other in others)
        rest_value = sum(float(value[other].max()) for other in others)
        kept = stage != index
        for block, own in zip(draft.blocks, draft.slices, strict=True):
            if block.index == index:
                of_class = draft.departs[sent] == block.behind
                before = sent[of_class]
                fits = least_time_s(draft.points[:, own])[:, None] <= left_s[of_class]
                worth = (
                    rest_factor * factor[own][:, None] * factor[before] + value[own][:, None] + value[before]
                )
                kept[own] = (fits & (worth + rest_value >= least)).any(axis=1)
        draft = draft.take(kept.nonzero()[0])
    return draft


def _staffed(candidates: Candidates) -> Index:
    """A candidate for each point of each block, with the usual number of replicas."""
    is_first = np.ones(len(candidates.point), dtype=bool)
    is_first[1:] = (np.diff(candidates.point) != 0) | (np.diff(candidates.block) != 0)
    least = is_first.nonzero()[0]
    most = np.append(least[1:], len(is_first)) - 1
    more = np.ceil(STAFFING * np.sqrt(candidates.replicas[least])).astype(np.intp)
    at: Index = np.minimum(least + more, most)
    return at


def _good(problem: PlanningProblem, draft: Candidates, deadline: Deadline) -> float:
    """The worth of a good plan of the draft's options, −infinity if none is found at once."""
    program = reduce_program(program_of(problem, draft))
    if not all(len(stage) for stage in program.stages):
        return -inf
    try:
        chosen = _good_plan(program, deadline)
    except DeadlineError:
        return -inf
    return evaluate(program, chosen).objective if chosen else -inf


def _good_plan(program: Program, deadline: Deadline) -> tuple[int, ...]:
    """A plan within the limits, empty if none is found at once. DeadlineError if the time runs out."""
    if prod(len(stage) for stage in program.stages) <= label_setting.FEW:
        return label_setting.LabelSearch(program, deadline, bounded=False).every()
    return label_setting.LabelSearch(program, deadline).run(-inf, label_setting.WIDTHS[0])[0]
