"""Label setting: exact, in NumPy, without a solver.

Partial plans (labels) grow stage by stage. A label is dropped if another label of the same stages is as good
in every criterion, if it can no longer meet a limit, or if the bound of its completions lies below the best
known plan. Passes that keep only the most promising labels find that plan. A pass that keeps all labels is
exact.
"""

from __future__ import annotations

from math import inf, prod

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.backends.labels import CHANGES, COST, LIMITS, VALUE, LabelExpansion, PartialPlans
from ipa.optimize.bounding import LagrangeBounds, surrogates
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.problem import Array, Index
from ipa.optimize.program import EQUAL, Program, ProgramAnswer, evaluate

# Labels kept in each pass; the last pass keeps all. Each pass looks for plans at least as good as the last
# one's.
WIDTHS = (16, 48, 256, 1000, None)
# Up to this many plans are all tried: fewer operations than the tables of a bound take.
FEW = 16384


def is_small(program: Program) -> bool:
    """True if there are so few plans that trying all takes less time than computing a bound."""
    return prod(len(stage) for stage in program.stages) <= FEW


def solve(program: Program, deadline: Deadline) -> ProgramAnswer:
    """The best plan; among equals the fewest changes, then cost, then latency, as `_best` orders them."""
    if not all(len(stage) for stage in program.stages):
        return ProgramAnswer(Termination.INFEASIBLE)
    bounded = not is_small(program)
    search = LabelSearch(program, deadline, bounded=bounded)
    chosen: tuple[int, ...] = ()
    try:
        if not bounded:
            chosen = search.every()
        for width in WIDTHS if bounded else ():
            known = evaluate(program, chosen).objective if chosen else -inf
            better, complete = search.run(known, width)
            chosen = better or chosen
            if complete:
                break
    except DeadlineError:
        termination = Termination.FEASIBLE if chosen else Termination.NO_SOLUTION_FOUND
        note = "the time ran out before it was proved best"
        return ProgramAnswer(termination, chosen, search.root_bound if bounded else None, note)
    if not chosen:
        return ProgramAnswer(Termination.INFEASIBLE)
    return ProgramAnswer(Termination.OPTIMAL, chosen, evaluate(program, chosen).objective)


def best_at_least(program: Program, objective: float, deadline: Deadline) -> tuple[int, ...]:
    """The best plan whose objective is at least the given one (up to rounding), ties broken as in `solve`.

    Empty if there is none. DeadlineError if the time runs out before that is known.
    """
    if is_small(program):
        return LabelSearch(program, deadline, bounded=False).every()
    return LabelSearch(program, deadline).run(objective, None)[0]


class LabelSearch:
    """The bounds and the label search of one program; without bounds only `every` works.

    `prices` are the multipliers of an earlier search; if they are given, none are searched for.
    """

    def __init__(
        self, program: Program, deadline: Deadline, prices: Array | None = None, *, bounded: bool = True
    ) -> None:
        self._program = program
        self._deadline = deadline
        self._is_chain = _is_chain(program)
        if bounded:
            self.bounding = LagrangeBounds(program, prices)
        self._growth = LabelExpansion(program, self.bounding.rows if bounded else surrogates(program))
        self._counting = _counting(program, self._growth.linear)

    @property
    def root_bound(self) -> float:
        """The bound on the best objective."""
        start = self._growth.start()
        return float(self._upper(0, start)[0])

    def every(self) -> tuple[int, ...]:
        """The best plan within the limits, found by trying all plans; empty if there is none."""
        labels = self._growth.start()
        history: list[Index] = []
        for at in range(len(self._program.stages)):
            if self._deadline.passed:
                raise DeadlineError("the solver's time ran out")
            labels = self._growth.grow(labels, at)
            history.append(labels.made)
        depth = len(history)
        promising, _ = self._promising(depth, labels, np.zeros(len(labels)), -inf)
        return _plan([*history[:-1], promising.made], self._best(promising)) if len(promising) else ()

    def run(self, known: float, width: int | None) -> tuple[tuple[int, ...], bool]:
        """The best plan not worse than `known`, and True if every label was kept, which makes it optimal."""
        labels, history, complete = self._grown(known, width)
        return (_plan(history, self._best(labels)) if len(labels) else ()), complete

    def undominated(self, least: float = -inf, width: int | None = None) -> tuple[Index, bool]:
        """The plans (plans × stages) worth at least `least` that no other equals or exceeds in all criteria.

        The limited resources are criteria. With a `width`, only the most promising labels are kept; the
        second value is True if that dropped none. DeadlineError if the time runs out.
        """
        labels, history, complete = self._grown(least, width)
        if not len(labels):
            return np.zeros((0, len(self._program.stages)), dtype=np.intp), complete
        return _traced(history, np.arange(len(labels))), complete

    def _grown(self, known: float, width: int | None) -> tuple[PartialPlans, list[Index], bool]:
        """The labels of all stages, their parents and options, and True if every label was kept."""
        labels = self._growth.start()
        history: list[Index] = []
        complete = True
        least = _slightly_below(known)
        for at in range(len(self._program.stages)):
            if self._deadline.passed:
                raise DeadlineError("the solver's time ran out")
            labels = self._growth.grow(labels, at)
            bound = self._upper(at + 1, labels)
            labels, bound = self._promising(at + 1, labels, bound, least)
            if width is not None and len(labels) > 2 * width:
                few = _most_promising(bound, 2 * width)
                labels, bound, complete = labels.take(few), bound[few], False
            if len(labels) > 1:
                rows, lasting = self._criteria(at + 1, labels)
                best = undominated(rows, self._deadline, None if self._is_chain else lasting)
                if len(best) < len(labels):
                    labels, bound = labels.take(best), bound[best]
            if width is not None and len(labels) > width:
                few = _most_promising(bound, width)
                labels, complete = labels.take(few), False
            if not len(labels):
                break
            history.append(labels.made)
        return labels, history, complete

    def _promising(
        self, depth: int, labels: PartialPlans, bound: Array, least: float
    ) -> tuple[PartialPlans, Array]:
        """The labels that may still meet the accuracy floors and reach the objective `least`."""
        good = bound >= least
        for accuracy, products, reached in zip(
            self._growth.accuracies, labels.products, labels.reached, strict=True
        ):
            if accuracy.floor > -inf:
                good &= accuracy.could_reach(depth, products, reached) >= _slightly_below(accuracy.floor)
        if good.all():
            return labels, bound
        left = good.nonzero()[0]
        return labels.take(left), bound[left]

    def _upper(self, depth: int, labels: PartialPlans) -> Array:
        bounding, growth = self.bounding, self._growth
        product: Array | None = None
        if bounding.is_product:
            done = depth == len(self._program.stages)
            product = labels.reached[0] if done else labels.products[0][0]
        bound = bounding.upper(depth, product, labels.value, labels.sums[LIMITS:])
        if bounding.free_alpha:
            reach = growth.accuracies[0].could_reach(depth, labels.products[0], labels.reached[0])
            bound = bound + bounding.free_alpha * reach
        return bound

    def _criteria(self, depth: int, labels: PartialPlans) -> tuple[Array, list[int]]:
        """The criteria of each label, a row each, smaller is better; and the rows that last to the end.

        A smaller value in a lasting row stays smaller in the whole plan. Rows that do not last are the time
        along a path that is shorter than another, and an accuracy that is not the best of its alternatives.
        """
        growth = self._growth
        passing = [*(-product for product in reversed(labels.products)), *labels.times]
        if growth.has_ended[depth - 1]:
            passing.append(labels.latest[None])
        for number in labels.due.values():
            passing.append(np.array([number, -number], dtype=np.float64))
        lasts = [-labels.sums[None, VALUE], labels.sums[None, COST]]
        for reached, complete in zip(labels.reached, growth.has_complete[depth - 1], strict=True):
            if complete:
                lasts.append(-reached[None])
        if len(self._counting):
            lasts.append(labels.sums.take(self._counting, axis=0))
        rows = np.concatenate([*passing, *lasts])
        return rows, list(range(sum(map(len, passing)), len(rows)))

    def _best(self, labels: PartialPlans) -> int:
        """The best label: fewest changes, then cores, latency, all criteria, and names.

        All criteria count, since of two labels the search keeps the one that is better in them: searches that
        drop labels and searches that keep all must return the same plan.
        """
        objective = labels.value
        if self._program.alpha:
            objective = objective + self._program.alpha * labels.reached[0]
        best = float(objective.max())
        equal = np.flatnonzero(objective >= _slightly_below(best))
        alike = labels.take(equal)
        changes, cores = np.round(alike.sums[[CHANGES, COST]], 9)
        rows, _ = self._criteria(len(self._program.stages), alike)
        return int(equal[np.lexsort((*rows[::-1], np.round(alike.latest, 9), cores, changes))[0]])


def _counting(program: Program, linear: int) -> Index:
    """The rows of the labels' sums that are criteria beside value and cost; `linear` is the first limit.

    They are the linear limits that no other criterion covers: without a running configuration a cost in cores
    covers the limit of cores.
    """
    stages = program.stages
    same_cores = all(np.array_equal(stage.peak_cores, stage.cost) for stage in stages)
    same_accuracy = program.alpha > 0 and all(
        np.array_equal(stage.factor, stage.accuracy) for stage in stages
    )
    covered = {"cost": not program.is_priced, "cores": same_cores, "accuracy": same_accuracy}
    rows = [linear + at for at, limit in enumerate(program.limits()) if not covered.get(limit.name)]
    changing = [CHANGES] if any(stage.changes.any() for stage in stages) else []
    return np.array([*changing, *rows], dtype=np.intp)


def _slightly_below(limit: float) -> float:
    """The limit, reduced by the rounding of a sum."""
    return limit - EQUAL * max(1.0, abs(limit))


def _is_chain(program: Program) -> bool:
    """True if a partial plan keeps all its numbers: one path, and one product of accuracies."""
    terms = program.graph.terms
    return len(program.graph.paths) == 1 and len(terms) == 1 and len(terms[0].alternatives) == 1


def _most_promising(bound: Array, width: int) -> Index:
    """The indices of the `width` labels with the highest bounds, in their present order."""
    return np.sort(np.argsort(-bound, kind="stable")[:width])


def _traced(history: list[Index], at: Index) -> Index:
    """The options that each label consists of, (labels × stages)."""
    chosen = []
    for parent, option in reversed(history):
        chosen.append(option[at])
        at = parent[at]
    return np.array(chosen[::-1]).T


def _plan(history: list[Index], at: int) -> tuple[int, ...]:
    """The options that the label consists of, first stage first."""
    return tuple(_traced(history, np.array([at]))[0].tolist())
