"""The plan of a fleet: what is refused and why, priorities, weights, proof and time."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from unittest.mock import patch

import pytest

from experiments.bench_fleet import least_cores, random_fleet
from ipa.model.errors import DeadlineError, InfeasibleError, InputError
from ipa.model.pipeline import Bounds
from ipa.model.plan import Termination
from ipa.optimize.backends import highs
from ipa.optimize.describe import describe
from ipa.optimize.fleet.master import FleetPlan
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve

FLEET = random_fleet(pipelines=12, stages=3, variants=4, batches=4, seed=3)


def worth_by_single_plans(members: list[Member]) -> float:
    return sum(member.weight * (solve(member.problem, "exact").objective or 0.0) for member in members)


def middle_budget(members: list[Member]) -> float:
    least, most = least_cores(members), plan_fleet(members, inf).cost_cores
    return least + 0.4 * (most - least)


def test_without_a_budget_everyone_has_the_best_plan_of_its_own() -> None:
    plan = plan_fleet(FLEET, inf)
    assert plan.termination is Termination.OPTIMAL
    assert plan.worth == pytest.approx(worth_by_single_plans(FLEET), rel=1e-9)
    assert plan.price == 0.0
    assert [each.plan.pipeline for each in plan.members] == [member.problem.pipeline for member in FLEET]


@pytest.mark.parametrize("timeout_s", [None, 0.001, 0.05])
def test_batches_wait_as_long_in_a_fleet_as_alone(timeout_s: float | None) -> None:
    members = []
    for member in FLEET[:4]:
        stages = tuple(replace(stage, batch_timeout_s=timeout_s) for stage in member.problem.stages)
        members.append(replace(member, problem=replace(member.problem, stages=stages, rate_rps=4.0)))
    plan = plan_fleet(members, inf)
    assert plan.worth == pytest.approx(worth_by_single_plans(members), rel=1e-9)


def test_members_add_up_and_hold_their_own_limits() -> None:
    budget_cores = middle_budget(FLEET)
    with patch.object(highs, "maximise", wraps=highs.maximise) as maximise:
        plan = plan_fleet(FLEET, budget_cores)
    # HiGHS proves the best far sooner with whole cores than with shares of the budget.
    assert all(cores.is_integer() for cores in maximise.call_args_list[0].args[0].rows[-1].coefficients)
    assert plan.cost_cores <= budget_cores
    assert plan.cost_cores == pytest.approx(sum(each.plan.cost_cores or 0.0 for each in plan.members))
    assert plan.worth == pytest.approx(sum(each.worth for each in plan.members))
    assert plan.gap == 0.0
    assert plan.price > 0
    for member, each in zip(FLEET, plan.members, strict=True):
        assert each.plan == describe(member.problem, each.plan.configs)
        assert each.plan.objective == pytest.approx(each.worth / each.weight, rel=1e-9)
        assert each.plan.latency_s is not None
        assert each.plan.latency_s <= member.problem.sla_s * (1 + 1e-9)


def test_the_price_is_what_a_little_more_budget_brings() -> None:
    budget_cores = middle_budget(FLEET)
    less, more = plan_fleet(FLEET, budget_cores), plan_fleet(FLEET, budget_cores + 40)
    gain = (more.worth - less.worth) / 40
    assert more.price * 0.5 <= gain <= less.price * 1.5


def test_more_weight_brings_more_of_the_budget() -> None:
    budget_cores = middle_budget(FLEET)
    before = plan_fleet(FLEET, budget_cores).members[0]
    heavy = [replace(FLEET[0], weight=1000.0), *FLEET[1:]]
    after = plan_fleet(heavy, budget_cores).members[0]
    assert (after.plan.objective or 0.0) >= (before.plan.objective or 0.0)
    assert after.plan.objective == pytest.approx(solve(FLEET[0].problem, "exact").objective, rel=1e-9)


def test_too_small_a_budget_says_how_many_cores_are_missing() -> None:
    least = least_cores(FLEET)
    assert plan_fleet(FLEET, least).cost_cores == pytest.approx(least)
    with pytest.raises(InfeasibleError, match=r"the plans need at least .*, that is 2 more"):
        plan_fleet(FLEET, least - 2)


def hopeless(member: Member, compat: Compat = Compat.PAPER) -> Member:
    return replace(member, problem=replace(member.problem, sla_s=1e-4, compat=compat))


@pytest.mark.parametrize("compat", list(Compat))
def test_pipelines_without_a_plan_are_named_with_the_reason(compat: Compat) -> None:
    members = [hopeless(FLEET[0]), *FLEET[1:6], hopeless(FLEET[6], compat), *FLEET[7:]]
    # The released formula shortens the wait so far that a plan there always is.
    expected = ["p0"] if compat is Compat.IPA_ARTIFACT else ["p0", "p6"]
    with pytest.raises(InfeasibleError) as caught:
        plan_fleet(members, inf)
    assert f"{len(expected)} of the 12 pipelines have no plan" in caught.value.message
    assert len(caught.value.problems) == len(expected)
    for name, fault in zip(expected, caught.value.problems, strict=True):
        assert f"pipeline {name!r} at" in fault.message
        assert "it would need SLA ≥" in fault.message


def test_limits_that_only_together_leave_no_plan_are_found() -> None:
    # Every stage alone fits; the cheapest chain is too slow, the fastest too dear.
    member = FLEET[1]
    cheapest = least_cores([member])
    tight = replace(member.problem, bounds=Bounds(cores=cheapest - 1e-3))
    with pytest.raises(InfeasibleError, match="1 of the 1 pipelines have no plan"):
        plan_fleet([replace(member, problem=tight)], inf)
    loose = replace(member.problem, bounds=Bounds(cores=cheapest))
    assert plan_fleet([replace(member, problem=loose)], inf).cost_cores == pytest.approx(cheapest)


def test_what_makes_no_sense_is_refused_all_at_once() -> None:
    members = [replace(FLEET[0], weight=0.0), replace(FLEET[1], weight=inf), FLEET[2], FLEET[2]]
    with pytest.raises(InputError) as caught:
        plan_fleet(members, float("nan"))
    assert len(caught.value.problems) == 4
    with pytest.raises(InputError, match="there are no pipelines"):
        plan_fleet([], 10.0)


def test_all_kinds_of_problems_share_one_budget() -> None:
    kinds = [
        replace(FLEET[0].problem, compat=Compat.TAIL),
        replace(FLEET[1].problem, bounds=Bounds(accuracy_floor=0.2, max_replicas=50)),
        replace(FLEET[2].problem, objective=replace(FLEET[2].problem.objective, beta=1e-6)),
        FLEET[3].problem,
    ]
    members = [Member(problem) for problem in kinds]
    plan = plan_fleet(members, inf)
    for problem, each in zip(kinds, plan.members, strict=True):
        assert each.plan.objective == pytest.approx(solve(problem, "exact").objective, rel=1e-9)
    tight = plan_fleet(members, 0.7 * plan.cost_cores)
    assert tight.termination is Termination.OPTIMAL
    assert tight.cost_cores <= 0.7 * plan.cost_cores
    assert tight.worth < plan.worth


def test_copies_of_one_pipeline_are_no_harder() -> None:
    members = [Member(replace(FLEET[0].problem, pipeline=f"copy {at}", rate_rps=20.0)) for at in range(230)]
    free = plan_fleet(members, inf)
    plan = plan_fleet(members, 0.8 * free.cost_cores)
    assert plan.termination is Termination.OPTIMAL
    assert plan.cost_cores <= 0.8 * free.cost_cores


def test_without_time_there_is_no_plan() -> None:
    with pytest.raises(DeadlineError):
        plan_fleet(FLEET, middle_budget(FLEET), 0.0)


def test_a_sample_finds_the_price_of_a_large_fleet() -> None:
    members = random_fleet(pipelines=120, stages=2, variants=3, batches=3, seed=5)
    budget_cores = middle_budget(members)
    plan: FleetPlan = plan_fleet(members, budget_cores, 60.0)
    assert plan.termination is Termination.OPTIMAL
    # No subset of it could do better alone: a part with the cores it has got is planned the same.
    part = list(range(0, 120, 5))
    cores = sum(plan.members[at].plan.cost_cores or 0.0 for at in part)
    alone = plan_fleet([members[at] for at in part], cores, 60.0)
    assert alone.worth == pytest.approx(sum(plan.members[at].worth for at in part), rel=1e-9)
