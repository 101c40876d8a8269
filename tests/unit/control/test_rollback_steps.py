"""A rollback returns to the configuration before the decision, however many steps that took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import ConflictError, InfeasibleError, NotFoundError, UnavailableError
from ipa.model.observation import Forecast, Observation
from ipa.model.pipeline import Bounds, Pin, Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import PolicyState
from ipa.service.commands import undo_of
from tests.fakes.world import PIPELINE, Scenario, made_loop, planner, scenario

Configs = tuple[StageConfig, ...]
# Old and new replicas of both stages take 14 cores together, and 12 are all there are: two steps.
BEFORE = (StageConfig("detect", "big", 1, 1.0, 3), StageConfig("read", "big", 1, 1.0, 3))
WANTED = (StageConfig("detect", "small", 1, 1.0, 4), StageConfig("read", "small", 1, 1.0, 4))
BETWEEN = (WANTED[0], BEFORE[1])
LATER = (replace(WANTED[0], replicas=5), WANTED[1])


def stepping(**made: object) -> Scenario:
    """A loop without load, which a person alone moves."""
    return scenario(0.2, configs=BEFORE, policy=_Waits(), **made)  # type: ignore[arg-type]


class _Waits:
    """A policy without a plan: only people move the pipeline."""

    name = "waits"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        raise InfeasibleError("nothing is planned")


def reasons(decisions: list[Decision]) -> list[tuple[Action, ReasonCode]]:
    return [(each.action, each.reason) for each in decisions if each.action is Action.APPLY]


def target(
    made: Scenario, to: str | None = None, by: str = "ann", pipeline: Pipeline = PIPELINE
) -> tuple[StageConfig, ...]:
    """The configurations that a rollback would restore now."""
    return undo_of(pipeline, made.store, to, by, made.workload.desired, made.loop.snapshot().phase).configs


def settled(made: Scenario) -> list[Decision]:
    made.clock.wait(5.0)
    return made.ticks(3)


def roll_back(made: Scenario, to: str | None = None, by: str = "ann") -> Decision:
    """A rollback as the service makes it."""
    undo = undo_of(PIPELINE, made.store, to, by, made.workload.desired, made.loop.snapshot().phase)
    return made.loop.tick_once(
        ChangeRequest(undo.configs, f"rollback by {by}", by=by, undoes=undo.undoes, restores=True)
    )


def test_a_request_of_two_steps_is_rolled_back_to_before_the_first() -> None:
    made = stepping()
    made.loop.tick_once(ChangeRequest(WANTED, "ann asked", by="ann"))
    settled(made)
    first, second = [decision for decision in made.store.recorded if decision.action is Action.APPLY]
    assert (first.configs, second.configs) == (BETWEEN, WANTED)
    assert (first.step_of, second.step_of) == ("", first.decision_id)
    assert roll_back(made).undoes == first.decision_id
    settled(made)
    assert made.workload.desired == BEFORE
    # The way back took two steps as well; both are one undo, after which nothing is left.
    steps = [decision.undoes for decision in made.store.recorded if decision.action is Action.APPLY]
    assert steps == ["", "", first.decision_id, first.decision_id]
    with pytest.raises(ConflictError, match="ann has no change left to take back"):
        target(made)


def test_a_request_of_two_steps_that_cannot_be_recorded_is_not_carried_out_later() -> None:
    made = stepping()
    made.ticks(1)
    made.store.failing = UnavailableError("disk full")
    decision = made.loop.tick_once(ChangeRequest(WANTED, "ann asked", by="ann"))
    assert decision.reason is ReasonCode.AUDIT_FAILED
    made.store.failing = None
    settled(made)
    assert made.workload.writes == []


def test_after_a_decision_means_after_its_last_step() -> None:
    made = stepping()
    first = made.loop.tick_once(ChangeRequest(WANTED, "ann asked", by="ann"))
    settled(made)
    made.loop.tick_once(ChangeRequest(LATER, "ann asked again", by="ann"))
    assert target(made, first.decision_id) == WANTED
    assert target(made, str(first.tick)) == WANTED
    assert target(made) == WANTED


@pytest.mark.parametrize("restarts", [False, True])
def test_a_step_that_fails_takes_those_before_it_along(restarts: bool) -> None:
    made = stepping()
    made.workload.broken = {("read", "small")}
    made.loop.tick_once(ChangeRequest(WANTED, "ann asked", by="ann"))
    made.clock.wait(5.0)
    decisions = made.ticks(2)
    assert made.workload.desired == WANTED, "the second step was written and does not get ready"
    if restarts:
        made = replace(made, loop=made_loop(made, _Waits(), "again"))
    decisions = made.ticks(12)
    assert made.workload.desired == BEFORE
    done = reasons(decisions)
    assert done == [(Action.APPLY, ReasonCode.ROLLBACK), (Action.APPLY, ReasonCode.SWITCH_VARIANT)]
    assert any("the rollback goes on" in each.detail for each in decisions)
    with pytest.raises(ConflictError, match="no change left to take back"):
        target(made)


def test_an_earlier_decision_is_the_target_once_a_later_one_was_taken_back() -> None:
    made = stepping()
    made.loop.tick_once(ChangeRequest(LATER[:1] + BEFORE[1:], "ann asked", by="ann"))
    made.clock.wait(5.0)
    made.ticks(2)
    made.workload.broken = {("read", "small")}
    made.loop.tick_once(ChangeRequest(LATER, "ann asked more", by="ann"))
    made.clock.wait(5.0)
    made.ticks(12)
    assert made.workload.desired == LATER[:1] + BEFORE[1:]
    assert target(made) == BEFORE


def test_a_change_that_was_refused_is_passed_over() -> None:
    made = stepping()
    made.loop.tick_once(ChangeRequest(BETWEEN, "ann asked", by="ann"))
    made.clock.wait(5.0)
    made.ticks(2)
    made.workload.errors["write"].append(ConflictError("it was changed since"))
    refused = made.loop.tick_once(ChangeRequest(LATER, "ann asked more", by="ann"))
    assert refused.reason is ReasonCode.CONFLICT and made.workload.desired == BETWEEN
    assert target(made) == BEFORE


def recorded(*rows: tuple[Configs, Configs, Configs]) -> Scenario:
    """A world that runs the last of these changes of ann's: from, to, and the plan."""
    made = stepping()
    like = made.loop.tick_once(ChangeRequest(WANTED, "", by="ann"))
    settled(made)
    made.store.recorded.clear()
    for tick, (old, new, plan) in enumerate(rows, 1):
        at, step, plan_ = f"2026-01-01T00:00:0{tick}+00:00", f"d-{tick}", stages_of(*plan)
        made.store.record(
            replace(like, decision_id=step, tick=tick, at=at, previous=old, configs=new, plan=plan_)
        )
        made.workload.desired = new
    return made


def test_a_state_between_two_steps_that_is_above_the_budget_is_passed_over() -> None:
    """Old and new replicas may be more together than the budget; a newer plan left that state."""
    above = (replace(BEFORE[0], replicas=6), BEFORE[1])
    after = (replace(BEFORE[0], replicas=4), BEFORE[1])
    made = recorded((BEFORE, above, WANTED), (above, after, after))
    small = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=8.0))
    assert target(made, pipeline=small) == BEFORE
    assert target(made) == above
    # A revision that is named is meant.
    assert target(made, "d-1", pipeline=small) == above
    assert target(made, "1", pipeline=small) == above


def test_steps_of_one_plan_are_one_decision() -> None:
    """The loop plans anew before each step: the same plan, reached a little further."""
    at = {count: (replace(BEFORE[0], replicas=count), BEFORE[1]) for count in range(3, 9)}
    made = recorded(
        (at[3], at[4], at[7]), (at[4], at[5], at[8]), (at[5], at[6], at[8]), (at[6], at[8], at[8])
    )
    assert target(made)[0].replicas == 4
    assert target(made, "d-2")[0].replicas == 8
    assert target(made, "d-1")[0].replicas == 4


def test_only_revisions_of_the_history_are_restored() -> None:
    made = stepping()
    first = made.loop.tick_once(ChangeRequest(BETWEEN, "ann asked", by="ann"))
    with pytest.raises(NotFoundError, match=f"has no revision {first.tick + 1}"):
        target(made, str(first.tick + 1))
    other = replace(first, pipeline="other", decision_id="other-1")
    made.store.record(other)
    with pytest.raises(NotFoundError, match="is of pipeline 'other'"):
        target(made, "other-1")


def stages_of(*configs: StageConfig) -> Plan:
    plan = planner(PIPELINE, 1.0)
    stages = tuple(
        replace(stage, variant=it.variant, batch_size=it.batch_size, cores=it.cores, replicas=it.replicas)
        for stage, it in zip(plan.stages, configs, strict=True)
    )
    return replace(plan, stages=stages)


def bounded(made: Scenario, pipeline: Pipeline) -> Scenario:
    """The same world under a new process with another file."""
    return replace(made, loop=made_loop(made, _Waits(), "again", pipeline))


@pytest.mark.parametrize(
    ("bounds", "pin", "fault"),
    [
        (replace(PIPELINE.bounds, max_replicas=2), Pin(), "3 replicas are above the bound of 2"),
        (replace(PIPELINE.bounds, min_replicas=4), Pin(), "3 replicas are below the bound of 4"),
        (replace(PIPELINE.bounds, batch_sizes=(2, 4)), Pin(), "batch size 1 is not allowed"),
        (PIPELINE.bounds, Pin(variant="small"), "detect is pinned to small as its variant, not big"),
    ],
)
def test_other_bounds_and_pins_do_not_refuse_it_and_are_named(bounds: Bounds, pin: Pin, fault: str) -> None:
    made = scenario(0.2, configs=WANTED, policy=_Waits())
    stages = (replace(PIPELINE.stages[0], pin=pin), *PIPELINE.stages[1:])
    made = bounded(made, replace(PIPELINE, bounds=bounds, stages=stages))
    # Asked for as anything new, it would be refused.
    assert made.loop.tick_once(ChangeRequest(BEFORE, "ann asked", by="ann")).reason is ReasonCode.INFEASIBLE
    decision = made.loop.tick_once(ChangeRequest(BEFORE, "rollback by ann", by="ann", restores=True))
    assert decision.action is Action.APPLY
    assert "; until the next plan it violates: " in decision.detail and fault in decision.detail


def test_a_budget_refuses_it_and_the_words_are_the_remedy() -> None:
    made = scenario(0.2, configs=WANTED, policy=_Waits())
    made = bounded(made, replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=5.0)))
    decision = made.loop.tick_once(ChangeRequest(BEFORE, "rollback by ann", by="ann", restores=True))
    assert (decision.action, decision.reason) == (Action.HOLD, ReasonCode.INFEASIBLE)
    remedy = "raise it in `bounds` of the pipeline's file, or apply a plan within it"
    assert decision.detail == f"rollback by ann: 6 cores exceed the budget of 5; {remedy}"
    assert made.workload.desired == WANTED


def test_a_change_without_room_is_refused_with_the_remedy() -> None:
    made = scenario(0.2, configs=WANTED, policy=_Waits())
    made = bounded(made, replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=8.0)))
    decision = made.loop.tick_once(ChangeRequest(BEFORE, "rollback by ann", by="ann", restores=True))
    assert decision.reason is ReasonCode.NO_ROOM
    assert decision.detail.endswith("allow them in `bounds.transition_cores`, or apply a plan that fits")


def test_a_variant_that_left_the_file_cannot_come_back() -> None:
    made = scenario(0.2, configs=WANTED, policy=_Waits())
    small = tuple(replace(each, variants=each.variants[:1]) for each in PIPELINE.stages)
    made = bounded(made, replace(PIPELINE, stages=small))
    decision = made.loop.tick_once(ChangeRequest(BEFORE, "rollback by ann", by="ann", restores=True))
    assert decision.reason is ReasonCode.INFEASIBLE
    assert "the pipeline no longer has detect=big; restore it in the pipeline's file" in decision.detail


def test_a_change_that_rolls_out_is_not_waited_for() -> None:
    made = stepping()
    made.workload.readiness_s = 1e9
    made.loop.tick_once(ChangeRequest(BETWEEN, "ann asked", by="ann"))
    made.clock.wait(5.0)
    made.loop.tick_once()
    decision = roll_back(made)
    # A person's rollback is no failure of a rollout: no reason that alerts, and no quarantine.
    assert (decision.action, decision.reason) == (Action.APPLY, ReasonCode.REQUESTED)
    assert decision.detail.startswith("rollback by ann: ") and decision.by == "ann"
    assert made.workload.accepted[-1].is_rollback
    assert made.workload.desired == BEFORE
    made.workload.readiness_s = 2.0
    made.clock.wait(5.0)
    assert ReasonCode.ROLLBACK_FAILED not in {each.reason for each in made.ticks(3)}


def test_the_second_step_of_a_change_that_rolls_out_goes_all_the_way_back() -> None:
    made = stepping()
    made.loop.tick_once(ChangeRequest(WANTED, "ann asked", by="ann"))
    made.clock.wait(5.0)
    made.workload.broken = {("read", "small")}
    made.ticks(2)
    roll_back(made)
    assert made.workload.desired == BETWEEN
    made.clock.wait(5.0)
    made.ticks(3)
    assert made.workload.desired == BEFORE


def test_advisory_mode_says_what_it_would_do() -> None:
    made = scenario(0.2, mode=Mode.ADVISORY, configs=WANTED, policy=_Waits())
    decision = made.loop.tick_once(ChangeRequest(BEFORE, "rollback by ann", by="ann", restores=True))
    assert decision.reason is ReasonCode.ADVISORY and decision.detail.startswith("would rollback by ann")
