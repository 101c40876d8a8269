"""The best plans of a fleet within its budget: column generation over the plans of each pipeline.

A program with a binary a plan chooses one plan of each pipeline, the sums of each resource within its budget.
Its linear relaxation gives a price of each resource. At these prices every pipeline offers its plans of most
profit (worth − price · use), until the relaxation gains nothing more. The bound of all selections is then L =
price · budget + Σ of the pipelines' most profit. With a selection worth W, a plan that earns less than L − W
below the best of its pipeline is in no better selection; so once all plans within such a window are known,
the best selection of known plans is optimal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.plan import Plan, Termination
from ipa.model.resources import CORES, Resources, by_field, total
from ipa.optimize.backends import highs, label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import undominated
from ipa.optimize.frontier import DIGITS, worth_program
from ipa.optimize.linear_program import Milp
from ipa.optimize.plans import configs_of
from ipa.optimize.problem import Array, Index, PlanningProblem
from ipa.optimize.program import EQUAL, ResourceBudget, tolerance

# Multipliers of a pipeline's own limits are good enough at prices this many times larger or smaller.
SAME = 4.0


class Offer:
    """The plans of a pipeline. Profit is share · weighted worth − prices · use.

    `names` are the resources, cores first, `most` the fleet's budget of each; `use` is what each option uses
    of them, (resources × options) for each stage.
    """

    def __init__(self, problem: PlanningProblem, weight: float, names: Sequence[str], most: Array) -> None:
        limits = dict(zip(names[1:], most[1:].tolist(), strict=True))
        program = worth_program(problem, limits)
        budgets = {budget.name: at for at, budget in enumerate(program.budgets)}
        self.problem, self.weight, self._program = problem, weight, program
        self.use: list[Array] = []
        for stage in program.stages:
            none = np.zeros(len(stage))
            held = [stage.held(budgets[name]) if name in budgets else none for name in limits]
            self.use.append(np.array([stage.cost_cores, *held]))
        # A plan's loss of worth is a criterion too: a budget that no plan exceeds.
        losses = [-stage.value for stage in program.stages]
        most_loss = sum(float(loss.max(initial=0.0)) for loss in losses)
        self._with_worth = program.with_budget(ResourceBudget("worth", inf, most_loss), losses)
        # By kind of search: the prices for which multipliers were found, and these.
        self._multipliers: dict[bool, tuple[Array, Array]] = {}

    def near(self, share: float, prices: Array, known: float, window: float, deadline: Deadline) -> Index:
        """The undominated plans (plans × stages) whose profit is at most `window` below the best.

        `known` is the highest profit found so far, −inf without one. If `window` and `share` are 0, only one
        best plan is returned. DeadlineError if the time runs out.
        """
        none = np.zeros((0, len(self.use)), dtype=np.intp)
        if not all(len(stage) for stage in self._program.stages):
            return none
        is_priced, factor = bool(share and prices.any()), share * self.weight
        program = self._with_worth if is_priced else self._program
        # Its objective is the profit.
        stages = tuple(
            stage.having(value=factor * stage.value - prices @ use)
            for stage, use in zip(program.stages, self.use, strict=True)
        )
        weights = replace(program.weights, alpha=factor * program.weights.alpha)
        program = replace(program, stages=stages, weights=weights)
        if not share and not window:
            answer = label_setting.solve(program, deadline)
            if answer.termination not in (Termination.OPTIMAL, Termination.INFEASIBLE):
                raise DeadlineError("the time for the fleet's plan ran out")
            return np.array(answer.chosen, dtype=np.intp).reshape(-1, len(self.use))
        at, multipliers = self._multipliers.get(is_priced, (prices, None))
        if (at > SAME * prices).any() or (prices > SAME * at).any():
            multipliers = None
        search = label_setting.LabelSearch(program, deadline, multipliers)
        if multipliers is None:
            self._multipliers[is_priced] = prices, search.bounding.prices
        for width in label_setting.WIDTHS:
            chosen, complete = search.undominated(known - window, width)
            worth, use = self.figures(chosen)
            known = max(known, float((share * worth - prices @ use).max(initial=-inf)))
            if complete:
                break
        return chosen[undominated(np.round(np.array([-share * worth, *use]), DIGITS))]

    def figures(self, chosen: Index) -> tuple[Array, Array]:
        """The weighted worth (plans) and the use (resources × plans) of these plans (plans × stages)."""
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

    def plan(self, chosen: Sequence[int]) -> Plan:
        """The plan with that option of every stage."""
        plan = describe(self.problem, configs_of(self.problem, self._program, chosen))
        assert plan is not None, "its points are the problem's"
        return plan


# A solver may pass a row by this much, relative: HiGHS' tolerance of whole numbers.
PASSED = 1e-6
# The relaxation is settled if it may gain less than this, relative above 1, or this share of the window.
PROVED, SETTLED = 1e-7, 0.1
# The most rounds of prices, and of windows.
ROUNDS, WINDOWS = 60, 12
# The share of the time for finding plans.
SEARCHING = 0.8
# The first window is the worth of this many cores. A later one exceeds the distance to the bound by this
# share, and is at most this many times as wide as the one before.
UNITS, ROOM, GROWTH = 2.0, 0.05, 4.0


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """The plan of one pipeline, and the weight of its objective.

    `worth` is the objective, less the cost of the change to the plan, times the weight.
    """

    plan: Plan
    weight: float
    worth: float


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """One plan for each pipeline, in the order given, and their sums.

    `price` is the worth of one more core (the Lagrange multiplier of the budget), `gap` the distance of the
    bound to the worth, relative above 1. `limits` and `prices` are the fleet's budget of each further limited
    resource, and the worth of one more unit of it.
    """

    members: tuple[MemberPlan, ...]
    budget_cores: float
    cost_cores: float
    worth: float
    bound: float
    gap: float
    price: float
    termination: Termination
    solve_s: float
    limits: Mapping[str, float]
    prices: Mapping[str, float]

    @property
    def held(self) -> Resources:
        """The resources of all plans."""
        return total(member.plan.resources for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """The fleet as plain JSON values; `budget`, `held` and `prices` by resource with its unit."""
        budget = {CORES: self.budget_cores, **self.limits}
        return {
            "budget_cores": self.budget_cores,
            "cost_cores": self.cost_cores,
            "budget": by_field(budget),
            # A budget of which nothing is used has its zero.
            "held": by_field(dict.fromkeys(budget, 0.0) | self.held.amounts),
            "worth": self.worth,
            # Infinite if the time runs out before a bound was known; JSON has no infinity.
            "bound": self.bound if isfinite(self.bound) else None,
            "gap": self.gap if isfinite(self.gap) else None,
            "price_per_core": self.price,
            "prices": by_field({CORES: self.price, **self.prices}),
            "termination": self.termination.value,
            "solve_s": self.solve_s,
            "pipelines": [
                {"weight": each.weight, "worth": each.worth, "plan": each.plan.to_json()}
                for each in self.members
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Aim:
    """The objective share · worth − charge · use, and the least worth of all pipelines together."""

    share: float
    charge: Array
    floor: float = -inf


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The best selection found, the bound of its objective, and the prices of the resources."""

    chosen: Index
    bound: float
    prices: Array
    proved: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Relaxed:
    """The relaxation over the known plans: the price of each resource, and the share of the worth.

    `reached` is its objective; `offset` is the part of a bound that is not the pipelines' highest profits.
    """

    prices: Array
    share: float
    reached: float
    offset: float


class Searched:
    """The last search of each pipeline: at its prices, all plans of at least the floor's profit are known."""

    def __init__(self, count: int, resources: int) -> None:
        self._shares, self._prices = np.full(count, -1.0), np.zeros((resources, count))
        self._floor = np.zeros(count)

    def note(self, who: NDArray[np.bool_], share: float, prices: Array, floor: Array) -> None:
        """Record a search of some pipelines."""
        self._shares[who], self._floor[who] = share, floor[who]
        self._prices[:, who] = prices[:, None]

    def ceiling(self, share: float, prices: Array, top: Array) -> Array:
        """An upper bound on the profit of unknown plans at other prices; `top` is the highest worth.

        A plan's use of a resource is bounded by the cost at which it still reaches the floor.
        """
        cheaper = self._prices - prices[:, None]
        ratio = np.divide(cheaper, self._prices, out=np.zeros(cheaper.shape), where=cheaper > 0)
        is_whole = self._floor == -inf
        rise = ratio.sum(axis=0) * np.where(is_whole, 0.0, share * top - self._floor)
        ceiling: Array = np.where(
            (share == self._shares) | (is_whole & (self._shares > 0)), self._floor + rise, inf
        )
        return ceiling


class Master:
    """The known plans in columns: owner, weighted worth, use (resources × plans) and options of each plan."""

    def __init__(
        self,
        problems: Sequence[PlanningProblem],
        weights: Array,
        most: Mapping[str, float],
        deadline: Deadline,
    ) -> None:
        # The last part of the time is kept to choose among the plans found by then.
        self._deadline, self._searching = deadline, Deadline(SEARCHING * deadline.remaining_s)
        self._names, self._most = list(most), np.array(list(most.values()))
        self._limited = np.flatnonzero(np.isfinite(self._most))
        self._free = np.zeros(len(most))
        self._offers = []
        for problem, weight in zip(problems, weights.tolist(), strict=True):
            if deadline.passed:
                raise DeadlineError("the time for the fleet's plan ran out before any plan was known")
            self._offers.append(Offer(problem, weight, list(most), self._most))
        self._owner = np.zeros(0, dtype=np.intp)
        self._worth, self._use = np.zeros(0), np.zeros((len(most), 0))
        self._options: list[tuple[int, ...]] = []
        self._known: set[tuple[int, tuple[int, ...]]] = set()
        self._searched = Searched(len(self._offers), len(most))
        # The highest worth that was found for each pipeline.
        self._top = np.zeros(len(self._offers))
        self._top = self._search(1.0, self._free, 0.0)
        self.without_plan = tuple(np.setdiff1d(np.arange(len(self._offers)), self._owner).tolist())

    def planned(self) -> FleetPlan | None:
        """The best plans of the pipelines, of equally good ones those of the fewest cores; None if none fit.

        Errors: DeadlineError (no selection was found in time), SolverError.
        """
        if self.without_plan:
            return None
        best = self._best()
        if best is None:
            return None
        chosen = self._of_fewest_cores(best.chosen)
        solve_s = self._deadline.elapsed_s
        worth = float(self._worth[chosen].sum())
        bound = worth if best.proved else max(worth, best.bound)
        (budget_cores, *limits), (price, *prices) = self._most.tolist(), best.prices.tolist()
        return FleetPlan(
            members=tuple(
                MemberPlan(offer.plan(self._options[at]), offer.weight, float(self._worth[at]))
                for offer, at in zip(self._offers, chosen.tolist(), strict=True)
            ),
            budget_cores=budget_cores,
            cost_cores=float(self._use[0, chosen].sum()),
            worth=worth,
            bound=bound,
            gap=(bound - worth) / max(1.0, abs(worth)),
            price=price,
            termination=Termination.OPTIMAL if best.proved else Termination.FEASIBLE,
            solve_s=solve_s,
            limits=dict(zip(self._names[1:], limits, strict=True)),
            prices=dict(zip(self._names[1:], prices, strict=True)),
        )

    def _search(self, share: float, prices: Array, window: float, needed: float = 0.0) -> Array:
        """Add the plans within the window at these prices; return the highest profit of each pipeline.

        Pipelines whose plans within `needed` are all known are not searched.
        """
        profit = self._profit(share, prices)
        # Those that may have unknown plans within `needed` at these prices.
        unknown = self._searched.ceiling(share, prices, self._top) > profit - needed
        for who in np.flatnonzero(unknown).tolist():
            chosen = self._offers[who].near(share, prices, float(profit[who]), window, self._searching)
            new = [row for row in map(tuple, chosen.tolist()) if (who, row) not in self._known]
            if new:
                self._known.update((who, row) for row in new)
                worth, use = self._offers[who].figures(np.array(new, dtype=np.intp))
                self._owner = np.append(self._owner, np.full(len(new), who))
                self._worth = np.append(self._worth, worth)
                self._use = np.append(self._use, use, axis=1)
                self._options += new
        profit = self._profit(share, prices)
        self._searched.note(unknown, share, prices, profit - window)
        return profit

    def _costs(self, share: float, prices: Array) -> Array:
        costs: Array = share * self._worth - prices @ self._use
        return costs

    def _profit(self, share: float, prices: Array) -> Array:
        """The highest profit among each pipeline's known plans, −inf without one."""
        profit = np.full(len(self._offers), -inf)
        np.maximum.at(profit, self._owner, self._costs(share, prices))
        return profit

    def _best(self) -> _Found | None:
        """The selection of the highest worth; None if none fits. DeadlineError: none was found in time."""
        aim, bound, prices, proved = _Aim(1.0, self._free), inf, self._free, False
        chosen: Index | None = None
        try:
            if not self._fits():
                return None
            window, needed = None, 0.0
            for _ in range(WINDOWS):
                relaxed, whole, window = self._settled(aim, window, needed)
                bound, prices = min(bound, whole), relaxed.prices
                best, is_best = self._selected(aim, self._within(relaxed, 2 * window))
                if best is None:
                    if window == inf:
                        return None
                    window = needed = inf
                    continue
                chosen = best
                needed, rounding = whole - self._value(aim, chosen), EQUAL * max(1.0, abs(whole))
                if is_best and needed <= 2 * window + rounding:
                    # Among the plans that were not known yet, none near enough may be left.
                    count = len(self._owner)
                    self._search(
                        relaxed.share, relaxed.prices, (1 + ROOM) * needed + rounding, needed - rounding
                    )
                    proved = not (self._within(relaxed, needed) >= count).any()
                if proved or not is_best:
                    break
                window = needed = min(GROWTH * window or inf, (1 + ROOM) * needed + rounding)
        except DeadlineError:
            if chosen is None:
                best, _ = self._selected(aim, np.arange(len(self._owner)))
                if best is None:
                    raise
                chosen = best
        assert chosen is not None
        return _Found(chosen, bound, prices, proved)

    def _value(self, aim: _Aim, chosen: Index) -> float:
        return float(self._costs(aim.share, aim.charge)[chosen].sum())

    def _fits(self) -> bool:
        """True if the relaxation has a selection within the budget, after adding plans for one."""
        aim = _Aim(0.0, self._free)
        for _ in range(ROUNDS):
            relaxed = self._relaxed(aim, has_slack=True)
            if relaxed.reached >= -PROVED:
                return True
            bound = relaxed.offset + self._search(relaxed.share, relaxed.prices, 0.0).sum()
            if bound - relaxed.reached <= PROVED:
                return False
        return False

    def _settled(self, aim: _Aim, window: float | None, needed: float) -> tuple[_Relaxed, float, float]:
        """The relaxation with settled prices, the bound of all selections, and the window.

        All plans within `needed` at these prices are then known. Pipelines are searched for plans within the
        window; the default window is the worth of UNITS cores.
        """
        for _ in range(ROUNDS):
            relaxed = self._relaxed(aim)
            price = max(0.0, float((relaxed.prices - aim.charge)[0]))
            wide = UNITS * price if window is None else window
            profit = self._search(relaxed.share, relaxed.prices, wide, needed)
            bound = relaxed.offset + float(profit.sum())
            if bound - relaxed.reached <= max(SETTLED * wide, PROVED * max(1.0, abs(relaxed.reached))):
                break
        return relaxed, bound, wide

    def _relaxed(self, aim: _Aim, *, has_slack: bool = False) -> _Relaxed:
        """The relaxation over the known plans; with slack, the one that exceeds budgets by the least."""
        milp = self._milp(aim, np.arange(len(self._owner)), has_slack=has_slack)
        values, duals = highs.relaxed(milp, self._searching)
        first = len(milp.rows) - len(self._limited)
        limits, prices = duals[first:], aim.charge.copy()
        prices[self._limited] += limits
        offset = float(limits @ np.array([row.upper for row in milp.rows[first:]]))
        share, reached = aim.share, float(np.dot(milp.costs, values))
        if aim.floor > -inf:
            share, offset = share + float(duals[first - 1]), offset - float(duals[first - 1]) * aim.floor
        return _Relaxed(prices, share, reached, offset)

    def _within(self, relaxed: _Relaxed, window: float) -> Index:
        """The known plans whose profit is at most `window` below their pipeline's highest."""
        costs = self._costs(relaxed.share, relaxed.prices)
        profit = self._profit(relaxed.share, relaxed.prices)
        return np.flatnonzero(profit[self._owner] - costs <= window + PROVED)

    def _selected(self, aim: _Aim, columns: Index) -> tuple[Index | None, bool]:
        """The best selection of the plans `columns`, and True if proved best; None if no known plans fit.

        All known plans are tried if those do not fit. Errors: DeadlineError (none was found in time),
        SolverError (the solver's selection exceeds the budget).
        """
        for tried in (columns, np.arange(len(self._owner))):
            answer = highs.maximise(self._milp(aim, tried), self._deadline)
            if answer.termination is not Termination.INFEASIBLE:
                break
        else:
            return None, True
        if not answer.values:
            raise DeadlineError("no plans of the fleet were found within its budget in time")
        chosen = tried[np.array(answer.values) > 0.5]
        chosen = chosen[np.argsort(self._owner[chosen])]
        over = self._use[:, chosen].sum(axis=1) - self._most
        if len(chosen) != len(self._offers) or (over > PASSED * np.maximum(1.0, self._most)).any():
            raise SolverError("HiGHS' plans of the fleet are not within its budget")
        return chosen, answer.termination is Termination.OPTIMAL

    def _milp(self, aim: _Aim, columns: Index, *, has_slack: bool = False) -> Milp:
        """The MILP: one plan of each pipeline, the worth's floor if any, and the budgets.

        With slack the objective is minus the excess over the budget.
        """
        owner, use, count = self._owner[columns], self._use[:, columns], len(columns)
        costs = np.zeros(count) if has_slack else self._costs(aim.share, aim.charge)[columns]
        milp = Milp(count, costs.tolist(), [1.0] * count)
        order = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[order], np.arange(1, len(self._offers)))
        for mine in np.split(order, ends):
            milp.add_row([(at, 1.0) for at in mine.tolist()], 1.0, 1.0)
        if aim.floor > -inf:
            milp.add_row(_terms(self._worth[columns]), aim.floor, inf)
        # Not relative to the budget: HiGHS closes the gap of a row of round amounts far sooner.
        for at in self._limited.tolist():
            terms, most = _terms(use[at]), float(self._most[at])
            if has_slack:
                terms.append((len(milp.costs), -1.0))
                milp.costs.append(-1.0)
                milp.uppers.append(inf)
            milp.add_row(terms, -inf, most + tolerance(most))
        return milp

    def _of_fewest_cores(self, chosen: Index) -> Index:
        """A selection of equal worth with the fewest cores; the given one if none is proved."""
        worth = float(self._worth[chosen].sum())
        aim = _Aim(0.0, np.eye(len(self._most))[0], worth - EQUAL * max(1.0, abs(worth)))
        try:
            relaxed = self._relaxed(aim)
            window = relaxed.reached - self._value(aim, chosen)
            fewer, _ = self._selected(aim, self._within(relaxed, max(0.0, window)))
        except DeadlineError:
            return chosen
        return chosen if fewer is None else fewer


def _terms(row: Array) -> list[tuple[int, float]]:
    at = np.flatnonzero(row)
    return list(zip(at.tolist(), row[at].tolist(), strict=True)) or [(0, 0.0)]
