"""The price of a change, and smaller plans that are taken back: each makes the next one dearer."""

from __future__ import annotations

import re
from dataclasses import replace

from ipa.control.engine.stabiliser import FORGET_S, NO_ROW, TAKEN_BACK_S, UNDAMPED, FlapDamping
from ipa.model.decision import ReasonCode
from ipa.model.pipeline import Pin
from ipa.policies.ours import Ours
from tests.fakes.world import PIPELINE, planner, scenario

PLAN = planner(PIPELINE, 10.0)


def cost_ratio(damping: FlapDamping, *, rate_rps: float = 10.0, now_s: float = 0.0) -> int:
    """How many times as much the change to a plan for that rate costs."""
    return damping.cost_ratio(replace(PLAN, rate_rps=rate_rps), now_s)


def test_each_smaller_plan_that_is_taken_back_doubles_the_cost_up_to_a_bound() -> None:
    damping, ratios = UNDAMPED, []
    for number in range(12):
        now_s = 100.0 * number
        damping = damping.shrunk(now_s).grown(10.0, now_s + 50.0)
        ratios.append(cost_ratio(damping, now_s=now_s + 50.0))
    assert ratios[:4] == [2, 4, 8, 16]
    assert ratios[-1] == 64


def test_a_plan_that_stayed_long_enough_was_no_mistake() -> None:
    damping = UNDAMPED.shrunk(0.0).grown(10.0, TAKEN_BACK_S + 1)
    assert cost_ratio(damping, now_s=TAKEN_BACK_S + 2) == 1
    # Nor is one that grew twice.
    twice = UNDAMPED.shrunk(0.0).grown(10.0, 10.0).grown(12.0, 20.0)
    assert cost_ratio(twice, now_s=30.0) == 2


def test_it_is_forgotten_after_an_hour_and_where_the_load_is_another() -> None:
    damped = UNDAMPED.shrunk(0.0).grown(10.0, 10.0).shrunk(20.0).grown(10.0, 30.0)
    assert cost_ratio(damped, now_s=40.0) == 4
    assert cost_ratio(damped, rate_rps=6.0, now_s=40.0) == 1
    assert cost_ratio(damped, now_s=31.0 + FORGET_S) == 1
    later = damped.shrunk(30.0 + FORGET_S).grown(10.0, 31.0 + FORGET_S)
    assert cost_ratio(later, now_s=32.0 + FORGET_S) == 2


def test_a_plan_is_remembered_since_the_last_higher_rate() -> None:
    row = NO_ROW
    for rate_rps in (3.0, 9.0, 4.0, 2.0, 5.0, 1.0):
        row = row.longer(replace(PLAN, rate_rps=rate_rps))
    rates = [(since, plan.rate_rps) for since, plan in row.plans]
    assert (row.ticks, rates) == (6, [(0, 9.0), (2, 5.0), (5, 1.0)])


def test_replicas_that_come_and_go_with_the_load_are_not_damped() -> None:
    """Nothing restarts where replicas are only more or fewer: they follow every swing of the load."""
    pin = Pin(variant="small", batch_size=1, cores=1.0)
    pinned = replace(PIPELINE, stages=tuple(replace(stage, pin=pin) for stage in PIPELINE.stages))
    swing_s, swings = 200.0, 12
    # By less than what would be another load.
    made = scenario(
        lambda t_s: 30.0 if t_s // swing_s % 2 else 40.0, pipeline=pinned, policy=Ours(pinned, planner)
    )
    made.ticks(int(swings * swing_s / made.settings.tick_s))
    assert len(made.workload.accepted) >= swings - 1


def test_the_next_smaller_plan_must_carry_what_the_last_one_did_not() -> None:
    def must(damping: FlapDamping, rate_rps: float, now_s: float) -> float:
        return damping.must_carry_rps(replace(PLAN, rate_rps=rate_rps), now_s)

    assert must(UNDAMPED, 10.0, 0.0) == 0.0
    damped = UNDAMPED.shrunk(0.0).grown(12.0, 10.0).shrunk(20.0).grown(10.5, 30.0)
    assert must(damped, 10.0, 40.0) == 10.5
    # Another load, and long after.
    assert must(damped, 7.0, 40.0) == 0.0
    assert must(damped, 10.0, 31.0 + FORGET_S) == 0.0


def test_a_hold_names_the_other_plan_and_its_wait_in_time() -> None:
    """It spoke of "a smaller plan" where that had more cores, and of ticks."""
    made = scenario(lambda now_s: 20.0 if now_s < 100 else 4.0)
    made.run(400)
    held = [decision.detail for decision in made.store.recorded if decision.reason is ReasonCode.STABILISING]
    other = r"another plan \([+-][\d.]+ cores?, PAS [+-][\d.e-]+\)"
    pattern = other + r" must stay better for [\d.]+ (s|min), [\d.]+ of them have passed"
    assert held and all(re.match(pattern, detail) for detail in held), held[:2]
