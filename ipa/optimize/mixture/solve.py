"""Solve a problem for the best mixture: the frontier of every share, the best shares, and the check.

The worth of p percent on no more than c cores, f(p, c), is that of the best plan for p percent of the rate
with α·p in place of α. A mixture is worth Σ f(p_i, c_i) with Σ p_i = 100 and Σ c_i within the cores. If other
resources are limited, c is a vector of all of them. First all f(p, ∞) are found; if the best mixture of those
fits it is the best. Else only those shares, and of their frontiers only those points, count that together
with the best f(·, ∞) of the rest exceed the best single plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Goal
from ipa.model.plan import Plan, Termination
from ipa.model.resources import CORES
from ipa.optimize.backends import label_setting
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import undominated
from ipa.optimize.dominance_filter import reduce_program
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits, MixturePart, most_together, part_problem
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
    by itself; the resources of all parts together are within the bounds. The running configuration and the
    cost of changes are ignored. Mixtures are found by label setting, whichever `solver` finds the best single
    plan. None is sought, and the note says so, if the goal is not a weighted sum. If the time runs out before
    the best is known, the best so far is feasible.
    """
    limits = limits or MixtureLimits()
    deadline = Deadline(deadline_s)
    whole = part_problem(problem, 100)
    single = solve(whole, solver, deadline_s, explain=False)
    mixture = Mixture(problem.pipeline, problem.rate_rps, single.termination, single)
    if single.objective is not None:
        mixture = _of_parts(problem, mixture, (MixturePart(100, single),))
    reason = _why_not(problem)
    if not reason:
        search = _Search(problem, limits, deadline)
        try:
            parts = search.best(-inf if single.objective is None else single.objective)
        except DeadlineError:
            parts, reason = search.parts_so_far, "the time ran out before all mixtures were tried"
            mixture = replace(mixture, termination=Termination.NO_SOLUTION_FOUND)
            if mixture.parts:
                mixture = replace(mixture, termination=Termination.FEASIBLE)
        if parts:
            ended = Termination.FEASIBLE if reason else Termination.OPTIMAL
            mixture = replace(_of_parts(problem, mixture, parts), termination=ended)
    mixture = replace(mixture, solve_s=deadline.elapsed_s, note=reason)
    verify_mixture(problem, limits, mixture)
    return mixture


def _why_not(problem: PlanningProblem) -> str:
    """The reason why no mixture is sought; empty if one is."""
    if problem.objective.goal is not Goal.WEIGHTED:
        return f"mixtures are not planned for the goal {problem.objective.goal.value}"
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
    """A share's problem and program, and its best plan without the other shares.

    `held` is the plan's use of each resource of the search.
    """

    problem: PlanningProblem
    program: Program
    chosen: tuple[int, ...]
    worth: float
    held: Array


class _Search:
    def __init__(self, problem: PlanningProblem, limits: MixtureLimits, deadline: Deadline) -> None:
        self._problem = problem
        self._limits = limits
        self._deadline = deadline
        limits_together = most_together(problem)
        # Cores first: they are weighed even without a limit. The others as in a program's budgets.
        self._others = [name for name in limits_together if name != CORES]
        self._most = np.array([limits_together.get(name, inf) for name in (CORES, *self._others)])
        self._parts: dict[int, _Part] = {}
        self.parts_so_far: tuple[MixturePart, ...] = ()

    def best(self, single: float) -> tuple[MixturePart, ...]:
        """The parts of the best mixture, empty if none is worth more than the best single plan."""
        if self._limits.max_parts == 1:
            return ()
        self._solve_parts()
        least = single + self._limits.min_gain
        free = {
            share: ShareFrontier.of_plans(share, part.held[:, None], np.array([part.worth]))
            for share, part in self._parts.items()
        }
        worth, found = self._mixed(free, np.full(len(self._most), inf))
        if not worth > least:
            return ()
        held = np.sum([self._parts[share].held for share, _ in found], axis=0)
        if within(held, self._most).all():
            return self._planned([(share, self._parts[share].chosen) for share, _ in found])
        fitting, found = self._mixed(free, self._most)
        if fitting > least:
            self.parts_so_far = self._planned([(share, self._parts[share].chosen) for share, _ in found])
        plans = self._frontiers(max(least, fitting))
        frontiers = {
            share: ShareFrontier.of_plans(share, held, worth, self._deadline)
            for share, (held, worth, _) in plans.items()
        }
        worth, found = self._mixed(frontiers, self._most)
        if not worth > max(least, fitting):
            return self.parts_so_far
        return self._planned([(share, plans[share][2][at]) for share, at in found])

    def _mixed(
        self, frontiers: Mapping[int, ShareFrontier], most: Array
    ) -> tuple[float, list[tuple[int, int]]]:
        return best_mixture(frontiers, self._limits.max_parts, most, self._deadline)

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
                raise DeadlineError("the solver's time ran out")
            prices = found.prices
            totals = evaluate(program, found.chosen)
            held = np.array([totals.cost_cores, *totals.peaks])
            self._parts[share] = _Part(problem, program, found.chosen, totals.objective, held)

    def _frontiers(self, least: float) -> dict[int, tuple[Array, Array, list[tuple[int, ...]]]]:
        """The plans of each share that can be in a mixture worth more than `least`: use, worth, options."""
        beside = self._most_beside()
        plans = {}
        for share, part in self._parts.items():
            floor = least - beside.get(share, -inf)
            if part.worth < floor:
                continue
            search = label_setting.LabelSearch(part.program, self._deadline)
            if self._others:
                chosen = list(map(tuple, search.undominated(floor)[0].tolist()))
                totals = [evaluate(part.program, each) for each in chosen]
                points = [((each.cost_cores, *each.peaks), each.objective) for each in totals]
            else:
                found = search.frontier(floor)
                chosen = [each for _, _, each in found]
                points = [((cost,), worth) for cost, worth, _ in found]
            if chosen:
                held, worth = zip(*points, strict=True)
                plans[share] = np.array(held).T, np.array(worth), chosen
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


@dataclass(frozen=True, slots=True)
class ShareFrontier:
    """Undominated ways to serve a share; `first` and `rest` give their parts.

    `held` is (resources × ways), cores first. For one part `first` is the index of its plan. For more it is
    that of the added plan, `share` its share, `rest` the place in the frontier of the other parts.
    """

    held: Array
    worth: Array
    share: Index
    first: Index
    rest: Index

    @classmethod
    def of_plans(
        cls, share: int, held: Array, worth: Array, deadline: Deadline | None = None
    ) -> ShareFrontier:
        """The frontier of one part, from plans in any order. DeadlineError if the time runs out."""
        count = np.arange(len(worth))
        plans = cls(held, worth, np.full(len(worth), share), count, np.zeros(len(worth), dtype=np.intp))
        return plans.undominated(deadline)

    def undominated(self, deadline: Deadline | None = None) -> ShareFrontier:
        """The ways that no other equals or exceeds in every resource and worth, by rising cores.

        DeadlineError if the time runs out.
        """
        held = np.round(self.held, 9)
        order = np.lexsort((-self.worth, *held[::-1]))
        if len(held) == 1:
            before = np.maximum.accumulate(np.append(-inf, self.worth[order][:-1]))
            return self.take(order[self.worth[order] > before])
        rows = np.vstack([held, -self.worth]).take(order, axis=1)
        return self.take(order[undominated(rows, deadline)])

    def take(self, at: Index) -> ShareFrontier:
        """Those ways only."""
        return ShareFrontier(self.held[:, at], self.worth[at], self.share[at], self.first[at], self.rest[at])

    @classmethod
    def joined(cls, frontiers: Sequence[ShareFrontier]) -> ShareFrontier:
        """The ways of all of them."""
        names = ("held", "worth", "share", "first", "rest")
        return cls(*(np.concatenate([getattr(each, name) for each in frontiers], axis=-1) for name in names))


def best_mixture(
    plans: Mapping[int, ShareFrontier], max_parts: int, most: Array, deadline: Deadline | None = None
) -> tuple[float, list[tuple[int, int]]]:
    """The most worth of at most `max_parts` shares that sum to 100, and (share, index of plan) of each.

    `most` has the limit of each resource. −inf and nothing if no shares with plans do. By dynamic programming
    over the sum of shares: with k parts it is each single part beside the frontier of k − 1 parts with the
    rest; a part never has more than those after it, since order does not matter. DeadlineError if the time is
    up.
    """
    levels: list[dict[int, ShareFrontier]] = [dict(plans)]
    for parts in range(2, max_parts + 1):
        last = parts == max_parts
        sums = [100] if last else sorted({a + b for a in plans for b in levels[-1] if a + b < 100} | {100})
        grown = {
            total: joined
            for total in sums
            if (joined := _joined(plans, levels[-1], total, parts, most, deadline, is_last=last))
        }
        levels.append(grown)
    best, found = -inf, []
    for depth, level in enumerate(levels):
        frontier = level.get(100)
        if frontier is None:
            continue
        worth = np.where(within(frontier.held, most), frontier.worth, -inf)
        at = int(worth.argmax())
        if worth[at] > best:
            best = float(worth[at])
            found = _trace(levels, depth, 100, at)
    return best, found


def within(held: Array, most: Array) -> NDArray[np.bool_]:
    """True if every resource is within its limit, for one use or (resources × ways)."""
    limits = np.array([limit + tolerance(limit) for limit in most.tolist()])
    return np.asarray((limits >= held.T).all(axis=-1))


def _joined(
    plans: Mapping[int, ShareFrontier],
    others: Mapping[int, ShareFrontier],
    total: int,
    parts: int,
    most: Array,
    deadline: Deadline | None,
    *,
    is_last: bool,
) -> ShareFrontier | None:
    """The frontier of a part beside `others` that together serve `total` percent; its best end if last."""
    pieces = []
    for share, plan in plans.items():
        # The smallest part is added last.
        if share * parts > total or total - share not in others:
            continue
        other = others[total - share]
        held = plan.held[:, :, None] + other.held[:, None, :]
        row, column = np.nonzero(within(held, most).T)
        worth = plan.worth[row] + other.worth[column]
        joined = ShareFrontier(held[:, row, column], worth, np.full(len(row), share), plan.first[row], column)
        if is_last:
            joined = joined.take(np.flatnonzero(joined.worth == joined.worth.max(initial=-inf)))
        # With one resource it is faster to compare all pieces at once.
        pieces.append(joined if len(most) == 1 else joined.undominated(deadline))
    if not pieces:
        return None
    joined = ShareFrontier.joined(pieces).undominated(deadline)
    return joined if len(joined.worth) else None


def _trace(levels: list[dict[int, ShareFrontier]], depth: int, total: int, at: int) -> list[tuple[int, int]]:
    found = []
    for level in range(depth, -1, -1):
        frontier = levels[level][total]
        share = int(frontier.share[at])
        found.append((share, int(frontier.first[at])))
        total, at = total - share, int(frontier.rest[at])
    return found
