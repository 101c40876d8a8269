"""One choice for each owner, most worth within a budget: the multiple-choice knapsack, solved exactly.

At a price μ of a core every owner has a best choice, and each other one loses `loss` ≥ 0 against it. A
selection is worth L(μ) − Σ loss − μ · (budget left over), L(μ) being the Lagrange bound, so the best one has
the least `shortfall` Σ loss + μ · left. It is found by dynamic programming over the owners whose choices lie
closest to the price, with states (left, loss), dominance and a bound for each state (Pisinger 1995, "A
minimal algorithm for the multiple-choice knapsack problem"; costs may be any numbers here).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from ipa.model.plan import Termination, cores_of
from ipa.optimize.columns import Array, Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.program import tolerance

# Shortfalls this close (relative to the worth, above 1) are equal; the cheaper selection is taken then.
EQUAL = 1e-11
# A selection this close to the bound (relative likewise) is proved best.
PROVED = 1e-9
# States kept side by side; beyond that the least promising are dropped.
MOST_STATES = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The choices: columns of owner (0..owners−1, each at least once), cost and worth."""

    owners: int
    owner: Index
    cost_cores: Array
    worth: Array


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The choice of each owner (index into the choices), their sums, and the bound.

    `price` is the shadow price: the worth of one more core by the linear relaxation, whose worth is
    `relaxed`.
    """

    chosen: Index
    cost_cores: float
    worth: float
    bound: float
    price: float
    relaxed: float
    termination: Termination


def select(choices: Choices, budget_cores: float, deadline: Deadline) -> Selection:
    """The selection of most worth within the budget; of equally good ones the cheapest.

    The budget must hold every owner's cheapest choice (ValueError). FEASIBLE, with a bound, if the time ran
    out before it is proved best.
    """
    kept = undominated_choices(choices.owner, choices.cost_cores, choices.worth)
    owner, cost, worth = choices.owner[kept], choices.cost_cores[kept], choices.worth[kept]
    hull = hull_of(owner, cost, worth, choices.owners)
    least = float(cost[hull.first].sum())
    if least > budget_cores + tolerance(budget_cores):
        raise ValueError(f"{cores_of(budget_cores)} do not hold the cheapest choices, {least:g}")
    broken = break_of(hull, cost, worth, budget_cores)
    base, price = broken.chosen, broken.price
    profit = worth - price * cost
    search = _Search(
        owner=owner,
        gain=cost[base][owner] - cost,
        loss=np.maximum(profit[base][owner] - profit, 0.0),
        base=base,
        price=price,
        left=budget_cores - float(cost[base].sum()) if price > 0 else 0.0,
        scale=max(1.0, abs(broken.bound)),
        deadline=deadline,
    )
    shortfall = search.run()
    chosen = kept[search.chosen]
    reached = float(choices.worth[chosen].sum())
    return Selection(
        chosen=chosen,
        cost_cores=float(choices.cost_cores[chosen].sum()),
        worth=reached,
        bound=reached if search.proved else max(reached, broken.bound - shortfall),
        price=price,
        relaxed=broken.bound,
        termination=Termination.OPTIMAL if search.proved else Termination.FEASIBLE,
    )


class _Search:
    """States over the owners near the price. `gain` is the cost saved by a choice against the base choice."""

    def __init__(
        self,
        owner: Index,
        gain: Array,
        loss: Array,
        base: Index,
        price: float,
        left: float,
        scale: float,
        deadline: Deadline,
    ) -> None:
        self._owner, self._gain, self._loss, self._price = owner, gain, loss, price
        self._deadline = deadline
        self._equal, self._close = EQUAL * scale, PROVED * scale
        self._over = tolerance(abs(left))
        self._left = left
        self._base = self.chosen = base
        self.proved = True
        self._best = price * max(left, 0.0)
        self._best_left = left
        self._trace: list[tuple[Index, Index]] = []

    def run(self) -> float:
        """Search, leave the best selection in `chosen`, and return a lower bound on the shortfall."""
        free = self._free_owners()
        left, loss = np.array([self._left]), np.zeros(1)
        dropped = inf
        for step, (choices, up, down) in enumerate(free):
            at = choices[self._loss[choices] <= self._best + self._equal]
            if self._best <= self._equal or (dropped < inf and self._best <= self._close):
                break
            if not len(at):
                self._trace.append((np.arange(len(left)), np.full(len(left), -1)))
                continue
            if self._deadline.passed:
                self.proved = False
                return min(dropped, float(self._bound(left, loss, up, down).min(initial=inf)))
            parent, choice, left, loss = _grown(left, loss, at, self._gain[at], self._loss[at], self._price)
            self._note_best(step, parent, choice, left, loss)
            _, next_up, next_down = free[step + 1] if step + 1 < len(free) else (None, inf, inf)
            bound = self._bound(left, loss, next_up, next_down)
            good = np.flatnonzero(bound <= self._best + self._equal)
            if len(good) > MOST_STATES:
                order = np.lexsort((np.abs(left[good]), bound[good]))
                dropped = min(dropped, float(bound[good[order[MOST_STATES]]]))
                good = np.sort(good[order[:MOST_STATES]])
            self._trace.append((parent[good], choice[good]))
            left, loss = left[good], loss[good]
        self.proved = dropped >= self._best - self._close
        return min(dropped, self._best)

    def _free_owners(self) -> list[tuple[Index, float, float]]:
        """Each owner's choices that could be in a better selection, nearest to the price first.

        With each comes the least loss a core, up and down, of this and all later owners.
        """
        near = np.flatnonzero((self._loss <= self._best + self._equal) & (self._gain != 0))
        if not len(near):
            return []
        rate = self._loss[near] / np.abs(self._gain[near])
        near, rate = near[(order := np.lexsort((rate, self._owner[near])))], rate[order]
        starts = np.flatnonzero(np.r_[True, np.diff(self._owner[near]) != 0])
        up = np.minimum.reduceat(np.where(self._gain[near] < 0, rate, inf), starts)
        down = np.minimum.reduceat(np.where(self._gain[near] > 0, rate, inf), starts)
        # Of equal rates owners that can give and owners that can take alternate, or the remainder only grows.
        turn = np.where(up < inf, np.cumsum(up < inf), np.cumsum(up == inf))
        order = np.lexsort((turn, rate[starts]))
        groups = np.split(near, starts[1:])
        up = np.minimum.accumulate(up[order][::-1])[::-1]
        down = np.minimum.accumulate(down[order][::-1])[::-1]
        return [(groups[at], float(u), float(d)) for at, u, d in zip(order.tolist(), up, down, strict=True)]

    def _bound(self, left: Array, loss: Array, up: float, down: float) -> Array:
        """The least shortfall of any completion.

        An unused core costs the price, or `up` if later owners use it; a missing core must be given up by
        them, at `down`.
        """
        lacking = np.maximum(-left - self._over, 0.0)
        cost = np.zeros(len(left))
        np.multiply(lacking, down, out=cost, where=lacking > 0)
        bound: Array = loss + cost + min(up, self._price) * np.maximum(left, 0.0)
        return bound

    def _note_best(self, step: int, parent: Index, choice: Index, left: Array, loss: Array) -> None:
        shortfall = np.where(left >= -self._over, loss + self._price * np.maximum(left, 0.0), inf)
        equal = np.flatnonzero(shortfall <= float(shortfall.min(initial=inf)) + self._equal)
        if not len(equal) or shortfall[equal[0]] == inf:
            return
        at = int(equal[np.argmax(left[equal])])
        better = float(shortfall[at]) < self._best - self._equal
        if not better and not (
            shortfall[at] <= self._best + self._equal and left[at] > self._best_left + self._over
        ):
            return
        self._best = min(self._best, float(shortfall[at]))
        self._best_left = float(left[at])
        self._write(step, int(parent[at]), int(choice[at]))

    def _write(self, step: int, state: int, choice: int) -> None:
        """Follow the state back and put its choices in place of the base ones."""
        picked = [choice]
        for parent, taken in reversed(self._trace[:step]):
            picked.append(int(taken[state]))
            state = int(parent[state])
        self.chosen = self._base.copy()
        for at in picked:
            if at >= 0:
                self.chosen[self._owner[at]] = at


def _grown(
    left: Array, loss: Array, at: Index, gain: Array, lost: Array, price: float
) -> tuple[Index, Index, Array, Array]:
    """The undominated states after one more owner: parent state, choice (−1: base), cost left and loss."""
    gain, lost = np.concatenate([[0.0], gain]), np.concatenate([[0.0], lost])
    all_left = (left[None, :] + gain[:, None]).ravel()
    all_loss = (loss[None, :] + lost[:, None]).ravel()
    # The shortfall in worth of a state: a cheaper state that lacks no more dominates it.
    short = all_loss + price * all_left
    order = np.lexsort((short, -all_left))
    short = short[order]
    fresh = np.r_[True, short[1:] < np.minimum.accumulate(short)[:-1]]
    kept = order[fresh]
    choice = np.concatenate([[-1], at])[kept // len(left)]
    return kept % len(left), choice, all_left[kept], all_loss[kept]


@dataclass(frozen=True, slots=True, eq=False)
class Hull:
    """Each owner's cheapest choice, and the steps up its hull: slopes fall along the steps of an owner.

    `to` is the choice that a step leads to. All arrays but `first` have an entry a step.
    """

    first: Index
    owner: Index
    to: Index
    cores: Array
    worth: Array
    slope: Array


@dataclass(frozen=True, slots=True, eq=False)
class HullBreak:
    """The point at which the budget ends on the hulls: its price, the Lagrange bound, and the choices."""

    price: float
    bound: float
    chosen: Index


def undominated_choices(owner: Index, cost: Array, worth: Array) -> Index:
    """The choices that no other of the owner undercuts or equals, by owner and rising cost (and worth)."""
    order: Index = np.lexsort((-worth, cost, owner))
    while True:
        who, good = owner[order], worth[order]
        fresh = np.r_[True, (who[1:] != who[:-1]) | (good[1:] > good[:-1])]
        if fresh.all():
            return order
        order = order[fresh]


def hull_of(owner: Index, cost: Array, worth: Array, owners: int) -> Hull:
    """The hulls of undominated choices in the order of `undominated_choices`."""
    at = np.arange(len(owner))
    while True:
        same = owner[at[1:]] == owner[at[:-1]]
        rise, run = np.diff(worth[at]), np.diff(cost[at])
        # A point on or below the line between its neighbours is no corner; they are choices themselves.
        low = same[1:] & same[:-1] & (rise[:-1] * run[1:] <= rise[1:] * run[:-1])
        if not low.any():
            break
        at = np.delete(at, np.flatnonzero(low) + 1)
    to = at[1:][same]
    first = np.searchsorted(owner, np.arange(owners))
    return Hull(first, owner[to], to, run[same], rise[same], rise[same] / run[same])


def break_of(hull: Hull, cost: Array, worth: Array, budget_cores: float) -> HullBreak:
    """The steps of steepest slope that the budget holds (the linear relaxation, Sinha and Zoltners 1979)."""
    least = float(cost[hull.first].sum())
    order = np.argsort(-hull.slope, kind="stable")
    spent = np.concatenate([[least], least + np.cumsum(hull.cores[order])])
    within = int(np.searchsorted(spent, budget_cores + tolerance(budget_cores), side="right")) - 1
    taken = order[:within]
    chosen = hull.first.copy()
    # Slopes fall along an owner's steps, so of those taken the last is the furthest.
    np.maximum.at(chosen, hull.owner[taken], hull.to[taken])
    reached = float(worth[chosen].sum())
    if within == len(order):
        return HullBreak(0.0, reached, chosen)
    price = float(hull.slope[order[within]])
    left = max(0.0, budget_cores - float(cost[chosen].sum()))
    return HullBreak(price, reached + price * left, chosen)
