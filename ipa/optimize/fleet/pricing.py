"""The best plans of many pipelines within a budget of cores, without the whole frontier of each.

Only plans near the price of a core matter: with L(μ) = μ · budget + Σ the pipelines' most profit (worth − μ ·
cost) and a selection worth W, a plan that earns its pipeline more than L(μ) − W less than the best is in no
better selection. So a price is searched for with promising plans, all plans within such a window of it are
found in lock-step, the knapsack chooses among them, and price and window are updated until the proof holds.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.knapsack import Selection
from ipa.optimize.fleet.plan_pool import PlanPool
from ipa.optimize.program import tolerance

# The price is good enough for the proof if the plans found at it would move it by less than this, relative.
SETTLED = 0.2
# The largest factor of one move of the price, and the most moves.
STEP, STEPS = 3.0, 20
# If no price is found this many times, it is none: the budget holds the best plans of all.
FREE = 3
# Windows tried for the proof.
ROUNDS = 12
# The window is wider than the known distance to the bound by this share of the price of a core.
ROOM = 0.1


class TooFewCores(Exception):  # noqa: N818 - it says what is the case
    """The cheapest plans together need more than the budget: `cores`."""

    def __init__(self, cores: float) -> None:
        super().__init__(cores)
        self.cores = cores


class NoPlan(Exception):  # noqa: N818 - it says what is the case
    """Some pipelines (`who`) have no plan within their own limits."""

    def __init__(self, who: tuple[int, ...]) -> None:
        super().__init__(who)
        self.who = who


def best_plans(pool: PlanPool, budget_cores: float, deadline: Deadline) -> Selection:
    """The selection of most worth within the budget, of plans in the pool or found and added to it.

    Errors: TooFewCores; NoPlan if a pipeline has no plan; DeadlineError if the time runs out before there is
    a selection. A selection that is not proved best is FEASIBLE and has a bound.
    """
    bound = inf
    chosen: Selection | None = None
    try:
        if not pool.blocks:
            _make_sure(pool, budget_cores, deadline)
            return pool.select(budget_cores, deadline)
        price = _settle(pool, budget_cores, deadline)
        window = 0.5 * price
        for _ in range(ROUNDS):
            probe = pool.probe(price, window + _rounding(chosen), deadline)
            chosen = pool.select(budget_cores, deadline)
            bound = min(bound, probe.bound(budget_cores))
            if probe.complete.all() and probe.bound(budget_cores) - chosen.worth <= window + _rounding(
                chosen
            ):
                return chosen if chosen.termination is Termination.OPTIMAL else _bounded(chosen, bound)
            price = chosen.price
            window = 1.05 * (chosen.relaxed - chosen.worth) + ROOM * price
    except DeadlineError:
        if chosen is None:
            least = pool.least_cores
            if not np.isfinite(least).all() or least.sum() > budget_cores + tolerance(budget_cores):
                raise
            chosen = pool.select(budget_cores, deadline)
    assert chosen is not None
    return _bounded(chosen, bound)


def _rounding(chosen: Selection | None) -> float:
    """The rounding allowed between sums: the proof is to 1e-9 of the worth, relative above 1."""
    return 1e-9 * max(1.0, abs(chosen.worth)) if chosen is not None else 0.0


def _bounded(chosen: Selection, bound: float) -> Selection:
    return replace(chosen, bound=max(chosen.worth, bound), termination=Termination.FEASIBLE)


def _settle(pool: PlanPool, budget_cores: float, deadline: Deadline) -> float:
    """Search for promising plans until the price at which they use the budget is stable; return it.

    Errors: those of `best_plans`.
    """
    low, high = -inf, inf
    seen: list[tuple[float, float]] = []
    found = price = 0.0
    asked = False
    for _ in range(STEPS):
        pool.probe(price, None, deadline)
        if not asked:
            missing = not np.isfinite(pool.least_cores).all()
            asked = (price > 0 or missing) and _make_sure(pool, budget_cores, deadline)
        known = np.isfinite(pool.least_cores)
        spent = float(pool.spent(price).sum())
        low, high = (max(low, price), high) if spent > budget_cores else (low, min(high, price))
        found = inf
        if float(pool.least_cores[known].sum()) <= budget_cores + tolerance(budget_cores):
            found = pool.break_price(budget_cores)
        if abs(found - price) <= SETTLED * price:
            return found
        if max(low, high / STEP) <= found <= min(high, STEP * max(low, price / STEP)):
            price, seen = found, []
            continue
        # Plans found at one price say little about a distant one; their cost says more.
        seen.append((price, spent))
        if price == 0:
            whole = float(np.maximum(pool.profit(0.0), 0.0).sum())
            price = high / STEP if high < inf else whole / max(budget_cores, 1e-9) or 1.0
        elif 0 < low < inf and high < inf:
            price = float((low * high) ** 0.5)
        else:
            push = _push(seen, budget_cores)
            price = 0.0 if found == 0 and len(seen) >= FREE and push <= 1 / STEP else price * push
    return found if found < inf else price


def _push(seen: list[tuple[float, float]], budget_cores: float) -> float:
    """The factor by which to multiply the price, from the costs at the last two."""
    price, spent = seen[-1]
    ratio = max(spent, 1e-9) / max(budget_cores, 1e-9)
    power = 1.0
    if len(seen) > 1 and seen[-2][0] > 0 and seen[-2][1] > 0 and spent > 0 and price != seen[-2][0]:
        # The cost falls about as a power of the price.
        power = -log(seen[-2][1] / spent) / log(seen[-2][0] / price)
    factor = float(ratio ** (1.0 / max(power, 0.1)))
    least = 1.2 ** len(seen)
    return min(max(factor, least), STEP) if ratio > 1 else max(min(factor, 1 / least), 1 / STEP)


def _make_sure(pool: PlanPool, budget_cores: float, deadline: Deadline) -> bool:
    """True if the cheapest plans had to be found to know that a selection within the budget exists."""
    least = pool.least_cores
    if np.isfinite(least).all() and least.sum() <= budget_cores + tolerance(budget_cores):
        return False
    pool.cheapest(deadline)
    least = pool.least_cores
    if not np.isfinite(least).all():
        raise NoPlan(tuple(np.flatnonzero(~np.isfinite(least)).tolist()))
    if least.sum() > budget_cores + tolerance(budget_cores):
        raise TooFewCores(float(least.sum()))
    return True
