"""The loop against the world in memory: what is recorded, what is written, and in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ipa.control.engine.guards import GuardSettings, total_cores
from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import Action, Change, Mode, ReasonCode
from ipa.model.errors import ConflictError, DriftError, UnavailableError
from ipa.model.pipeline import MeasuredVariant
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, made_loop, ours, scenario


def reasons(made: Scenario, ticks: int) -> list[ReasonCode]:
    return [decision.reason for decision in made.ticks(ticks)]


def settled_at(rate_rps: float = 5.0) -> Scenario:
    """A loop whose first plan is settled."""
    made = scenario(rate_rps, configs=SMALLEST)
    made.ticks(8)
    assert made.workload.accepted
    assert made.loop.tick_once().reason in (ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE)
    made.clock.wait(5.0)
    return made


def test_the_first_plan_is_applied_and_settles() -> None:
    made = scenario(5.0)
    assert reasons(made, 3) == [ReasonCode.FIRST_PLAN, ReasonCode.NO_CHANGE, ReasonCode.NO_CHANGE]
    assert [config.variant for config in made.workload.desired] == ["big", "big"]


def test_what_cannot_carry_the_load_is_left_at_once() -> None:
    made = scenario(25.0)
    decision = made.loop.tick_once()
    assert decision.action is Action.APPLY
    assert "27.5 rps expected" in decision.detail
    assert made.workload.desired == decision.configs != SMALLEST


@pytest.mark.parametrize("what", [{"mode": Mode.ADVISORY}, {"paused": True}])
def test_advisory_and_paused_pipelines_are_not_written(what: dict[str, object]) -> None:
    made = scenario(25.0)
    made.say(**what)
    decisions = made.ticks(20)
    assert made.workload.writes == []
    expected = ReasonCode.PAUSED if "paused" in what else ReasonCode.ADVISORY
    assert {decision.reason for decision in decisions} == {expected}


def test_advice_carries_the_plan_and_what_would_be_done() -> None:
    made = scenario(25.0, mode=Mode.ADVISORY)
    decision = made.loop.tick_once()
    assert decision.detail.startswith("would apply.")
    assert decision.plan is not None and decision.plan.configs != SMALLEST
    assert decision.configs == SMALLEST


def test_a_pause_ends_by_the_wall_clock_and_says_who_and_why() -> None:
    made = scenario(25.0)
    until = made.clock.now() + timedelta(seconds=12)
    made.say(paused=True, paused_until=until, paused_by="ann", paused_reason="load test")
    decisions = made.ticks(4)
    assert [decision.reason for decision in decisions[:3]] == [ReasonCode.PAUSED] * 3
    assert decisions[3].action is Action.APPLY
    assert decisions[0].detail == f"paused by ann until {until:%Y-%m-%d %H:%M:%S} UTC: load test"


def test_a_workload_that_is_no_plan_of_ours_is_held_as_drift() -> None:
    made = scenario(25.0)
    made.workload.errors["read"] = [DriftError("stage 'read' runs none of its variants")]
    decision = made.loop.tick_once()
    assert decision.reason is ReasonCode.DRIFT
    assert "none of its variants" in decision.detail
    assert not made.workload.writes
    assert made.loop.tick_once().action is Action.APPLY


def test_a_stage_that_was_not_part_of_the_failure_moves_on() -> None:
    made = scenario(5.0, configs=(SMALLEST[0], replace(SMALLEST[1], variant="big")))
    made.workload.broken = {("detect", "big")}
    made.ticks(8)
    assert made.workload.accepted[-1].is_rollback
    made.metrics.rate_rps = lambda t_s: 15.0
    made.ticks(1)
    wanted = ["detect=small b1 1×1 core", "read=big b1 2×1 core"]
    assert [str(config) for config in made.workload.desired] == wanted


def test_a_rollback_tells_the_bounds_that_were_lowered_meanwhile() -> None:
    made = settled_at(5.0)
    before = made.workload.desired
    made.workload.readiness_s = 1e9
    made.metrics.rate_rps = lambda t_s: 30.0
    grown = made.loop.tick_once()
    assert grown.action is Action.APPLY
    measured = {(each.stage, each.variant): MeasuredVariant(0.9) for each in before}
    bounds = replace(PIPELINE.bounds, cores=total_cores(before) - 1, accuracy_floor=0.999, measured=measured)
    lowered = replace(PIPELINE, bounds=bounds)
    made = replace(made, loop=made_loop(made, ours(), "again", lowered))
    made.clock.wait(5.0)
    rollback = next(each for each in made.ticks(10) if each.reason is ReasonCode.ROLLBACK)
    assert rollback.action is Action.APPLY and rollback.configs == before
    assert f"cores exceed the budget of {bounds.cores:g}" in rollback.detail
    assert f"is below the floor of {bounds.accuracy_floor:g}" in rollback.detail


def test_a_rollback_within_the_bounds_tells_of_none() -> None:
    made = scenario(5.0)
    made.workload.broken = {("detect", "big")}
    rollback = next(each for each in made.ticks(14) if each.reason is ReasonCode.ROLLBACK)
    assert "violates" not in rollback.detail


def failed_rollback() -> Scenario:
    """A scenario whose rollback has failed: nothing starts any more."""
    made = scenario(5.0)
    made.workload.broken = {("detect", "big"), ("detect", "small")}

    def lose_the_old(change: Change) -> None:
        if change.is_rollback:
            made.workload.serving = change.previous

    made.workload.before_write = lose_the_old
    assert made.ticks(60)[-1].reason is ReasonCode.ROLLBACK_FAILED
    return made


def test_a_rollback_that_gets_ready_after_all_needs_nobody() -> None:
    made = failed_rollback()
    made.workload.broken = set()
    assert made.ticks(1)[0].reason is not ReasonCode.ROLLBACK_FAILED
    assert ReasonCode.DRIFT not in {each.reason for each in made.ticks(5)}


def test_a_person_ends_a_block_between_two_ticks() -> None:
    made = failed_rollback()
    made.say(paused=True)
    assert made.ticks(1)[0].reason is ReasonCode.PAUSED
    made.say(paused=False)
    assert ReasonCode.ROLLBACK_FAILED not in {each.reason for each in made.ticks(3)}
    made = failed_rollback()
    made.say(resumed_at=made.clock.now())
    assert ReasonCode.ROLLBACK_FAILED not in {each.reason for each in made.ticks(3)}


def test_a_conflict_on_the_way_back_is_not_the_end_of_it() -> None:
    made = scenario(5.0)
    made.workload.broken = {("detect", "big")}
    made.workload.before_write = lambda change: (
        made.workload.errors["write"].append(ConflictError("modified"))
        if change.is_rollback and len(made.workload.writes) == 1
        else None
    )
    made.ticks(14)
    assert [write.accepted for write in made.workload.writes][:3] == [True, False, True]
    assert made.workload.writes[2].change.is_rollback


def test_hands_are_free_while_paused() -> None:
    made = settled_at(5.0)
    made.say(paused=True)
    made.ticks(1)
    made.workload.by_another_hand("read", replicas=4)
    made.ticks(2)
    made.say(paused=False)
    assert ReasonCode.DRIFT not in reasons(made, 3)


def test_a_restart_takes_up_what_is_in_flight() -> None:
    made = scenario(25.0, readiness_s=12.0)
    applied = made.loop.tick_once()
    made.clock.wait(5.0)
    again = made.restarted()
    decisions = again.ticks(3)
    assert [decision.reason for decision in decisions] == [
        ReasonCode.IN_PROGRESS,
        ReasonCode.IN_PROGRESS,
        ReasonCode.NO_CHANGE,
    ]
    assert decisions[0].tick == applied.tick + 1
    assert len(made.workload.writes) == 1
    assert len({each.decision_id for each in made.store.recorded}) == len(made.store.recorded)


def test_a_restart_takes_back_what_never_gets_ready() -> None:
    made = scenario(5.0)
    made.workload.broken = {("read", "big")}
    made.ticks(5)
    again = made.restarted()
    again.ticks(8)
    assert made.workload.accepted[-1].is_rollback


def test_a_person_may_ask_for_a_configuration() -> None:
    made = settled_at(5.0)
    wanted = tuple(replace(config, replicas=2) for config in SMALLEST)
    decision = made.loop.tick_once(ChangeRequest(wanted, "asked for by ann"))
    assert decision.reason is ReasonCode.REQUESTED
    assert made.workload.desired == wanted
    assert decision.detail.startswith("asked for by ann: ")


def test_what_a_person_asks_for_keeps_the_bounds() -> None:
    made = settled_at(5.0)
    wanted = (replace(SMALLEST[0], replicas=9), replace(SMALLEST[1], variant="huge"))
    decision = made.loop.tick_once(ChangeRequest(wanted, "asked for by ann"))
    assert decision.action is Action.HOLD
    assert "9 replicas are above the bound of 8" in decision.detail
    assert "no variant 'huge'" in decision.detail


def test_a_request_is_declined_while_paused() -> None:
    made = settled_at(5.0)
    made.say(paused=True)
    writes = len(made.workload.writes)
    assert made.loop.tick_once(ChangeRequest(SMALLEST, "asked for")).reason is ReasonCode.PAUSED
    assert len(made.workload.writes) == writes


def test_the_snapshot_shows_the_last_quarter_of_an_hour() -> None:
    made = scenario(5.0)
    made.ticks(250)
    snapshot = made.loop.snapshot()
    assert len(snapshot.history) == 180
    newest = snapshot.history[-1]
    assert newest.rate_rps == 5.0 and newest.forecast_upper_rps == pytest.approx(5.5)
    assert newest.cores == 2.0 and newest.pas == pytest.approx(0.9 * 0.95)
    assert snapshot.decision is not None and snapshot.plan is not None
    assert snapshot.control.mode is Mode.ACTIVE
    blind = replace(snapshot.decision, reason=ReasonCode.METRICS_MISSING)
    assert made.loop.snapshot() is snapshot and snapshot.decision != blind


def test_hooks_are_told_of_every_decision() -> None:
    made = scenario(5.0)
    calls: list[str] = []
    made.loop._hooks = (lambda decision, snapshot: calls.append(f"{decision.tick} {snapshot.tick}"),)
    made.ticks(3)
    assert calls == ["1 1", "2 2", "3 3"]


def test_the_snapshot_has_the_resources_of_what_ran() -> None:
    measured = {
        (config.stage, config.variant): MeasuredVariant(
            0.9, Resources(0, 1.5, accelerators={"nvidia.com/gpu": 1})
        )
        for config in SMALLEST
    }
    bounds = replace(PIPELINE.bounds, measured=measured)
    made = scenario(5.0, pipeline=replace(PIPELINE, bounds=bounds), mode=Mode.ADVISORY)
    made.ticks(2)
    point = made.loop.snapshot().history[-1]
    replicas = sum(config.replicas for config in SMALLEST)
    assert point.beside == Resources(0, 1.5 * replicas, accelerators={"nvidia.com/gpu": replicas})


def test_the_snapshot_says_when_the_next_tick_is() -> None:
    settings = GuardSettings(tick_s=4.0, rollout_deadline_s=30.0, quarantine_s=60.0)
    made = scenario(5.0, settings=settings)
    began = made.clock.now()
    for took_s, next_s in ((1.0, 4.0), (5.0, 12.0)):
        made.loop._hooks = (lambda decision, snapshot, took_s=took_s: made.clock.wait(took_s),)
        made.clock.wait(made.loop.step() - made.clock.monotonic_s())
        assert made.loop.snapshot().next_tick_at == began + timedelta(seconds=next_s)


def test_after_a_fault_of_the_program_the_next_tick_is_on_time() -> None:
    made = scenario(5.0)
    made.loop._hooks = (lambda *_: 1 / 0,)
    with pytest.raises(ZeroDivisionError):
        made.loop.step()
    made.loop._hooks = ()
    assert made.loop.step() == made.settings.tick_s
    made.run(20.0)
    assert made.loop.snapshot().tick == 4


def test_an_unknown_running_configuration_is_replaced() -> None:
    odd = (StageConfig("detect", "small", 1, 3.0, 1), SMALLEST[1])
    made = scenario(5.0, configs=odd)
    assert made.loop.tick_once().reason is ReasonCode.FIRST_PLAN
    assert [config.cores for config in made.workload.desired] == [1.0, 1.0]
    assert PIPELINE.name in made.store.recorded[0].decision_id


def test_a_quarantine_outlives_the_process() -> None:
    made = scenario(5.0)
    made.workload.broken = {("detect", "big")}
    made.ticks(8)
    assert made.workload.accepted[-1].is_rollback
    tried = len(made.workload.accepted)
    again = made.restarted()
    reasons = {decision.reason for decision in again.ticks(6)}
    assert not any(
        ("detect", "big") in {(config.stage, config.variant) for config in change.configs}
        for change in again.workload.accepted[tried:]
    ), reasons


def test_a_first_plan_that_could_not_be_recorded_is_still_the_first() -> None:
    made = scenario(30.0)
    made.store.failing = UnavailableError("disk full")
    made.ticks(1)
    made.store.failing = None
    assert made.ticks(1)[0].reason is ReasonCode.FIRST_PLAN


def test_a_variant_is_not_to_blame_for_a_lack_of_room() -> None:
    made = scenario(30.0)
    made.workload.readiness_s = 1e9
    made.workload.lacks_room = True
    made.ticks(8)
    tried = made.workload.accepted[0]
    assert made.workload.accepted[1].is_rollback
    made.workload.readiness_s, made.workload.lacks_room = 2.0, False
    made.ticks(6)
    last = made.workload.desired
    assert total_cores(last) < total_cores(tried.configs)
    assert {config.variant for config in last} <= {"small", "big"}
    made.ticks(30)
    assert made.workload.desired == tried.configs
