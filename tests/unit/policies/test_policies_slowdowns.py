"""Plans and predictions of a world in which variants take longer than their profiles say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.observation import Forecast, Missing, MissingReason, Observation
from ipa.model.pipeline import Objective
from ipa.model.profile import AS_MEASURED, ProfilePoint, Slowdown
from ipa.optimize.problem import Compat
from ipa.policies.base import PolicyState, corrected
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("pages", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
SLOW = (Slowdown("detect", "small", 1.4), Slowdown("read", "big", 1.2))
# The same world, said by the profiles themselves.
SLOWED_PROFILES = {name: profile.slowed(SLOW) for name, profile in PROFILES.items()}
PROFILED = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"), compat=Compat.TAIL)
TRUE = Profiled(PlannerInputs(PIPELINE, SLOWED_PROFILES, solver="exact"), compat=Compat.TAIL)


def test_a_profile_that_is_slowed_takes_longer_and_carries_less() -> None:
    point = ProfilePoint(1.0, 4, 0.3, 0.2, 20.0)
    assert point.slowed(2.0) == ProfilePoint(1.0, 4, 0.6, 0.4, 10.0)
    assert ProfilePoint(1.0, 4, 0.3).slowed(2.0) == ProfilePoint(1.0, 4, 0.6)
    slowed = PROFILES["detect"].slowed(SLOW)
    small, big = PROFILES["detect"].variant("small"), PROFILES["detect"].variant("big")
    assert slowed.variant("big") == big
    assert slowed.variant("small") == replace(small, points=tuple(it.slowed(1.4) for it in small.points))
    assert PROFILES["detect"].slowed(AS_MEASURED) == PROFILES["detect"]


@pytest.mark.parametrize("rate_rps", [2.0, 8.0, 20.0, 35.0])
def test_plans_with_slowdowns_are_those_of_profiles_that_say_so(rate_rps: float) -> None:
    plan = PROFILED.plan(replace(PIPELINE, slowdowns=SLOW), rate_rps)
    true = TRUE.plan(PIPELINE, rate_rps)
    assert plan.configs == true.configs and plan.configs
    assert plan.latency_s == pytest.approx(true.latency_s)
    plain = PROFILED.plan(PIPELINE, rate_rps)
    assert plain.objective is not None and plan.objective is not None
    assert plan.objective <= plain.objective
    for ratio in (1.0, 0.7):
        shorter = PROFILED.probe(replace(PIPELINE, slowdowns=SLOW), rate_rps, (), ratio)
        assert shorter.configs == TRUE.probe(PIPELINE, rate_rps, (), ratio).configs


def test_predictions_with_slowdowns_are_those_of_profiles_that_say_so() -> None:
    slow, true = PROFILED.predict(SMALLEST, 5.0, SLOW), TRUE.predict(SMALLEST, 5.0)
    plain = PROFILED.predict(SMALLEST, 5.0)
    assert slow is not None and true is not None and plain is not None
    assert slow.latency_s == pytest.approx(true.latency_s) and slow.latency_s > plain.latency_s
    assert slow.capacities_rps == pytest.approx(true.capacities_rps)
    assert slow.capacities_rps[0] == pytest.approx(plain.capacities_rps[0] / 1.4)
    # What is compared with what is seen stays that of the profile.
    assert slow.services == plain.services
    assert corrected(PROFILED.predict, SLOW)(SMALLEST, 5.0) == slow
    assert corrected(PROFILED.predict, AS_MEASURED) == PROFILED.predict


def test_services_are_those_of_the_profile_whatever_margins_are_planned_with() -> None:
    wary = Objective(beta=0.02, latency_margin_ratio=0.5, throughput_margin_ratio=-0.2)
    pipeline = replace(PIPELINE, objectives={"default": wary})
    known = Profiled(PlannerInputs(pipeline, PROFILES, solver="exact")).predict(SMALLEST, 1.0)
    plain = PROFILED.predict(SMALLEST, 1.0)
    assert known is not None and plain is not None
    for service, bare, stage in zip(known.services, plain.services, ("detect", "read"), strict=True):
        assert (service.full_s, service.one_s) == pytest.approx((bare.full_s, bare.one_s))
        at = next(it for it in PROFILES[stage].variant("small").points if (it.cores, it.batch_size) == (1, 1))
        assert service.full_s == pytest.approx(at.latency_s)


def test_a_stages_time_is_linear_from_one_item_to_a_full_batch() -> None:
    config = replace(SMALLEST[0], batch_size=8)
    known = PROFILED.predict((config, SMALLEST[1]), 1.0)
    assert known is not None
    points = {
        it.batch_size: it.latency_s for it in PROFILES["detect"].variant("small").points if it.cores == 1
    }
    assert known.services[0].mean_s(1, 8) == pytest.approx(points[1])
    assert known.services[0].mean_s(8, 8) == pytest.approx(points[8])
    assert known.services[0].mean_s(4.5, 8) == pytest.approx((points[1] + points[8]) / 2)


@pytest.mark.parametrize("name", ["ours", "ours-frugal", "ipa", "fa2-low", "rim"])
def test_every_policy_that_plans_heeds_them(name: str) -> None:
    forecast = Forecast(12.0, 12.0, 0.95, 20.0, "given", 1.0)
    inputs = PolicyInputs(PIPELINE, PROFILES, solver="exact")
    policy = make_policy(name, inputs)
    slow = tuple(Slowdown(stage, "small", 2.5) for stage in ("detect", "read"))
    slow += tuple(Slowdown(stage, "big", 2.5) for stage in ("detect", "read"))
    plain, plan = (
        policy.decide(SEEN, forecast, PolicyState(SMALLEST, slowdowns=each)) for each in (AS_MEASURED, slow)
    )
    assert plan.stages and plain.stages
    slowed = {key: profile.slowed(slow) for key, profile in PROFILES.items()}
    true = Profiled(PlannerInputs(PIPELINE, slowed), compat=Compat.PAPER)
    prediction = true.predict(plan.configs, plan.rate_rps)
    assert prediction is not None and prediction.carries
    before = true.predict(plain.configs, plain.rate_rps)
    assert before is not None and not before.carries
