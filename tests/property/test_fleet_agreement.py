"""The fleet's plan is the best there is, by one joint program in two solvers.

`test_planner_agreement` compares smaller fleets of any graphs with enumeration.
"""

from __future__ import annotations

from random import Random

import pytest

from ipa.model.errors import InfeasibleError
from ipa.model.plan import Termination
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from tests.amounts import many
from tests.fakes.fleets import best_by_milp, chain_fleet

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
