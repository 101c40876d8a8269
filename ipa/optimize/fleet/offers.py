"""The plans that a pipeline offers to a fleet: those of the most profit at given prices of the resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.plan import StageConfig, Termination
from ipa.optimize.backends import label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.frontier import DIGITS, worth_program
from ipa.optimize.plans import configs_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Options, Program, ResourceBudget

# Multipliers of a pipeline's own limits are good enough at prices this many times larger or smaller.
SAME = 4.0


class Offer:
    """The plans of a pipeline. Profit is share · weighted worth − prices · use.

    `names` are the resources, cores first, `most` the fleet's budget of each; `use` has the options'
    resources, (resources × options) a stage.
    """

    def __init__(self, problem: PlanningProblem, weight: float, names: Sequence[str], most: Array) -> None:
        limits = dict(zip(names[1:], most[1:].tolist(), strict=True))
        program = worth_program(problem, limits)
        budgets = {budget.name: at for at, budget in enumerate(program.budgets)}
        self.problem, self.weight, self._program = problem, weight, program
        self.use = [
            np.array(
                [
                    stage.cost_cores,
                    *(stage.held(budgets[name]) if name in budgets else 0.0 * stage.cost for name in limits),
                ]
            )
            for stage in program.stages
        ]
        self._with_worth = _with_worth(program)
        # By kind of search: the prices for which multipliers were found, and these.
        self._multipliers: dict[bool, tuple[Array, Array]] = {}

    def near(self, share: float, prices: Array, known: float, window: float, deadline: Deadline) -> Index:
        """The undominated plans whose profit is within the window of the best, (plans × stages).

        `known` is the most profit known, −inf if no plan is. Without a window and a share of the worth it is
        one best plan. DeadlineError if the time runs out.
        """
        none = np.zeros((0, len(self.use)), dtype=np.intp)
        if not all(len(stage) for stage in self._program.stages):
            return none
        is_priced = bool(share and prices.any())
        program = self._priced(self._with_worth if is_priced else self._program, share, prices)
        if not share and not window:
            found = label_setting.solve(program, deadline)
            if found.termination not in (Termination.OPTIMAL, Termination.INFEASIBLE):
                raise DeadlineError("the time for the fleet's plan ran out")
            return np.array(found.chosen, dtype=np.intp).reshape(-1, len(self.use))
        at, multipliers = self._multipliers.get(is_priced, (prices, None))
        if (at > SAME * prices).any() or (prices > SAME * at).any():
            multipliers = None
        search = label_setting.LabelSearch(program, deadline, multipliers)
        if multipliers is None:
            self._multipliers[is_priced] = prices, search.prices
        for width in label_setting.WIDTHS:
            chosen, complete = search.undominated(known - window, width)
            worth, use = self.figures(chosen)
            known = max(known, float((share * worth - prices @ use).max(initial=-inf)))
            if complete:
                break
        return chosen[undominated(np.round(np.array([-share * worth, *use]), DIGITS))]

    def _priced(self, program: Program, share: float, prices: Array) -> Program:
        """The program whose objective is the profit."""
        factor = share * self.weight
        stages = tuple(
            stage.having(value=factor * stage.value - prices @ use)
            for stage, use in zip(program.stages, self.use, strict=True)
        )
        return replace(
            program, stages=stages, weights=replace(program.weights, alpha=factor * program.weights.alpha)
        )

    def figures(self, chosen: Index) -> tuple[Array, Array]:
        """The weighted worth (plans) and the use (resources × plans) of plans (plans × stages)."""
        stages, program = self._program.stages, self._program
        worth = sum((s.value[chosen[:, at]] for at, s in enumerate(stages)), np.zeros(len(chosen)))
        if program.alpha:
            factors = np.array([stage.factor[chosen[:, at]] for at, stage in enumerate(stages)])
            accuracies = (
                factors.prod(axis=0)
                if program.graph.is_product
                else np.array([program.graph.accuracy(row) for row in factors.T.tolist()])
            )
            worth = worth + program.alpha * accuracies
        use: Array = np.sum([each[:, chosen[:, at]] for at, each in enumerate(self.use)], axis=0)
        return self.weight * worth, use

    def configs(self, chosen: Sequence[int]) -> tuple[StageConfig, ...]:
        """The configuration of every stage in a plan."""
        return configs_of(self.problem, self._program, chosen)


def _with_worth(program: Program) -> Program:
    """The program with the worth of a plan as a criterion: a budget of its loss that none exceeds."""
    losses = [-stage.value for stage in program.stages]
    most = sum(float(loss.max(initial=0.0)) for loss in losses)
    stages = tuple(
        Options(stage.counts, np.vstack([stage.numbers, loss, loss]))
        for stage, loss in zip(program.stages, losses, strict=True)
    )
    return replace(program, stages=stages, budgets=(*program.budgets, ResourceBudget("worth", inf, most)))
