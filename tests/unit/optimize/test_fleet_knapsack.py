"""The multiple-choice knapsack: against brute force, and where it must stop or refuse."""

from __future__ import annotations

import itertools
from math import inf

import numpy as np
import pytest

from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.knapsack import Choices, break_of, hull_of, select, undominated_choices

KINDS = ("free", "whole costs", "tenths", "on the hull", "worth is cost", "whole worths")


def choices(seed: int, owners: int, each: int) -> Choices:
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(owners), each)
    cost = random.uniform(1, 40, owners * each)
    kind = KINDS[seed % len(KINDS)]
    if kind in ("whole costs", "whole worths"):
        cost = np.ceil(cost)
    if kind == "tenths":
        cost = np.ceil(cost) * 0.1
    scale = np.repeat(random.uniform(0.5, 3, owners), each)
    worth = scale * np.log(cost + 1) * random.uniform(0.5, 1.1, owners * each)
    if kind == "on the hull":
        worth = scale * np.log(cost)
    if kind == "worth is cost":
        worth = cost.copy()
    if kind == "whole worths":
        worth = np.ceil(worth * 3)
    return Choices(owners, owner, cost, worth)


def budget_of(given: Choices, share: float) -> float:
    costs = [given.cost_cores[given.owner == owner] for owner in range(given.owners)]
    least, most = sum(each.min() for each in costs), sum(each.max() for each in costs)
    return float(least + share * (most - least))


def brute_force(given: Choices, budget_cores: float) -> tuple[float, float]:
    """The most worth within the budget, and the least cost of it."""
    groups = [np.flatnonzero(given.owner == owner).tolist() for owner in range(given.owners)]
    found = []
    for chosen in itertools.product(*groups):
        cost, worth = given.cost_cores[list(chosen)].sum(), given.worth[list(chosen)].sum()
        if cost <= budget_cores + 1e-9 * max(1.0, budget_cores):
            found.append((round(float(worth), 9), float(cost)))
    best = max(worth for worth, _ in found)
    return best, min(cost for worth, cost in found if worth == best)


@pytest.mark.parametrize("seed", range(120))
def test_it_is_as_good_as_brute_force(seed: int) -> None:
    random = np.random.default_rng(1000 + seed)
    given = choices(seed, int(random.integers(1, 6)), int(random.integers(1, 6)))
    budget_cores = budget_of(given, random.random())
    found, (worth, cost) = select(given, budget_cores, Deadline(60)), brute_force(given, budget_cores)
    assert found.worth == pytest.approx(worth, abs=1e-8)
    assert found.cost_cores == pytest.approx(cost, abs=1e-6)
    assert found.termination is Termination.OPTIMAL
    assert found.bound == found.worth
    assert found.relaxed >= found.worth - 1e-9
    assert sorted(given.owner[found.chosen].tolist()) == list(range(given.owners))


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_hundreds_of_owners_are_proved(kind: int) -> None:
    given = choices(6 * 100 + kind, 300, 30)
    budget_cores = budget_of(given, 0.4)
    found = select(given, budget_cores, Deadline(60))
    assert found.termination is Termination.OPTIMAL
    assert found.cost_cores <= budget_cores * (1 + 1e-9)
    assert found.worth <= found.relaxed + 1e-9
    # The relaxation is as far away as one step of one owner at the most.
    assert found.relaxed - found.worth <= found.price * 40


def test_a_budget_without_end_takes_the_best_of_each_at_no_price() -> None:
    given = choices(0, 20, 8)
    found = select(given, inf, Deadline(60))
    best = [given.worth[given.owner == owner].max() for owner in range(20)]
    assert found.worth == pytest.approx(sum(best))
    assert found.price == 0.0


def test_of_equally_good_selections_the_cheaper_is_taken() -> None:
    given = Choices(2, np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 1.0, 3.0]), np.array([1.0, 2.0, 1.0, 2.0]))
    # One of the two may have its better choice; that of the first costs less.
    found = select(given, 4.5, Deadline(60))
    assert (found.worth, found.cost_cores) == (3.0, 3.0)


def test_a_budget_below_the_cheapest_choices_is_refused() -> None:
    given = choices(1, 5, 4)
    with pytest.raises(ValueError, match="do not hold the cheapest choices"):
        select(given, budget_of(given, 0.0) - 1e-3, Deadline(60))


def test_without_time_it_says_how_good_it_could_be() -> None:
    given = choices(0, 60, 20)
    budget_cores = budget_of(given, 0.37)
    hurried, calm = select(given, budget_cores, Deadline(0.0)), select(given, budget_cores, Deadline(60))
    assert hurried.termination is Termination.FEASIBLE
    assert hurried.cost_cores <= budget_cores
    assert hurried.worth <= calm.worth + 1e-9 <= hurried.bound + 2e-9


def test_the_hull_is_that_of_the_undominated_choices() -> None:
    owner = np.zeros(6, dtype=np.intp)
    cost, worth = np.array([3.0, 1, 2, 4, 4, 5]), np.array([4.0, 1, 1.5, 5, 4.5, 4.9])
    kept = undominated_choices(owner, cost, worth)
    assert kept.tolist() == [1, 2, 0, 3]
    hull = hull_of(owner[kept], cost[kept], worth[kept], 1)
    assert hull.to.tolist() == [2, 3]
    assert hull.slope.tolist() == [1.5, 1.0]
    broken = break_of(hull, cost[kept], worth[kept], 3.5)
    assert (broken.price, broken.bound) == (1.0, 4.5)
