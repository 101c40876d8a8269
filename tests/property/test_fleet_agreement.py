"""The fleet's plan is the best there is, by one joint program in two solvers, and within all resources."""

from __future__ import annotations

from math import inf
from random import Random

import numpy as np
import pytest

from ipa.model.errors import InfeasibleError
from ipa.model.plan import Termination
from ipa.model.resources import CORES, total
from ipa.optimize.describe import describe
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from tests.amounts import many
from tests.fakes.fleets import Uses, best_by_milp, best_of_all, chain_fleet, resource_fleet
from tests.fakes.planner_graphs import GPU

GROUP = 10


def planned(members: list[Member], budget_cores: float) -> FleetPlan | None:
    try:
        plan = plan_fleet(members, budget_cores, 60.0)
    except InfeasibleError:
        return None
    assert plan.termination is Termination.OPTIMAL
    assert plan.cost_cores <= budget_cores + 1e-9 * max(1.0, budget_cores)
    return plan


def budgets(random: Random, members: list[Member]) -> list[float]:
    """From less than the least to more than the most that the fleet would take."""
    free = planned(members, float("inf"))
    most = free.cost_cores if free is not None else 10.0
    return [most * random.uniform(0.1, 1.1) for _ in range(2)]


@pytest.mark.parametrize("group", range(many(2)))
def test_chains_agree_with_one_joint_program(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        random = Random(seed)
        members = chain_fleet(random)
        solver = ("gurobi", "highs")[seed % 2]
        for budget_cores in budgets(random, members):
            plan, expected = planned(members, budget_cores), best_by_milp(members, budget_cores, solver)
            assert (plan is None) == (expected is None), seed
            if plan is not None:
                assert plan.worth == pytest.approx(expected, rel=1e-7, abs=1e-7), seed


def test_the_fleets_are_feasible_and_infeasible() -> None:
    fleets = [chain_fleet(Random(seed)) for seed in range(60)]
    feasible = sum(planned(fleet, float("inf")) is not None for fleet in fleets)
    assert 10 < feasible < 50


BOUND_GROUP = 14
NAMES = (CORES, "memory", GPU)


def planned_within(members: list[Member], most: list[float]) -> FleetPlan | None:
    budget_cores, memory_gib, gpus = most
    try:
        return plan_fleet(members, budget_cores, 60.0, {"memory": memory_gib, GPU: gpus})
    except InfeasibleError:
        return None


def budget_of(random: Random, uses: list[Uses]) -> list[float]:
    """From a little less than the least of each resource to all that the fleet could have."""
    least = np.sum([use.min(axis=0) for use, _ in uses], axis=0)
    most = np.sum([use.max(axis=0) for use, _ in uses], axis=0)
    shares = [random.choice([-0.02, 0.1, 0.3, 0.6, 1.0]) for _ in NAMES]
    cores, memory_gib, gpus = least + np.array(shares) * (most - least)
    return [max(0.0, cores), max(0.0, memory_gib), max(0.0, round(gpus))]


@pytest.mark.parametrize("group", range(many(1)))
def test_all_resources_agree_with_enumeration(group: int) -> None:
    for seed in range(group * BOUND_GROUP, (group + 1) * BOUND_GROUP):
        random = Random(seed)
        members, uses = resource_fleet(random)
        most = budget_of(random, uses)
        expected = best_of_all(members, uses, most)
        check(planned_within(members, most), expected, members, most, seed)


def check(
    plan: FleetPlan | None,
    expected: float | None,
    members: list[Member],
    most: list[float],
    where: int,
) -> None:
    """The plan has the worths that enumeration finds, within the limits, and is as it is described."""
    assert (plan is None) == (expected is None), (where, most)
    if plan is None:
        return
    assert plan.termination is Termination.OPTIMAL, where
    assert plan.worth == pytest.approx(expected, rel=1e-7, abs=1e-7), where
    held = total(
        member.problem.resources(each.plan.configs)
        for member, each in zip(members, plan.members, strict=True)
    )
    assert held.amounts == pytest.approx(plan.held.amounts), where
    assert not held.exceeded(dict(zip(NAMES, most, strict=True))), where
    assert plan.cost_cores == pytest.approx(held.cpu_cores), where
    for member, each in zip(members, plan.members, strict=True):
        if not member.problem.running:
            done = describe(member.problem, each.plan.configs)
            assert done is not None
            assert each.worth / each.weight == pytest.approx(done.objective, rel=1e-9, abs=1e-9), where


def test_the_fleets_are_bound_by_each_resource_and_by_none() -> None:
    bound, kinds = set(), set()
    every = {(name, binds) for name in NAMES for binds in (True, False)}
    for seed in range(60):
        if bound == every and len(kinds) == 2:
            break
        random = Random(seed)
        members, uses = resource_fleet(random)
        most = budget_of(random, uses)
        best = best_of_all(members, uses, most)
        kinds.add(best is None)
        for at, name in enumerate(NAMES):
            if best is not None:
                loose = [inf if number == at else limit for number, limit in enumerate(most)]
                free = best_of_all(members, uses, loose)
                bound.add((name, free is not None and free > best + 1e-6))
    assert kinds == {True, False}
    assert bound == every
