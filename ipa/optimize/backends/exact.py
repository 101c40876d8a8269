"""Label setting: exact, in NumPy, without a solver.

Partial plans (labels) grow stage by stage. A label is dropped where another of the same stages is as good in
everything that counts, where a limit cannot be met any more, or where the bound of its completions lies
below the best plan known. A first pass that keeps only the most promising labels finds that plan; if it kept
all, it was already exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.backends.answer import EQUAL, Answer
from ipa.optimize.backends.labels import Growth, Labels
from ipa.optimize.bounding import Bounding
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.polish import polished
from ipa.optimize.program import Program, evaluate, fits

# Labels kept in each pass; the last keeps all. What one finds is the least that the next looks for. Narrow
# ones look for a plan where the multipliers suggested none.
NARROW = (16, 48)
WIDTHS = (256, 1000, None)
# The labels that are kept are the best of so many classes of the value so far.
STRATA = 4
# So many plans are all tried: fewer operations than the tables of a bound take.
FEW = 4096


def solve(
    program: Program, deadline: Deadline, start: Sequence[int] = (), prices: Array | None = None
) -> Answer:
    """The best plan; of equally good ones that of the fewest changes, lowest cost, latency; then `_best`.

    `start` is a plan within the limits and `prices` the multipliers of an earlier search: then neither is
    looked for.
    """
    if not all(len(stage) for stage in program.stages):
        return Answer(Termination.INFEASIBLE)
    if prod(len(stage) for stage in program.stages) <= FEW:
        return _all_tried(program, deadline)
    search = Search(program, deadline, prices)
    chosen = tuple(start)
    try:
        chosen = search.guess(chosen)
        for width in WIDTHS if chosen else (*NARROW, *WIDTHS):
            known = evaluate(program, chosen).objective if chosen else -inf
            found, complete = search.run(known, width)
            chosen = found or chosen
            if complete:
                break
    except DeadlineError:
        termination = Termination.FEASIBLE if chosen else Termination.NO_SOLUTION_FOUND
        note = "the time was up before it was proved best"
        return Answer(termination, chosen, search.root_bound, note, search.prices)
    if not chosen:
        return Answer(Termination.INFEASIBLE)
    return Answer(Termination.OPTIMAL, chosen, evaluate(program, chosen).objective, prices=search.prices)


def _all_tried(program: Program, deadline: Deadline) -> Answer:
    """The best of so few plans that trying all takes less time than a bound."""
    try:
        chosen = Search(program, deadline, bounded=False).every()
    except DeadlineError:
        return Answer(Termination.NO_SOLUTION_FOUND, note="the time was up before anything was tried")
    if not chosen:
        return Answer(Termination.INFEASIBLE)
    return Answer(Termination.OPTIMAL, chosen, evaluate(program, chosen).objective)


def best_at_least(program: Program, objective: float, deadline: Deadline) -> tuple[int, ...]:
    """The best plan whose objective is at least the given one (less rounding), ties broken as in `solve`.

    Empty where there is none. DeadlineError where the time is too short to know.
    """
    if prod(len(stage) for stage in program.stages) <= FEW:
        return Search(program, deadline, bounded=False).every()
    return Search(program, deadline).run(objective, None)[0]


class Search:
    """One program's bounds and label search; without bounds only `every` works."""

    def __init__(
        self, program: Program, deadline: Deadline, prices: Array | None = None, *, bounded: bool = True
    ) -> None:
        self._program = program
        self._deadline = deadline
        self._has_spread = program.has_spread
        self._counting = _counting(program)
        self._is_chain = _is_chain(program)
        if not bounded:
            self._growth = Growth(program, tuple(np.zeros((0, len(stage))) for stage in program.stages), 0)
            return
        self.bounding = Bounding(program, prices)
        self._growth = Growth(
            program,
            tuple(self.bounding.use(at) for at in range(len(program.stages))),
            len(self.bounding.most),
        )

    @property
    def prices(self) -> Array:
        """The multipliers of the limits, those of the paths first."""
        return self.bounding.prices

    @property
    def root_bound(self) -> float:
        """The bound on the best objective."""
        start = self._growth.start()
        return float(self._upper(0, start)[0])

    def guess(self, start: tuple[int, ...] = ()) -> tuple[int, ...]:
        """`start`, else the best plan that the multipliers suggest and the limits allow, polished."""
        plans = [start] if start else dict.fromkeys(tuple(row) for row in self.bounding.guesses().tolist())
        within = [plan for plan in plans if plan is start or fits(self._program, plan)]
        best = max(within, key=lambda plan: evaluate(self._program, plan).objective, default=())
        return polished(self._program, self.bounding.rows, self.prices, best) if best else ()

    def every(self) -> tuple[int, ...]:
        """The best of all plans within the limits, each of them tried; empty where there is none."""
        labels = self._growth.start()
        history: list[tuple[Index, Index]] = []
        for at in range(len(self._program.stages)):
            if self._deadline.passed:
                raise DeadlineError("the solver's time is up")
            labels = self._growth.grow(labels, at)
            history.append((labels.parent, labels.option))
        good = np.flatnonzero(self._above_floors(len(self._program.stages), labels))
        if not len(good):
            return ()
        return _trace(history, int(good[self._best(labels.take(good))]))

    def run(self, known: float, width: int | None) -> tuple[tuple[int, ...], bool]:
        """The best plan not worse than `known`, and whether every label was kept (then it is exact)."""
        labels, history, complete = self._grown(known, width)
        return (_trace(history, self._best(labels)) if len(labels) else ()), complete

    def frontier(self, least: float = -inf) -> list[tuple[float, float, tuple[int, ...]]]:
        """Cost in cores, objective and plan of every plan that none of no more cores equals or betters.

        By rising cost; only those of an objective of at least `least`. DeadlineError where the time is up.
        """
        labels, history, _ = self._grown(least, None)
        if not len(labels):
            return []
        cost, objective = labels.ties[1], self._objective(labels)
        order = np.lexsort((-objective, np.round(cost, 9)))
        before = np.maximum.accumulate(np.append(-inf, objective[order][:-1]))
        better = order[objective[order] > before]
        return [(float(cost[at]), float(objective[at]), _trace(history, at)) for at in better.tolist()]

    def undominated(self) -> list[tuple[int, ...]]:
        """Every plan that no other equals or betters in all that counts.

        DeadlineError where the time is up.
        """
        labels, history, _ = self._grown(-inf, None)
        return [_trace(history, at) for at in range(len(labels))]

    def _grown(self, known: float, width: int | None) -> tuple[Labels, list[tuple[Index, Index]], bool]:
        """The labels of all stages, how each was made, and whether every one was kept."""
        labels = self._growth.start()
        history: list[tuple[Index, Index]] = []
        complete = True
        least = known - EQUAL * max(1.0, abs(known)) if known > -inf else -inf
        for at in range(len(self._program.stages)):
            if self._deadline.passed:
                raise DeadlineError("the solver's time is up")
            labels = self._growth.grow(labels, at)
            bound = self._upper(at + 1, labels)
            good = bound >= least
            good &= self._above_floors(at + 1, labels)
            labels, bound = labels.take(good), bound[good]
            if width is not None and len(labels) > 2 * width:
                few = _spread(labels, bound, 2 * width)
                labels, bound, complete = labels.take(few), bound[few], False
            rows, lasting = self._criteria(labels)
            kept = undominated(rows, self._deadline, None if self._is_chain else lasting)
            labels, bound = labels.take(kept), bound[kept]
            if width is not None and len(labels) > width:
                few = _spread(labels, bound, width)
                labels, complete = labels.take(few), False
            if not len(labels):
                break
            history.append((labels.parent, labels.option))
        return labels, history, complete

    def _upper(self, depth: int, labels: Labels) -> Array:
        product = np.ones(len(labels))
        bounding = self.bounding
        if bounding.free_alpha or not self._growth.accuracies or not self._program.alpha:
            bound = bounding.upper(depth, product, labels.value, labels.rows)
            if bounding.free_alpha:
                accuracy = self._growth.accuracies[0]
                reach = accuracy.could_reach(depth, labels.products[0], labels.reached[0])
                bound = bound + bounding.free_alpha * reach
            return bound
        done = depth == len(self._program.stages)
        product = labels.reached[0] if done else labels.products[0][0]
        return bounding.upper(depth, product, labels.value, labels.rows)

    def _above_floors(self, depth: int, labels: Labels) -> NDArray[np.bool_]:
        good = np.ones(len(labels), dtype=bool)
        for accuracy, products, reached in zip(
            self._growth.accuracies, labels.products, labels.reached, strict=True
        ):
            if accuracy.floor > -inf:
                most = accuracy.could_reach(depth, products, reached)
                good &= most >= accuracy.floor - EQUAL * max(1.0, abs(accuracy.floor))
        return good

    def _criteria(self, labels: Labels) -> tuple[Array, list[int]]:
        """What counts of each label, a row a criterion, all to be small; and which rows last to the end.

        What is less in a lasting row is less in the whole plan's too. The time along a path that is shorter
        than another, or an accuracy that is not the best of its alternatives, is forgotten in the end.
        """
        passing = [*labels.means]
        if self._has_spread:
            passing.extend(labels.spreads)
        lasts = [-labels.value, *labels.ties[1:]]
        for product, reached in zip(labels.products, labels.reached, strict=True):
            passing = [*(-each for each in product), *passing]
            if reached.any():
                lasts.append(-reached)
        if labels.ties[0].any():
            lasts.append(labels.ties[0])
        if labels.latest.any():
            passing.append(labels.latest)
        lasts.extend(labels.use[at] for at in self._counting)
        for number in labels.due.values():
            passing.extend([number.astype(np.float64), -number.astype(np.float64)])
        return np.array([*passing, *lasts]), list(range(len(passing), len(passing) + len(lasts)))

    def _objective(self, labels: Labels) -> Array:
        if not self._program.alpha:
            return labels.value
        objective: Array = labels.value + self._program.alpha * labels.reached[0]
        return objective

    def _best(self, labels: Labels) -> int:
        """The first of the best: fewest changes, cores, latency, then all that counts, then names.

        All that counts, since of two labels the search keeps the one that is better in it: what is forgotten
        on the way and what is not must name the same plan.
        """
        objective = self._objective(labels)
        best = float(objective.max())
        equal = np.flatnonzero(objective >= best - EQUAL * max(1.0, abs(best)))
        if len(equal) == 1:
            return int(equal[0])
        alike = labels.take(equal)
        changes, cores = np.round(alike.ties, 9)
        rows, _ = self._criteria(alike)
        return int(equal[np.lexsort((*rows[::-1], np.round(alike.latest, 9), cores, changes))[0]])


def _counting(program: Program) -> list[int]:
    """The linear limits that no other criterion stands for: cost does where nothing runs yet."""
    stages = program.stages
    same_cores = all(np.array_equal(stage.peak_cores, stage.cost_cores) for stage in stages)
    same_accuracy = program.alpha > 0 and all(
        np.array_equal(stage.factor, stage.accuracy) for stage in stages
    )
    covered = {"cost": True, "cores": same_cores, "accuracy": same_accuracy}
    return [at for at, limit in enumerate(program.limits()) if not covered.get(limit.name)]


def _is_chain(program: Program) -> bool:
    """Whether nothing of a partial plan is forgotten: one path, and one product of accuracies."""
    terms = program.graph.terms
    return len(program.graph.paths) == 1 and len(terms) == 1 and len(terms[0].alternatives) == 1


def _spread(labels: Labels, bound: Array, width: int) -> Index:
    """The most promising labels, about `width`, from every stratum of the value so far.

    The bound alone favours accurate plans that the limits will not let pass, until no cheap one is left.
    """
    count = len(labels)
    stratum = np.empty(count, dtype=np.intp)
    stratum[np.argsort(labels.value, kind="stable")] = np.arange(count) * STRATA // count
    order = np.lexsort((-bound, stratum))
    first = np.searchsorted(stratum[order], np.arange(STRATA))
    place = np.arange(count) - first[stratum[order]]
    return np.sort(order[place < -(-width // STRATA)])


def _trace(history: list[tuple[Index, Index]], at: int) -> tuple[int, ...]:
    """The options by which the label was made, first stage first."""
    chosen = []
    for parent, option in reversed(history):
        chosen.append(int(option[at]))
        at = int(parent[at])
    return tuple(reversed(chosen))
