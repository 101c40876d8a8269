"""A fleet within memory and accelerators: priorities, prices, what is missing, and a budget of nothing."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from ipa.model.errors import DeadlineError, InfeasibleError, InputError
from ipa.model.pipeline import Objective
from ipa.model.plan import Termination
from ipa.model.profile import OperatingPoint
from ipa.model.resources import Prices, in_column
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet.master import FleetPlan, Master, Offer
from ipa.optimize.fleet.plan import Member, plan_fleet, refuse
from ipa.optimize.problem import Array, Index, PlanningProblem, StageProblem

GPU = "nvidia.com/gpu"


def point(
    variant: str, accuracy: float, cores: float, memory_gib: float, gpus: float = 0.0
) -> OperatingPoint:
    held = {GPU: gpus} if gpus else {}
    return OperatingPoint(variant, accuracy, 1, cores, 0.01, 100.0, memory_gib=memory_gib, accelerators=held)


# Accuracy 0.5 on 4 cores and 1 GiB, 0.7 on 1 core and 6 GiB, 0.9 on a GPU with 2 cores and 4 GiB.
POINTS = (point("small", 0.5, 4, 1), point("wide", 0.7, 1, 6), point("best", 0.9, 2, 4, 1))


def member(
    name: str,
    points: tuple[OperatingPoint, ...] = POINTS,
    weight: float = 1.0,
    prices: Prices | None = None,
) -> Member:
    objective = Objective(alpha=10.0, beta=1.0 if prices else 0.0, delta=0.0)
    stages = (StageProblem("s", points),)
    problem = PlanningProblem(name, 50.0, 1.0, stages, objective, prices=prices or Prices())
    return Member(problem, weight)


def variants(fleet: FleetPlan) -> list[str]:
    return [each.plan.stages[0].variant for each in fleet.members]


def planned(members: list[Member], cores: float, memory_gib: float, gpus: float) -> FleetPlan:
    return plan_fleet(members, cores, 5.0, {"memory": memory_gib, GPU: gpus})


def test_each_resource_binds_by_itself() -> None:
    three = [member(name) for name in "abc"]
    assert variants(planned(three, 6, 12, 3)) == ["best", "best", "best"]
    assert sorted(variants(planned(three, 6, 14, 2))) == ["best", "best", "wide"]
    assert sorted(variants(planned(three, 100, 9, 3))) == ["best", "best", "small"]
    assert sorted(variants(planned(three, 100, 100, 0))) == ["wide", "wide", "wide"]
    # Enough GPUs and memory, but 2 + 2 + 2 cores are one too many.
    assert sorted(variants(planned(three, 5, 100, 3))) == ["best", "best", "wide"]


def test_the_heavier_pipeline_gets_the_gpu() -> None:
    pair = [member("a"), member("b", weight=2.0)]
    assert variants(planned(pair, 100, 100, 1)) == ["wide", "best"]


def test_a_pipeline_without_variants_for_a_resource_takes_none_of_it() -> None:
    trio = [member("a", POINTS[:2]), member("b"), member("c")]
    assert variants(planned(trio, 100, 100, 2)) == ["wide", "best", "best"]
    assert sorted(variants(planned(trio, 100, 100, 1))) == ["best", "wide", "wide"]


@pytest.mark.parametrize(
    ("name", "amount", "column"),
    [("cores", 2.0, "2 cores"), ("memory", 38.0, "38 GiB"), (GPU, 2.0, "2"), ("memory", 0.5, "0.5 GiB")],
)
def test_a_column_has_the_unit_of_a_dimension_alone(name: str, amount: float, column: str) -> None:
    """The name of an accelerator is the column's."""
    assert in_column(name, amount) == column


def test_the_fleet_says_use_and_budget_of_each_resource() -> None:
    fleet = planned([member("a"), member("b")], 100, 10, 1).to_json()
    assert fleet["budget"] == {"cpu_cores": 100, "memory_gib": 10, GPU: 1}
    assert fleet["held"] == {"cpu_cores": 3, "memory_gib": 10, GPU: 1}
    assert (fleet["budget_cores"], fleet["cost_cores"]) == (100, 3)
    assert fleet["prices"].keys() == fleet["budget"].keys()
    assert fleet["prices"]["cpu_cores"] == fleet["price_per_core"] == 0
    # The last GPU brings accuracy 0.9 for 0.7, and memory for it.
    assert fleet["prices"][GPU] > 0
    unlimited = plan_fleet([member("a")], 100, 5.0).to_json()
    assert unlimited["budget"] == {"cpu_cores": 100}
    assert unlimited["held"] == {"cpu_cores": 2, "memory_gib": 4, GPU: 1}


def test_what_is_used_of_nothing_is_shown_as_zero() -> None:
    fleet = plan_fleet([member("a", POINTS[:2])], 100, 5.0, {GPU: 4}).to_json()
    assert fleet["held"][GPU] == 0


def test_prices_of_a_member_stay_in_its_objective() -> None:
    prices = Prices({"cores": 0.1, "memory": 0.05, GPU: 1.5}, is_money=True)
    members = [member(name, prices=prices) for name in "ab"]
    # small costs 0.45, wide 0.4, best 1.9: worth 4.55, 6.6 and 7.1.
    fleet = planned(members, 100, 100, 1)
    assert sorted(variants(fleet)) == ["best", "wide"]
    assert fleet.worth == pytest.approx(6.6 + 7.1)
    for each in fleet.members:
        assert each.worth == pytest.approx(each.plan.objective)
        assert each.plan.cost_usd_per_hour == pytest.approx(prices.cost(each.plan.resources))


def test_every_missing_resource_is_named_with_its_remedy() -> None:
    members = [member("a", POINTS[2:]), member("b", POINTS[2:])]
    with pytest.raises(InfeasibleError) as caught:
        planned(members, 3, 100, 1)
    assert caught.value.message == "the budget is too small for any plans of 2 pipelines together"
    assert [fault.message for fault in caught.value.problems] == [
        "3 cores: the plans need at least 4, that is 1 more",
        "1 nvidia.com/gpu: the plans need at least 2, that is 1 more",
    ]
    assert "Raise the budget to 4 cores and 2 nvidia.com/gpu or more" in caught.value.hint
    with pytest.raises(InfeasibleError) as caught:
        planned(members, 100, 7.5, 2)
    assert [fault.message for fault in caught.value.problems] == [
        "7.5 GiB of memory: the plans need at least 8, that is 0.5 more"
    ]


def test_resources_that_do_not_fit_together_are_said_to() -> None:
    # small needs 4 cores, wide 6 GiB; there are 3 and 4.
    with pytest.raises(InfeasibleError) as caught:
        plan_fleet([member("a", POINTS[:2])], 3, 5.0, {"memory": 4})
    assert "any plans of 1 pipeline: there is enough of each resource by itself" in caught.value.message
    assert "(1 core, 1 GiB of memory at the least)" in caught.value.message
    assert "Raise the budget of several resources" in caught.value.hint


def test_without_time_it_is_still_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="the time ran out before it was known what they need"):
        refuse([member("a").problem], {"cores": 3.0, "memory": 1.0}, Deadline(0.0))


def test_wrong_limits_are_all_refused() -> None:
    with pytest.raises(InputError) as caught:
        plan_fleet([member("a")], 4, 5.0, {"memory": -1.0, GPU: float("nan")})
    assert [fault.message for fault in caught.value.problems] == [
        "the budget of memory must be at least 0, not -1.0",
        "the budget of nvidia.com/gpu must be at least 0, not nan",
    ]


def test_without_time_there_is_no_plan() -> None:
    problems = [member("a").problem]
    with pytest.raises(DeadlineError):
        Master(problems, np.ones(1), {"cores": 4.0, "memory": 5.0}, Deadline(0.0))


def test_a_selection_found_in_time_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Offer.near

    def late(
        offer: Offer, share: float, prices: Array, known: float, window: float, deadline: Deadline
    ) -> Index:
        if share and prices.any():
            raise DeadlineError("the time ran out")
        return near(offer, share, prices, known, window, deadline)

    members = [member(name) for name in "abc"]
    proved = planned(members, 6, 14, 2)
    monkeypatch.setattr(Offer, "near", late)
    hurried = planned(members, 6, 14, 2)
    assert hurried.termination is Termination.FEASIBLE
    assert hurried.worth <= proved.worth <= hurried.bound + 1e-9


def test_an_unlimited_budget_is_no_limit() -> None:
    plan = plan_fleet([member("a"), member("b")], inf, 5.0, {"memory": 8.0})
    assert plan.termination is Termination.OPTIMAL
    assert variants(plan) == ["best", "best"]
