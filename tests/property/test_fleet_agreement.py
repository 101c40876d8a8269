"""The fleet's plan is the best there is: by one joint program in two solvers, and by enumeration."""

from __future__ import annotations

from random import Random

import pytest

from ipa.model.errors import InfeasibleError
from ipa.model.plan import Termination
from ipa.optimize.describe import describe
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from tests.amounts import many
from tests.fakes.fleets import best_by_enumeration, best_by_milp, chain_fleet, enumerated, graph_fleet

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


@pytest.mark.parametrize("group", range(many(1)))
def test_any_graphs_agree_with_enumeration(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        random = Random(seed)
        members = graph_fleet(random)
        plans = [enumerated(member.problem) for member in members]
        weights = [member.weight for member in members]
        for budget_cores in budgets(random, members):
            plan = planned(members, budget_cores)
            expected = best_by_enumeration(plans, weights, budget_cores)
            assert (plan is None) == (expected is None), seed
            if plan is not None:
                assert plan.worth == pytest.approx(expected, rel=1e-9, abs=1e-9), seed


@pytest.mark.parametrize("group", range(many(1)))
def test_what_is_said_of_a_plan_is_what_it_would_do(group: int) -> None:
    for seed in range(1000 + group * GROUP, 1000 + (group + 1) * GROUP):
        random = Random(seed)
        members = chain_fleet(random)
        plan = planned(members, float("inf"))
        for member, each in zip(members, plan.members if plan else (), strict=plan is not None):
            done = describe(member.problem, each.configs)
            assert done is not None
            assert each.objective == pytest.approx(done.objective, rel=1e-9, abs=1e-9), seed
            assert each.cost_cores == pytest.approx(done.cost_cores, rel=1e-12, abs=1e-12), seed
            assert done.latency_s is not None
            assert done.latency_s <= member.problem.sla_s * (1 + 1e-9), seed


def test_the_fleets_are_feasible_and_infeasible() -> None:
    fleets = [chain_fleet(Random(seed)) for seed in range(60)]
    feasible = sum(planned(fleet, float("inf")) is not None for fleet in fleets)
    assert 10 < feasible < 50
