"""Plans of a fleet within several resources: the frontier of each pipeline, and one linear program a class.

A binary a plan; one plan of each pipeline, the sums of each resource within its budget. The classes go in
order: the program of a class has the plans of all pipelines and the worth of this class as its objective, so
the lower classes only have to fit somehow, and the worths of the higher ones may not fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NoReturn

import numpy as np

from ipa.model.errors import DeadlineError, InfeasibleError, SolverError
from ipa.model.errors import Problem as Fault
from ipa.model.plan import StageConfig, Termination
from ipa.model.resources import CORES, in_words
from ipa.optimize.backends import highs, label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.frontier import resource_frontier, worth_program
from ipa.optimize.milp import Milp, MilpSolution
from ipa.optimize.plans import stage_plans
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL, tolerance

# A solver may pass a row by this much, relative: HiGHS' tolerance of whole numbers.
PASSED = 1e-6


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


class _Joint:
    """The plans of all pipelines in columns: owner, weighted worth, and use (resources × plans)."""

    def __init__(
        self,
        problems: Sequence[PlanningProblem],
        weights: Array,
        most: Mapping[str, float],
        deadline: Deadline,
    ) -> None:
        self._problems, self._limits, self._deadline = problems, most, deadline
        self._most = np.array(list(most.values()))
        others = {name: limit for name, limit in most.items() if name != CORES}
        self._programs = [worth_program(problem, others) for problem in problems]
        found = [resource_frontier(program, list(others), deadline) for program in self._programs]
        self._owner = np.repeat(np.arange(len(problems)), [len(objective) for objective, _, _ in found])
        self._worth = np.concatenate([objective for objective, _, _ in found]) * weights[self._owner]
        self._use = np.concatenate([use for _, use, _ in found], axis=1)
        self._options = [tuple(options) for _, _, chosen in found for options in chosen.tolist()]

    def planned(self, classes: Sequence[Sequence[int]]) -> JointPlans:
        if not self._all_have_plans:
            refuse(self._problems, self._limits, self._deadline)
        chosen: Index | None = None
        floors: list[tuple[Array, float]] = []
        ends: list[tuple[MilpSolution, Array]] = []
        for group in classes:
            worth = np.where(np.isin(self._owner, group), self._worth, 0.0)
            milp = self._milp(worth, floors)
            found = highs.maximise(milp, self._deadline)
            if found.termination is Termination.INFEASIBLE and chosen is None:
                refuse(self._problems, self._limits, self._deadline)
            chosen = self._chosen(found) if found.values else chosen
            if chosen is None:
                raise DeadlineError("no plans of the fleet were found within its budget in time")
            ends.append((found, self._prices(milp)))
            reached = float(worth[chosen].sum())
            floors.append((worth, reached - EQUAL * max(1.0, abs(reached))))
        assert chosen is not None
        fewest = highs.maximise(self._milp(-self._use[0], floors), self._deadline)
        return self._plans(classes, self._chosen(fewest) if fewest.values else chosen, ends)

    def least(self, resource: int) -> float | None:
        """The least of that resource in a selection within the budget of the others; None without one."""
        found = (
            highs.maximise(self._milp(-self._use[resource], ()), self._deadline)
            if self._all_have_plans
            else None
        )
        return float(self._use[resource, self._chosen(found)].sum()) if found and found.values else None

    @property
    def _all_have_plans(self) -> bool:
        return len(np.unique(self._owner)) == len(self._problems)

    def _milp(self, costs: Array, floors: Sequence[tuple[Array, float]]) -> Milp:
        """One plan of each pipeline, the worths of higher classes not below their floors; the budget last."""
        milp = Milp(len(costs), costs.tolist(), [1.0] * len(costs))
        for who in range(len(self._problems)):
            milp.add_row([(at, 1.0) for at in np.flatnonzero(self._owner == who).tolist()], 1.0, 1.0)
        for worth, least in floors:
            _add(milp, worth, least, inf)
        for use, most in zip(self._use, self._most.tolist(), strict=True):
            if most < inf:
                unit = most or 1.0
                _add(milp, use / unit, -inf, (most + tolerance(most)) / unit)
        return milp

    def _prices(self, milp: Milp) -> Array:
        """The worth of a unit more of each resource by the linear relaxation."""
        limited = np.flatnonzero(np.isfinite(self._most))
        prices = np.zeros(len(self._most))
        duals = highs.relaxed_duals(milp, self._deadline)
        if len(limited):
            # The budget's rows are the last ones, each in units of its limit.
            unit = np.where(self._most[limited] > 0, self._most[limited], 1.0)
            prices[limited] = np.abs(duals[-len(limited) :]) / unit
        return prices

    def _chosen(self, found: MilpSolution) -> Index:
        """The plan of each pipeline. SolverError if they are beyond the budget."""
        chosen = np.flatnonzero(np.array(found.values) > 0.5)
        over = self._use[:, chosen].sum(axis=1) - self._most
        if len(chosen) != len(self._problems) or (over > PASSED * np.maximum(1.0, self._most)).any():
            raise SolverError("HiGHS' plans of the fleet are not within its budget")
        return chosen

    def _plans(
        self, classes: Sequence[Sequence[int]], chosen: Index, ends: Sequence[tuple[MilpSolution, Array]]
    ) -> JointPlans:
        use, worth = self._use[:, chosen], self._worth[chosen]
        left = self._most
        reserved = [self._least(who) for who in range(len(self._problems))]
        sums = []
        for number, (group, (end, prices)) in enumerate(zip(classes, ends, strict=True)):
            own, reached = use[:, list(group)].sum(axis=1), float(worth[list(group)].sum())
            later = [reserved[who] for each in classes[number + 1 :] for who in each]
            proved = end.termination is Termination.OPTIMAL
            bound = inf if end.bound is None else end.bound
            sums.append(
                JointClass(
                    worth=reached,
                    bound=reached if proved else max(reached, bound),
                    use=own,
                    most=left - sum(later, np.zeros(len(left))),
                    prices=prices,
                    termination=Termination.OPTIMAL if proved else Termination.FEASIBLE,
                )
            )
            left = left - own
        configs = [
            tuple(stage.config for stage in stage_plans(problem, program, self._options[at]))
            for problem, program, at in zip(self._problems, self._programs, chosen.tolist(), strict=True)
        ]
        return JointPlans(configs, use[0], worth, sums)

    def _least(self, who: int) -> Array:
        """The least of each resource by itself that a plan of the pipeline has."""
        least: Array = self._use[:, self._owner == who].min(axis=1)
        return least


def refuse(problems: Sequence[PlanningProblem], most: Mapping[str, float], deadline: Deadline) -> NoReturn:
    """InfeasibleError: the resources of which there is too little even by themselves, or only together."""
    whose = "1 pipeline" if len(problems) == 1 else f"{len(problems)} pipelines together"
    least = {name: sum(_least_use(problem, name, deadline) for problem in problems) for name in most}
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


def _add(milp: Milp, row: Array, lower: float, upper: float) -> None:
    at = np.flatnonzero(row)
    terms = list(zip(at.tolist(), row[at].tolist(), strict=True))
    milp.add_row(terms or [(0, 0.0)], lower, upper)


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
        raise DeadlineError("the least that the pipelines need was not found in time")
    return sum(float(use[at]) for use, at in zip(uses, found.chosen, strict=True))


def _enough(
    problems: Sequence[PlanningProblem], most: Mapping[str, float], name: str, deadline: Deadline
) -> float | None:
    """The least budget of the resource that will do beside the others; None if none will."""
    joint = _Joint(problems, np.ones(len(problems)), {**most, name: inf}, deadline)
    return joint.least(list(most).index(name))


def _listed(amounts: Mapping[str, float], between: str) -> str:
    return between.join(in_words(name, amount) for name, amount in amounts.items())
