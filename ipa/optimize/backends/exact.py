"""Label setting: exact, in NumPy, without a solver.

Partial plans (labels) grow stage by stage. A label is dropped where another of the same stages is as good in
everything that counts (product, value, cores, latency, accuracy where there is a floor), where a limit cannot
be met any more, or where the Lagrange bound of its completions lies below the best plan known. A first pass
that keeps only the most promising labels finds that plan; if it kept all, it was already exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.backends.answer import EQUAL, Answer
from ipa.optimize.bounding import Array, Bounding, StageArrays, stage_arrays
from ipa.optimize.deadline import Deadline
from ipa.optimize.options import Program, evaluate, tolerance, undominated

# Labels kept in the first pass.
BEAM = 128


@dataclass(frozen=True, slots=True)
class _Labels:
    """Partial plans as columns; `chosen` is (labels × stages so far), rows in lexicographic order."""

    product: Array
    value: Array
    use: Array
    chosen: NDArray[np.int32]

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | list[int]) -> _Labels:
        return _Labels(self.product[at], self.value[at], self.use[:, at], self.chosen[at])


def solve(program: Program, deadline: Deadline) -> Answer:
    """The best plan; of equally good ones that of the lowest cost, then latency, then order of names."""
    if not all(program.stages):
        return Answer(Termination.INFEASIBLE)
    search = _Search(program, deadline)
    chosen: tuple[int, ...] = ()
    try:
        chosen, complete = search.run(-inf, BEAM)
        if not complete:
            chosen, _ = search.run(evaluate(program, chosen)[0] if chosen else -inf, None)
    except DeadlineError:
        termination = Termination.FEASIBLE if chosen else Termination.NO_SOLUTION_FOUND
        return Answer(termination, chosen, search.root_bound, "the time was up before it was proved best")
    if not chosen:
        return Answer(Termination.INFEASIBLE)
    return Answer(Termination.OPTIMAL, chosen, evaluate(program, chosen)[0])


def best_at_least(program: Program, objective: float, deadline: Deadline) -> tuple[int, ...]:
    """The best plan whose objective is at least the given one (less rounding), ties broken as in `solve`.

    Empty where there is none. DeadlineError where the time is too short to know.
    """
    return _Search(program, deadline).run(objective, None)[0]


class _Search:
    def __init__(self, program: Program, deadline: Deadline) -> None:
        self._program = program
        self._deadline = deadline
        self._stages = stage_arrays(program)
        self._bounding = Bounding(program, self._stages)
        least = np.array([stage.use.min(axis=1) for stage in self._stages])
        # What the stages after each depth take of each limit at the least.
        self._rest = np.vstack([np.cumsum(least[::-1], axis=0)[::-1], np.zeros(3)])
        limits = (program.sla_s, program.cores, -program.log_floor)
        self._allowed = np.array([limit + tolerance(abs(limit)) for limit in limits])
        product_is_pas = program.alpha > 0 and all(
            option.factor == option.point.accuracy for stage in program.stages for option in stage
        )
        self._floor_counts = program.log_floor > -inf and not product_is_pas

    @property
    def root_bound(self) -> float:
        return self._bounding.root

    def run(self, known: float, width: int | None) -> tuple[tuple[int, ...], bool]:
        """The best plan not worse than `known`, and whether every label was kept (then it is exact)."""
        labels = _Labels(np.ones(1), np.zeros(1), np.zeros((3, 1)), np.zeros((1, 0), dtype=np.int32))
        complete = True
        for depth, stage in enumerate(self._stages, start=1):
            labels, bound = self._grow(labels, stage, depth, known)
            labels, bound = self._without_dominated(labels, bound)
            if width is not None and len(bound) > width:
                labels = labels.take(np.sort(np.argsort(-bound, kind="stable")[:width]))
                complete = False
        return self._best(labels), complete

    def _grow(self, labels: _Labels, stage: StageArrays, depth: int, known: float) -> tuple[_Labels, Array]:
        if self._deadline.passed:
            raise DeadlineError("the solver's time is up")
        count = len(stage.value)
        use = (labels.use[:, :, None] + stage.use[:, None, :]).reshape(3, -1)
        fits = np.flatnonzero((use + self._rest[depth][:, None] <= self._allowed[:, None]).all(axis=0))
        parent, option = fits // count, fits % count
        product = labels.product[parent] * stage.factor[option]
        value = labels.value[parent] + stage.value[option]
        use = use[:, fits]
        bound = self._bounding.upper(depth, product, value, use)
        good = (
            np.flatnonzero(bound >= known - EQUAL * max(1.0, abs(known)))
            if known > -inf
            else np.arange(len(fits))
        )
        chosen = np.hstack([labels.chosen[parent[good]], option[good, None].astype(np.int32)])
        return _Labels(product[good], value[good], use[:, good], chosen), bound[good]

    def _without_dominated(self, labels: _Labels, bound: Array) -> tuple[_Labels, Array]:
        rows = [-labels.value, labels.use[1], labels.use[0]]
        if self._program.alpha > 0:
            rows.insert(0, -labels.product)
        if self._floor_counts:
            rows.append(labels.use[2])
        at = undominated(np.array(rows), self._deadline)
        return labels.take(at), bound[at]

    def _best(self, labels: _Labels) -> tuple[int, ...]:
        if not len(labels.value):
            return ()
        objective = self._program.alpha * labels.product + labels.value
        best = float(objective.max())
        equal = np.flatnonzero(objective >= best - EQUAL * max(1.0, abs(best)))
        latency, cores = (np.round(labels.use[row, equal], 9) for row in (0, 1))
        first = equal[np.lexsort((latency, cores))[0]]
        return tuple(int(index) for index in labels.chosen[first])
