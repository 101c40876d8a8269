"""Solve a problem for the best mixture: the frontier of every share, the best shares, and the check.

The worth of p percent on no more than c cores, f(p, c), is that of the best plan for p percent of the rate
with α·p in place of α. A mixture is worth Σ f(p_i, c_i) with Σ p_i = 100 and Σ c_i within the cores. First
all f(p, ∞) are found; if the best mixture of those fits it is the best. Else only those shares, and of their
frontiers only those points, count that together with the best f(·, ∞) of the rest exceed the best single
plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, Termination
from ipa.model.resources import CORES
from ipa.optimize.backends import label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance_filter import reduce_program
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits, MixturePart, most_cores, part_problem
from ipa.optimize.mixture.verify import verify_mixture
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Program, ProgramAnswer, evaluate, tolerance
from ipa.optimize.solve import solve


def solve_mixture(
    problem: PlanningProblem,
    limits: MixtureLimits | None = None,
    solver: str = "exact",
    deadline_s: float = 30.0,
) -> Mixture:
    """The best mixture of whole configurations, checked by `verify_mixture`; one part if that is as good.

    Each part is a plan for its share of the rate, with replicas of its own, and meets SLA, floors and bounds
    by itself; the cores of all parts together are within the bound. The running configuration and the cost of
    changes are ignored. Mixtures are found by label setting, whichever `solver` finds the best single plan.
    None is sought, and the note says so, if the goal is not a weighted sum, or a resource other than cores is
    bounded. If the time is up before the best is known, the best so far is feasible.
    """
    limits = limits or MixtureLimits()
    deadline = Deadline(deadline_s)
    whole = part_problem(problem, 100)
    single = solve(whole, solver, deadline_s, explain=False)
    mixture = Mixture(problem.pipeline, problem.rate_rps, single.termination, single)
    if single.objective is not None:
        mixture = _of_parts(problem, mixture, (MixturePart(100, single),))
    reason = _why_not(problem, limits)
    if not reason:
        search = _Search(problem, limits, deadline)
        try:
            parts = search.best(-inf if single.objective is None else single.objective)
        except DeadlineError:
            parts, reason = search.parts_so_far, "the time was up before all mixtures were tried"
            mixture = replace(mixture, termination=Termination.NO_SOLUTION_FOUND)
            if mixture.parts:
                mixture = replace(mixture, termination=Termination.FEASIBLE)
        if parts:
            ended = Termination.FEASIBLE if reason else Termination.OPTIMAL
            mixture = replace(_of_parts(problem, mixture, parts), termination=ended)
    mixture = replace(mixture, solve_s=deadline.elapsed_s, note=reason)
    verify_mixture(problem, limits, mixture)
    return mixture


def _why_not(problem: PlanningProblem, limits: MixtureLimits) -> str:
    """The reason why no mixture is sought; empty if one is."""
    if problem.objective.goal is not Goal.WEIGHTED:
        return f"mixtures are not planned for the goal {problem.objective.goal.value}"
    others = [name for name in problem.bounds.limits if name != CORES]
    if others and limits.max_parts > 1:
        return f"mixtures are not planned where {' and '.join(others)} is bounded"
    return ""


def _of_parts(problem: PlanningProblem, mixture: Mixture, parts: Sequence[MixturePart]) -> Mixture:
    """The mixture with these parts, largest share first, and their sums."""
    ordered = tuple(sorted(parts, key=lambda part: -part.share_percent))
    plans = [part.plan for part in ordered]
    objective = sum(plan.objective or 0.0 for plan in plans)
    single = mixture.single.objective
    return replace(
        mixture,
        parts=ordered,
        objective=objective,
        gain=None if single is None else objective - single,
        cost_cores=sum(plan.cost_cores or 0.0 for plan in plans),
        mean_pas=sum(part.share_percent / 100 * (part.plan.pas or 0.0) for part in ordered),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A share's problem and program, and its best plan without the other shares."""

    problem: PlanningProblem
    program: Program
    chosen: tuple[int, ...]
    worth: float
    cost: float


class _Search:
    def __init__(self, problem: PlanningProblem, limits: MixtureLimits, deadline: Deadline) -> None:
        self._problem = problem
        self._limits = limits
        self._deadline = deadline
        self._cores = most_cores(problem)
        self._parts: dict[int, _Part] = {}
        self.parts_so_far: tuple[MixturePart, ...] = ()

    def best(self, single: float) -> tuple[MixturePart, ...]:
        """The parts of the best mixture, empty if none is worth more than the best single plan."""
        if self._limits.max_parts == 1:
            return ()
        self._solve_parts()
        least = single + self._limits.min_gain
        free = {share: _frontier([(part.cost, part.worth)], share) for share, part in self._parts.items()}
        worth, found = best_mixture(free, self._limits.max_parts, inf)
        if not worth > least:
            return ()
        cost = sum(self._parts[share].cost for share, _ in found)
        if cost <= self._cores + tolerance(self._cores):
            return self._planned([(share, self._parts[share].chosen) for share, _ in found])
        fitting, found = best_mixture(free, self._limits.max_parts, self._cores)
        if fitting > least:
            self.parts_so_far = self._planned([(share, self._parts[share].chosen) for share, _ in found])
        plans = self._frontiers(max(least, fitting))
        frontiers = {
            share: _frontier([(cost, worth) for cost, worth, _ in points], share)
            for share, points in plans.items()
        }
        worth, found = best_mixture(frontiers, self._limits.max_parts, self._cores)
        if not worth > max(least, fitting):
            return self.parts_so_far
        return self._planned([(share, plans[share][at][2]) for share, at in found])

    def _solve_parts(self) -> None:
        """The best plan of every share, each search starting with the prices of the share before."""
        prices: Array | None = None
        step = self._limits.step_percent
        for share in range(100, 0, -step):
            problem = part_problem(self._problem, share)
            program = reduce_program(full_program(problem).in_cores())
            if prices is not None and len(prices) != len(program.graph.paths) + len(program.limits()):
                prices = None
            found = label_setting.solve(program, self._deadline, prices=prices)
            if found.termination is Termination.INFEASIBLE:
                continue
            if found.termination is not Termination.OPTIMAL:
                raise DeadlineError("the solver's time is up")
            prices = found.prices
            totals = evaluate(program, found.chosen)
            self._parts[share] = _Part(problem, program, found.chosen, totals.objective, totals.cost_cores)

    def _frontiers(self, least: float) -> dict[int, list[tuple[float, float, tuple[int, ...]]]]:
        """The points of each share that can be in a mixture worth more than `least`."""
        beside = self._most_beside()
        plans = {}
        for share, part in self._parts.items():
            floor = least - beside.get(share, -inf)
            if part.worth < floor:
                continue
            search = label_setting.LabelSearch(part.program, self._deadline)
            points = search.frontier(floor)
            if points:
                plans[share] = points
        return plans

    def _most_beside(self) -> dict[int, float]:
        """For each share the highest worth of other parts with the rest, whatever their cores."""
        step = self._limits.step_percent
        one = {share: part.worth for share, part in self._parts.items() if share < 100}
        most = dict(one)
        for _ in range(self._limits.max_parts - 2):
            for total in range(99, 0, -1):
                both = [
                    one[a] + one[total - a] for a in range(step, total, step) if a in one and total - a in one
                ]
                most[total] = max([most.get(total, -inf), *both])
        return {share: most.get(100 - share, -inf) for share in one}

    def _planned(self, found: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[MixturePart, ...]:
        return tuple(MixturePart(share, self._plan(self._parts[share], chosen)) for share, chosen in found)

    def _plan(self, part: _Part, chosen: tuple[int, ...]) -> Plan:
        """The plan of a part: the best for its share, or within the cores that the other parts leave."""
        worth = evaluate(part.program, chosen).objective
        ended = Termination.OPTIMAL if chosen == part.chosen else Termination.FEASIBLE
        answer = ProgramAnswer(ended, chosen, max(worth, part.worth))
        return plan_of(part.problem, part.program, "exact", answer)


def _frontier(points: Sequence[tuple[float, float]], share: int) -> ShareFrontier:
    cost, worth = np.array(points).T
    return ShareFrontier.of_plans(share, cost, worth)


@dataclass(frozen=True, slots=True)
class ShareFrontier:
    """Ways to serve a share, by strictly rising cost and worth; `first` and `rest` give their parts.

    For one part `first` is the index of its plan. For more it is that of the added plan, `share` its share,
    `rest` the place in the frontier of the other parts.
    """

    cost: Array
    worth: Array
    share: Index
    first: Index
    rest: Index

    @classmethod
    def of_plans(cls, share: int, cost: Array, worth: Array) -> ShareFrontier:
        """The frontier of one part, from plans in any order."""
        count = np.arange(len(cost))
        return undominated(cost, worth, np.full(len(cost), share), count, np.zeros(len(cost), dtype=np.intp))


def undominated(cost: Array, worth: Array, share: Index, first: Index, rest: Index) -> ShareFrontier:
    """The ways that no other equals or exceeds in cost and worth."""
    order = np.lexsort((-worth, np.round(cost, 9)))
    before = np.maximum.accumulate(np.append(-inf, worth[order][:-1]))
    at = order[worth[order] > before]
    return ShareFrontier(cost[at], worth[at], share[at], first[at], rest[at])


def best_mixture(
    plans: Mapping[int, ShareFrontier], max_parts: int, cores: float
) -> tuple[float, list[tuple[int, int]]]:
    """The most worth of at most `max_parts` shares that sum to 100, and (share, index of plan) of each.

    −inf and nothing if no shares with plans do. By dynamic programming over the sum of shares: with k parts
    it is each single part beside the frontier of k − 1 parts with the rest; a part never has more than those
    after it, since order does not matter.
    """
    levels: list[dict[int, ShareFrontier]] = [dict(plans)]
    for parts in range(2, max_parts + 1):
        last = parts == max_parts
        sums = [100] if last else sorted({a + b for a in plans for b in levels[-1] if a + b < 100} | {100})
        grown = {
            total: joined for total in sums if (joined := _joined(plans, levels[-1], total, parts, cores))
        }
        levels.append(grown)
    best, found = -inf, []
    for depth, level in enumerate(levels):
        frontier = level.get(100)
        within = (
            0 if frontier is None else int(np.searchsorted(frontier.cost, cores + tolerance(cores), "right"))
        )
        if frontier is not None and within and frontier.worth[within - 1] > best:
            best = float(frontier.worth[within - 1])
            found = _trace(levels, depth, 100, within - 1)
    return best, found


def _joined(
    plans: Mapping[int, ShareFrontier],
    others: Mapping[int, ShareFrontier],
    total: int,
    parts: int,
    cores: float,
) -> ShareFrontier | None:
    """The frontier of a part beside `others` that together serve `total` percent."""
    pieces = []
    for share, plan in plans.items():
        # The smallest part is added last.
        if share * parts > total or total - share not in others:
            continue
        other = others[total - share]
        cost = np.add.outer(plan.cost, other.cost)
        row, column = np.nonzero(cost <= cores + tolerance(cores))
        worth = plan.worth[row] + other.worth[column]
        pieces.append((cost[row, column], worth, np.full(len(row), share), plan.first[row], column))
    if not pieces:
        return None
    joined = undominated(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    return joined if len(joined.cost) else None


def _trace(levels: list[dict[int, ShareFrontier]], depth: int, total: int, at: int) -> list[tuple[int, int]]:
    found = []
    for level in range(depth, -1, -1):
        frontier = levels[level][total]
        share = int(frontier.share[at])
        found.append((share, int(frontier.first[at])))
        total, at = total - share, int(frontier.rest[at])
    return found
