"""The default policy with parts that share the load: worth no less than one plan, and slow to change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ipa.model.errors import UsageError
from ipa.model.forecast import Forecast
from ipa.model.observation import Missing, MissingReason, Observation
from ipa.model.parts import in_order, is_shared, only_shares, parts_of, share_of, with_share
from ipa.model.pipeline import Goal, Objective, Pin
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.base import Configs, PolicyState
from ipa.policies.mixing import STEP_PERCENT, WORTH_STARTING_RATIO
from ipa.policies.table import PolicyInputs, make_policy
from ipa.targets.seldon.shape import at_cluster
from tests.fakes.mixed import PROFILES
from tests.fakes.mixed import SHOP as LOCAL

SHOP = at_cluster(LOCAL)
INPUTS = PolicyInputs(SHOP, PROFILES, solver="exact", rolling=DEPLOYMENT)
POLICY = make_policy("ours", INPUTS)
ALONE = make_policy("ours", replace(INPUTS, pipeline=replace(SHOP, max_predictors=1)))
ABSENT = Missing(MissingReason.ABSENT)
SEEN = Observation("shop", 0.0, ABSENT, ABSENT, ABSENT, ())


def forecast(rate_rps: float) -> Forecast:
    # The same point and peak, so that nothing may wait for a peak to pass.
    return Forecast(rate_rps, rate_rps, 0.95, 20.0, "test", 20.0)


def plan_of(rate_rps: float, running: Configs = (), **state: object):  # type: ignore[no-untyped-def]
    return POLICY.decide(SEEN, forecast(rate_rps), PolicyState(running, **state))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate_rps", [20.0, 60.0, 90.0, 110.0, 130.0, 170.0, 210.0])
def test_no_plan_is_worth_less_than_the_best_single_one(rate_rps: float) -> None:
    single = ALONE.decide(SEEN, forecast(rate_rps), PolicyState(()))
    assert single.objective is not None
    running: Configs = ()
    for _ in range(3):
        plan = plan_of(rate_rps, running)
        assert plan.objective is not None and plan.objective >= single.objective - 1e-9
        if is_shared(plan.configs):
            assert plan.single is not None and plan.single.configs == single.configs
            assert plan.gain == pytest.approx(plan.objective - single.objective)
            assert plan.gain > WORTH_STARTING_RATIO * plan.objective
            assert all(share_of(part) % STEP_PERCENT == 0 for part in parts_of(plan.configs))
            predicted = INPUTS.predictor()(plan.configs, rate_rps)
            assert predicted is not None and predicted.feasible
            assert predicted.objective == pytest.approx(plan.objective)
        running = plan.configs
    assert plan.configs == running


def test_shares_stay_while_the_parts_carry_the_load_and_move_before_parts_change() -> None:
    before = plan_of(110.0).configs
    assert is_shared(before)
    # A little less or more is no reason to move requests.
    assert plan_of(108.0, before).configs == before
    assert plan_of(111.0, before).configs == before
    # Shares at which one part has too much: the same parts take others, since that starts nothing.
    first, second = sorted(parts_of(before), key=lambda part: part[1].variant)
    skewed = in_order([with_share(first, 80), with_share(second, 20)])
    lacking = INPUTS.predictor()(skewed, 110.0)
    assert lacking is None or not lacking.feasible
    moved = plan_of(110.0, skewed).configs
    assert moved != skewed and only_shares(skewed, moved)
    # Where no shares help, parts change.
    assert not only_shares(before, plan_of(140.0, before).configs)


@pytest.mark.parametrize("most_rps", [100.0, 105.0, 110.0, 115.0, 120.0, 125.0])
def test_a_load_that_scatters_by_some_percent_takes_nothing_back(most_rps: float) -> None:
    running = plan_of(most_rps).configs
    rows = [running]
    for rate_rps in [0.97 * most_rps, most_rps] * 3:
        running = plan_of(rate_rps, running).configs
        rows.append(running)
    assert sum(before != after for before, after in pairwise(rows)) <= 1


def test_a_load_that_falls_ends_the_mixture() -> None:
    before = plan_of(110.0).configs
    assert not is_shared(plan_of(40.0, before).configs)


def test_pins_and_excluded_variants_hold_for_every_part() -> None:
    pinned = plan_of(110.0, pins=(("classify", Pin(variant="middle")),))
    assert {it.variant for it in pinned.configs if it.stage == "classify"} == {"middle"}
    running = plan_of(110.0).configs
    assert {it.variant for it in running if it.stage == "classify"} == {"high", "middle"}
    other = plan_of(110.0, running, excluded=frozenset({("classify", "high")}))
    assert "high" not in {it.variant for it in other.configs}


def test_additions_alone_grow_each_part_for_its_share_and_move_nothing() -> None:
    wide = replace(SHOP, bounds=replace(SHOP.bounds, cores=40.0))
    policy = make_policy("ours", replace(INPUTS, pipeline=wide))
    running = plan_of(110.0).configs
    plan = policy.decide(SEEN, forecast(160.0), PolicyState(running, only_more=True))
    assert len(plan.configs) == len(running) and plan.carried_rps == pytest.approx(160.0)
    for old, new in zip(running, plan.configs, strict=True):
        assert (old.stage, old.variant, old.share_percent) == (new.stage, new.variant, new.share_percent)
        assert new.replicas >= old.replicas
    assert sum(it.replicas for it in plan.configs) > sum(it.replicas for it in running)
    # Without room it stays, and says what it carries.
    held = plan_of(300.0, running, only_more=True)
    assert held.configs == running and "carries" in held.note


def test_a_part_that_waits_for_requests_is_no_benchmark_and_gets_some_or_goes() -> None:
    first, second = parts_of(plan_of(110.0).configs)
    begun = in_order([with_share(first, 100), with_share(second, 0)])
    assert POLICY.at_once(begun)  # type: ignore[attr-defined]
    plan = plan_of(110.0, begun)
    assert all(it.share_percent for it in plan.configs)


def test_sets_of_one_stage_may_have_three_parts() -> None:
    (_, classify) = LOCAL.stages
    alone = replace(LOCAL, stages=(replace(classify, after=()),), max_predictors=1, sets=True)
    assert alone.most_parts == 3
    profiles = {"classify": PROFILES["classify"]}
    policy = make_policy("ours", PolicyInputs(alone, profiles, solver="exact"))
    plan = policy.decide(SEEN, forecast(200.0), PolicyState(()))
    assert is_shared(plan.configs)


def test_another_goal_than_weighted_is_refused() -> None:
    lexicographic = replace(SHOP, objectives={"default": Objective(goal=Goal.LEXICOGRAPHIC)})
    with pytest.raises(UsageError, match=r"planned for the goal weighted.* is lexicographic"):
        make_policy("ours", replace(INPUTS, pipeline=lexicographic))
    make_policy("ours", replace(INPUTS, pipeline=replace(lexicographic, max_predictors=1)))


def test_the_running_parts_go_if_the_bounds_no_longer_allow_them() -> None:
    running = plan_of(110.0).configs
    least = replace(SHOP, bounds=replace(SHOP.bounds, cores=6.0))
    policy = make_policy("ours", replace(INPUTS, pipeline=least))
    plan = policy.decide(SEEN, forecast(60.0), PolicyState(running))
    assert not least.bounds.exceeded(plan.configs) and plan.configs != running


def test_of_shares_that_are_worth_the_same_one_is_taken() -> None:
    # Two parts of the same variants: requests may go to either.
    first, _ = parts_of(plan_of(110.0).configs)
    twice = in_order([with_share(first, 100), with_share(first, 0)])
    wide = replace(SHOP, bounds=replace(SHOP.bounds, cores=40.0))
    policy = make_policy("ours", replace(INPUTS, pipeline=wide))
    plan = policy.decide(SEEN, forecast(90.0), PolicyState(twice))
    assert plan.configs == policy.decide(SEEN, forecast(90.0), PolicyState(twice)).configs
