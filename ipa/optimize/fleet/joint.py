"""Plans of a fleet within several resources: a pool of plans of each pipeline, a linear program a class.

A binary a plan; one plan of each pipeline, the sums of each resource within its budget. The classes go in
order: the program of a class has the plans of all pipelines and the worth of this class as its objective, so
the lower classes only have to fit somehow, and the worths of the higher ones may not fall.

A pipeline of few options has all its undominated plans in the pool. Of others only those near the prices of
the resources matter: with the bound L of the relaxation at some prices and a selection worth W, a plan that
earns less than L − W below the best of its pipeline is in no better selection. The prices are those at which
no pipeline has a plan that improves the relaxation (column generation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import NoReturn

import numpy as np

from ipa.model.errors import DeadlineError, InfeasibleError, SolverError
from ipa.model.errors import Problem as Fault
from ipa.model.plan import StageConfig, Termination
from ipa.model.resources import CORES, in_words
from ipa.optimize.backends import highs, label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.frontier import DIGITS, worth_program
from ipa.optimize.milp import Milp
from ipa.optimize.plans import stage_plans
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL, Options, Program, ResourceBudget, tolerance

# A solver may pass a row by this much, relative: HiGHS' tolerance of whole numbers.
PASSED = 1e-6
# Up to this many combinations of options all undominated plans are found at once.
FEW = 16_384
# The prices are found if the relaxation may gain less than this, relative above 1; and the most rounds.
PROVED, ROUNDS = 1e-7, 60


@dataclass(frozen=True, slots=True, eq=False)
class JointClass:
    """The sums of a class: its worth and bound, what it uses and what it could have used, a unit's worth.

    `use`, `most` and `prices` have an entry for each resource, the cores first.
    """

    worth: float
    bound: float
    use: Array
    most: Array
    prices: Array
    termination: Termination


@dataclass(frozen=True, slots=True, eq=False)
class JointPlans:
    """The configurations, cores and weighted worth of each pipeline, and the sums of the classes."""

    configs: list[tuple[StageConfig, ...]]
    cores: Array
    worth: Array
    classes: list[JointClass]


def plan_jointly(
    problems: Sequence[PlanningProblem],
    weights: Array,
    classes: Sequence[Sequence[int]],
    most: Mapping[str, float],
    deadline: Deadline,
) -> JointPlans:
    """The best plans within `most`, the budget of each resource by name, cores first; `classes` in order.

    Of equally good selections one of the fewest cores is taken. Errors: InfeasibleError (names what is
    missing), DeadlineError (no selection was found in time), SolverError.
    """
    return _Joint(problems, weights, most, deadline).planned(classes)


class _Offer:
    """The plans of a pipeline: `use` has the options' resources, (resources × options) a stage."""

    def __init__(self, problem: PlanningProblem, weight: float, names: Sequence[str], most: Array) -> None:
        limits = dict(zip(names[1:], most[1:].tolist(), strict=True))
        self.program = worth_program(problem, limits)
        budgets = {budget.name: at for at, budget in enumerate(self.program.budgets)}
        self._weight = weight
        self.use = [
            np.array(
                [
                    stage.cost_cores,
                    *(stage.held(budgets[name]) if name in budgets else 0.0 * stage.cost for name in limits),
                ]
            )
            for stage in self.program.stages
        ]

    @property
    def combinations(self) -> int:
        """The combinations of its options; 0 if it has no plan."""
        return prod(len(stage) for stage in self.program.stages)

    def priced(self, share: float, prices: Array) -> Program:
        """The program whose objective is share · worth − prices · use."""
        factor = share * self._weight
        stages = tuple(
            stage.having(value=factor * stage.value - prices @ use)
            for stage, use in zip(self.program.stages, self.use, strict=True)
        )
        weights = replace(self.program.weights, alpha=factor * self.program.weights.alpha)
        return replace(self.program, stages=stages, weights=weights)

    def _with_worth(self, program: Program) -> Program:
        """The program with the worth of a plan as a criterion: a budget of its loss that none exceeds."""
        losses = [-stage.value for stage in self.program.stages]
        most = sum(float(loss.max(initial=0.0)) for loss in losses)
        stages = tuple(
            Options(stage.counts, np.vstack([stage.numbers, loss, loss]))
            for stage, loss in zip(program.stages, losses, strict=True)
        )
        return replace(program, stages=stages, budgets=(*program.budgets, ResourceBudget("worth", inf, most)))

    def best(self, share: float, prices: Array, deadline: Deadline) -> Index:
        """The plan of the highest share · worth − prices · use, (1 × stages), empty if there is none."""
        if not self.combinations:
            return np.zeros((0, len(self.use)), dtype=np.intp)
        found = label_setting.solve(self.priced(share, prices), deadline)
        if found.termination not in (Termination.OPTIMAL, Termination.INFEASIBLE):
            raise DeadlineError("the time for the fleet's plan ran out")
        return np.array(found.chosen, dtype=np.intp).reshape(-1, len(self.use))

    def near(self, share: float, prices: Array, least: float, deadline: Deadline) -> Index:
        """The undominated plans of at least that much share · worth − prices · use, (plans × stages)."""
        if not self.combinations:
            return np.zeros((0, len(self.use)), dtype=np.intp)
        program = self.priced(share, prices)
        if share and prices.any():
            program = self._with_worth(program)
        found = label_setting.LabelSearch(program, deadline).undominated(least)
        chosen = np.array(found, dtype=np.intp).reshape(-1, len(self.use))
        worth, use = self.figures(chosen)
        return chosen[undominated(np.round(np.array([-worth, *use]), DIGITS))]

    def figures(self, chosen: Index) -> tuple[Array, Array]:
        """The weighted worth (plans) and the use (resources × plans) of plans (plans × stages)."""
        stages, program = self.program.stages, self.program
        worth = sum((s.value[chosen[:, at]] for at, s in enumerate(stages)), np.zeros(len(chosen)))
        if program.alpha:
            factors = np.array([stage.factor[chosen[:, at]] for at, stage in enumerate(stages)]).T
            worth = worth + program.alpha * np.array(
                [program.graph.accuracy(row) for row in factors.tolist()]
            )
        use: Array = np.sum([each[:, chosen[:, at]] for at, each in enumerate(self.use)], axis=0)
        return self._weight * worth, use


# A worth that may not fall: the share of each pipeline's worth in it, and its least.
Floor = tuple[Array, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The best selection found, the bound of its objective, and the prices of the resources."""

    chosen: Index
    bound: float
    prices: Array
    proved: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Relaxed:
    """The relaxation at some multipliers: the price of each resource, the share of each pipeline's worth.

    `profit` is the highest share · worth − price · use of each pipeline, `bound` that on all selections,
    `reached` the objective of the pool's relaxation.
    """

    prices: Array
    shares: Array
    profit: Array
    bound: float
    reached: float


class _Joint:
    """The pool in columns: owner, weighted worth, use (resources × plans) and options of each plan."""

    def __init__(
        self,
        problems: Sequence[PlanningProblem],
        weights: Array,
        most: Mapping[str, float],
        deadline: Deadline,
    ) -> None:
        self._problems, self._limits, self._deadline = problems, most, deadline
        self._most = np.array(list(most.values()))
        self._limited = np.flatnonzero(np.isfinite(self._most))
        self._unit = np.where(self._most[self._limited] > 0, self._most[self._limited], 1.0)
        self._free = np.zeros(len(most))
        self._offers = []
        for problem, weight in zip(problems, weights.tolist(), strict=True):
            if deadline.passed:
                raise DeadlineError("the time for the fleet's plan ran out before any plan was known")
            self._offers.append(_Offer(problem, weight, list(most), self._most))
        self._owner = np.zeros(0, dtype=np.intp)
        self._worth, self._use = np.zeros(0), np.zeros((len(most), 0))
        self._options: list[tuple[int, ...]] = []
        self._known: set[tuple[int, tuple[int, ...]]] = set()
        self._open = [who for who, offer in enumerate(self._offers) if offer.combinations > FEW]
        for who, offer in enumerate(self._offers):
            if who in self._open:
                self._add(who, offer.best(1.0, self._free, deadline))
            else:
                self._add(who, offer.near(1.0, self._free, -inf, deadline))

    def planned(self, classes: Sequence[Sequence[int]]) -> JointPlans:
        """The best plans of the classes in order."""
        chosen: Index | None = None
        floors: list[Floor] = []
        ends = []
        for group in classes:
            share = np.isin(np.arange(len(self._offers)), group).astype(float)
            found = self._best(share, self._free, floors, chosen)
            if found is None:
                refuse(self._problems, self._limits, self._deadline)
            chosen = found.chosen
            ends.append(found)
            reached = float((share[self._owner] * self._worth)[chosen].sum())
            floors.append((share, reached - EQUAL * max(1.0, abs(reached))))
        assert chosen is not None
        return self._plans(classes, self._of_fewest_cores(chosen, floors), ends)

    def least(self, resource: int) -> float | None:
        """The least of that resource in a selection within the budget of the others; None without one."""
        found = self._best(np.zeros(len(self._offers)), np.eye(len(self._most))[resource], (), None)
        return None if found is None else float(self._use[resource, found.chosen].sum())

    def _add(self, who: int, chosen: Index) -> None:
        """Add plans of the pipeline to the pool."""
        new = [row for row in map(tuple, chosen.tolist()) if (who, row) not in self._known]
        if not new:
            return
        self._known.update((who, row) for row in new)
        worth, use = self._offers[who].figures(np.array(new, dtype=np.intp))
        self._owner = np.append(self._owner, np.full(len(new), who))
        self._worth = np.append(self._worth, worth)
        self._use = np.append(self._use, use, axis=1)
        self._options += new

    def _best(
        self, share: Array, charge: Array, floors: Sequence[Floor], known: Index | None
    ) -> _Found | None:
        """The selection of the most share · worth − charge · use; None if there is none.

        `known` is a selection that fits. DeadlineError if none is known when the time runs out.
        """
        if len(np.unique(self._owner)) < len(self._offers):
            return None
        chosen, bound, prices = known, inf, self._free
        try:
            if chosen is None and not self._fits():
                return None
            relaxed = self._relaxed(share, charge, floors)
            bound, prices = relaxed.bound, relaxed.prices - charge
            if self._open:
                first, _ = self._selected(share, charge, floors)
                chosen = chosen if first is None else first
                window = inf if first is None else bound - self._value(share, charge, first)
                for who in self._open:
                    at = relaxed.shares[who], relaxed.prices, relaxed.profit[who] - window
                    self._add(who, self._offers[who].near(*at, self._deadline))
            best, proved = self._selected(share, charge, floors)
        except DeadlineError:
            if chosen is None:
                raise
            return _Found(chosen, bound, prices, False)
        return None if best is None else _Found(best, bound, prices, proved)

    def _value(self, share: Array, charge: Array, chosen: Index) -> float:
        return float(self._costs(share, charge)[chosen].sum())

    def _costs(self, share: Array, charge: Array) -> Array:
        costs: Array = share[self._owner] * self._worth - charge @ self._use
        return costs

    def _fits(self) -> bool:
        """True if the relaxation has a selection within the budget, for which plans are added."""
        return self._relaxed(np.zeros(len(self._offers)), self._free, (), has_slack=True).reached >= -PROVED

    def _relaxed(
        self, share: Array, charge: Array, floors: Sequence[Floor], *, has_slack: bool = False
    ) -> _Relaxed:
        """The relaxation with all plans that improve it; with slack that of the least excess of a budget."""
        for _ in range(ROUNDS):
            milp = self._milp(share, charge, floors, has_slack=has_slack)
            values, duals = highs.relaxed(milp, self._deadline)
            reached = float(np.dot(milp.costs, values))
            first = len(self._offers)
            raised, scaled = duals[first : first + len(floors)], duals[first + len(floors) :]
            prices = charge.copy()
            prices[self._limited] += scaled / self._unit
            shares = share + sum(
                (each * rise for (each, _), rise in zip(floors, raised, strict=True)), 0.0 * share
            )
            for who in self._open:
                self._add(who, self._offers[who].best(float(shares[who]), prices, self._deadline))
            profit = np.full(len(self._offers), -inf)
            np.maximum.at(profit, self._owner, self._costs(shares, prices))
            uppers = np.array([row.upper for row in milp.rows[first + len(floors) :]])
            least = np.array([least for _, least in floors])
            bound = float(scaled @ uppers - raised @ least + profit.sum())
            if bound - reached <= PROVED * max(1.0, abs(reached)) or (has_slack and reached >= -PROVED):
                break
        return _Relaxed(prices, shares, profit, bound, reached)

    def _selected(self, share: Array, charge: Array, floors: Sequence[Floor]) -> tuple[Index | None, bool]:
        """The best selection of the pool, and True if that is proved; None if none fits.

        Errors: DeadlineError (none was found in time), SolverError (it is beyond the budget).
        """
        found = highs.maximise(self._milp(share, charge, floors), self._deadline)
        if found.termination is Termination.INFEASIBLE:
            return None, True
        if not found.values:
            raise DeadlineError("no plans of the fleet were found within its budget in time")
        chosen = np.flatnonzero(np.array(found.values) > 0.5)
        # The pool is in the order in which the plans were found.
        chosen = chosen[np.argsort(self._owner[chosen])]
        over = self._use[:, chosen].sum(axis=1) - self._most
        if len(chosen) != len(self._offers) or (over > PASSED * np.maximum(1.0, self._most)).any():
            raise SolverError("HiGHS' plans of the fleet are not within its budget")
        return chosen, found.termination is Termination.OPTIMAL

    def _milp(self, share: Array, charge: Array, floors: Sequence[Floor], *, has_slack: bool = False) -> Milp:
        """One plan of each pipeline, no worth below its floor, and last the budget, in units of each limit.

        With slack the objective is minus what a selection is beyond the budget.
        """
        count = len(self._owner)
        costs = np.zeros(count) if has_slack else self._costs(share, charge)
        milp = Milp(count, costs.tolist(), [1.0] * count)
        for who in range(len(self._offers)):
            milp.add_row([(at, 1.0) for at in np.flatnonzero(self._owner == who).tolist()], 1.0, 1.0)
        for each, least in floors:
            milp.add_row(_terms(each[self._owner] * self._worth), least, inf)
        for at, unit in zip(self._limited.tolist(), self._unit.tolist(), strict=True):
            terms, most = _terms(self._use[at] / unit), float(self._most[at])
            if has_slack:
                terms.append((len(milp.costs), -1.0))
                milp.costs.append(-1.0)
                milp.uppers.append(inf)
            milp.add_row(terms, -inf, (most + tolerance(most)) / unit)
        return milp

    def _of_fewest_cores(self, chosen: Index, floors: Sequence[Floor]) -> Index:
        """A selection of the fewest cores in which no worth is below its floor; the one given if in doubt."""
        try:
            found, _ = self._selected(0.0 * floors[0][0], np.eye(len(self._most))[0], floors)
        except DeadlineError:
            return chosen
        return chosen if found is None else found

    def _plans(self, classes: Sequence[Sequence[int]], chosen: Index, ends: Sequence[_Found]) -> JointPlans:
        use, worth = self._use[:, chosen], self._worth[chosen]
        left = self._most
        least = np.full((len(self._most), len(self._offers)), inf)
        for row, own in zip(least, self._use, strict=True):
            np.minimum.at(row, self._owner, own)
        sums = []
        for number, (group, end) in enumerate(zip(classes, ends, strict=True)):
            own, reached = use[:, list(group)].sum(axis=1), float(worth[list(group)].sum())
            later = [who for each in classes[number + 1 :] for who in each]
            sums.append(
                JointClass(
                    worth=reached,
                    bound=reached if end.proved else max(reached, end.bound),
                    use=own,
                    most=left - least[:, later].sum(axis=1),
                    prices=end.prices,
                    termination=Termination.OPTIMAL if end.proved else Termination.FEASIBLE,
                )
            )
            left = left - own
        configs = [
            tuple(stage.config for stage in stage_plans(problem, offer.program, self._options[at]))
            for problem, offer, at in zip(self._problems, self._offers, chosen.tolist(), strict=True)
        ]
        return JointPlans(configs, use[0], worth, sums)


def _terms(row: Array) -> list[tuple[int, float]]:
    at = np.flatnonzero(row)
    return list(zip(at.tolist(), row[at].tolist(), strict=True)) or [(0, 0.0)]


def refuse(problems: Sequence[PlanningProblem], most: Mapping[str, float], deadline: Deadline) -> NoReturn:
    """InfeasibleError: the resources of which there is too little even by themselves, or only together."""
    whose = "1 pipeline" if len(problems) == 1 else f"{len(problems)} pipelines together"
    try:
        least = {name: sum(_least_use(problem, name, deadline) for problem in problems) for name in most}
    except DeadlineError as late:
        raise InfeasibleError(
            f"the budget does not hold any plans of {whose}; {late.message}",
            hint="Raise the budget, take pipelines out, or allow more time to learn what is missing.",
        ) from late
    short = {name: amount for name, amount in least.items() if amount > most[name] + tolerance(most[name])}
    if short:
        raise InfeasibleError(
            f"the budget does not hold any plans of {whose}",
            problems=[
                Fault(
                    f"{in_words(name, most[name])}: the plans need at least {amount:g}, "
                    f"that is {amount - most[name]:g} more"
                )
                for name, amount in short.items()
            ],
            hint=f"Raise the budget to {_listed(short, ' and ')} or more, take pipelines out, or "
            "loosen their limits.",
        )
    enough = {name: _enough(problems, most, name, deadline) for name in most}
    moves = _listed({name: amount for name, amount in enough.items() if amount is not None}, " or to ")
    raise InfeasibleError(
        f"the budget does not hold any plans of {whose}: there is enough of each resource by itself "
        f"({_listed(least, ', ')} at the least), but no plans need so little of all at once",
        hint=f"Raise the budget {f'to {moves}' if moves else 'of several resources'}, take pipelines out, or "
        "loosen their limits.",
    )


def _least_use(problem: PlanningProblem, name: str, deadline: Deadline) -> float:
    """The least of the resource that a plan of the problem needs, whatever the fleet's budget."""
    program = worth_program(problem, {} if name == CORES else {name: inf})
    if name != CORES and (not program.budgets or program.budgets[-1].name != name):
        return 0.0
    last = len(program.budgets) - 1
    uses = [stage.cost_cores if name == CORES else stage.held(last) for stage in program.stages]
    light = replace(
        program,
        weights=replace(program.weights, alpha=0.0),
        stages=tuple(stage.having(value=-use) for stage, use in zip(program.stages, uses, strict=True)),
    )
    found = label_setting.solve(light, deadline)
    if not found.chosen:
        raise DeadlineError("the time ran out before it was known what they need")
    return sum(float(use[at]) for use, at in zip(uses, found.chosen, strict=True))


def _enough(
    problems: Sequence[PlanningProblem], most: Mapping[str, float], name: str, deadline: Deadline
) -> float | None:
    """The least budget of the resource that will do beside the others; None if none will or time is up."""
    try:
        joint = _Joint(problems, np.ones(len(problems)), {**most, name: inf}, deadline)
        return joint.least(list(most).index(name))
    except DeadlineError:
        return None


def _listed(amounts: Mapping[str, float], between: str) -> str:
    return between.join(in_words(name, amount) for name, amount in amounts.items())
