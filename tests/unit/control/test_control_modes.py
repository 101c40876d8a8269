"""The trust in a pipeline: modes, freezes, pins, another leader; and the reports of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ipa.control.engine.guards import end_of_freeze, stop_of
from ipa.control.engine.rules import judge
from ipa.control.engine.state import ChangeRequest, EngineState
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import Freeze, PipelineControl, StagePin, WorkloadState
from ipa.model.decision import Action, Change, Event, Mode, ReasonCode
from ipa.model.errors import ForbiddenError, UnavailableError
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, loop_over, ours, scenario

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Events:
    """An event sink that keeps its events."""

    events: list[Event] = field(default_factory=list)

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        self.events.append(event)


@dataclass
class Lead:
    """A leadership that is moved by hand, and answers from the list first."""

    leads: bool = True
    next: list[bool] = field(default_factory=list)

    def leading(self) -> bool:
        return self.next.pop(0) if self.next else self.leads


def with_ports(
    made: Scenario, *, lead: Lead | None = None, events: Events | None = None, pipeline: Pipeline = PIPELINE
) -> Scenario:
    world = LoopPorts(
        made.clock,
        made.metrics,
        made.workload,
        made.store,
        made.store,
        lead or Lead(),
        events or Events(),
    )
    return replace(made, loop=loop_over(pipeline, world, ours(), made.settings, window_s=60.0))


def test_advisory_says_each_tick_what_it_would_do_from_what_runs() -> None:
    made = scenario(30.0, mode=Mode.ADVISORY)
    decisions = made.ticks(6)
    assert {decision.reason for decision in decisions} == {ReasonCode.ADVISORY}
    assert made.workload.writes == [] and made.workload.desired == SMALLEST


def test_shadow_goes_on_from_its_own_decisions_and_writes_nothing() -> None:
    made = scenario(30.0, mode=Mode.SHADOW)
    first, *others = made.ticks(10)
    assert first.reason is ReasonCode.SHADOW and "would apply.first_plan" in first.detail
    # What it would have written carries the load; there is no more to do.
    assert others[-1].reason in (ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE)
    assert made.workload.writes == [] and made.workload.desired == SMALLEST
    made.say(mode=Mode.ACTIVE)
    assert made.ticks(1)[0].action is Action.APPLY
    assert len(made.workload.accepted) == 1


def test_guarded_adds_replicas_and_changes_nothing_else() -> None:
    made = scenario(lambda t_s: 30.0 if t_s < 60 else 1.0, mode=Mode.GUARDED)
    made.ticks(40)
    assert made.workload.accepted
    for change in made.workload.accepted:
        for old, new in zip(change.previous, change.configs, strict=True):
            assert replace(new, replicas=old.replicas) == old and new.replicas >= old.replicas
    assert [config.variant for config in made.workload.desired] == ["small", "small"]


SWITCHED = (replace(SMALLEST[0], variant="big"), SMALLEST[1])
OURS = ChangeRequest(SWITCHED, "the next step of the last change", ReasonCode.SWITCH_VARIANT)
ADDED = replace(OURS, configs=(replace(SMALLEST[0], replicas=2), SMALLEST[1]))
THEIRS = ChangeRequest(SWITCHED, "requested by kim", by="kim")
BACK = replace(OURS, detail="the rollback goes on", restores=True)


@pytest.mark.parametrize(
    ("goal", "writing"),
    [
        pytest.param(OURS, {Mode.ACTIVE}, id="the loop chose it"),
        pytest.param(ADDED, {Mode.GUARDED, Mode.ACTIVE}, id="it only adds replicas"),
        pytest.param(THEIRS, {Mode.GUARDED, Mode.ACTIVE}, id="a person asked for it"),
        pytest.param(BACK, {Mode.GUARDED, Mode.ACTIVE}, id="it takes back what failed"),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_the_mode_is_asked_again_before_each_step_of_a_change(
    goal: ChangeRequest, writing: set[Mode], mode: Mode
) -> None:
    request = scenario(5.0, mode=mode).loop._request(None, recover=False)
    verdict, after = judge(request, EngineState(goal=goal))
    assert after.goal is None
    if mode in writing:
        assert (verdict.action, verdict.configs) == (Action.APPLY, goal.configs)
    else:
        assert (verdict.action, verdict.reason.value) == (Action.HOLD, f"hold.{mode.value}")
        assert verdict.detail.startswith(f"would {goal.detail}: ")


@pytest.mark.parametrize(
    ("pin", "end"),
    [
        (Pin(), " → detect=big b1 1×1 core"),
        (
            Pin(variant="small"),
            "1 core; until the next plan it violates: detect is pinned to small as its variant, not big",
        ),
    ],
)
def test_a_change_that_is_taken_back_names_what_it_violates(pin: Pin, end: str) -> None:
    request = scenario(5.0).loop._request(None, recover=False)
    first, *others = PIPELINE.stages
    pipeline = replace(PIPELINE, stages=(replace(first, pin=pin), *others))
    verdict, _ = judge(replace(request, pipeline=pipeline), EngineState(goal=BACK))
    assert (verdict.action, verdict.configs) == (Action.APPLY, BACK.configs)
    assert verdict.detail.endswith(end)


@pytest.mark.parametrize("decided", [Mode.GUARDED, Mode.ACTIVE])
@pytest.mark.parametrize(
    ("meanwhile", "returns"),
    [
        ({"mode": Mode.ACTIVE}, True),
        ({"mode": Mode.GUARDED}, True),
        ({"mode": Mode.ADVISORY}, False),
        ({"mode": Mode.SHADOW}, False),
        ({"paused": True}, False),
        ({"freezes": (Freeze(START, START + HOUR),)}, False),
    ],
)
def test_a_change_that_fails_is_taken_back_in_the_modes_that_write(
    decided: Mode, meanwhile: dict[str, Any], returns: bool
) -> None:
    made = scenario(30.0, mode=decided)
    made.workload.broken = {(config.stage, variant) for config in SMALLEST for variant in ("small", "big")}
    made.ticks(1)
    made.say(**meanwhile)
    made.ticks(6)
    change, *back = made.workload.accepted
    assert [(each.is_rollback, each.configs) for each in back] == [(True, change.previous)] * returns


def test_a_frozen_pipeline_is_not_written_until_the_window_ends() -> None:
    made = scenario(30.0)
    made.say(freezes=(Freeze(START, START + timedelta(seconds=60), "Black Friday", "kim"),))
    decisions = made.ticks(13)
    assert {decision.reason for decision in decisions[:12]} == {ReasonCode.FROZEN}
    assert "frozen by kim until 2026-01-01 00:01:00 UTC: Black Friday" in decisions[0].detail
    assert decisions[12].action is Action.APPLY


@pytest.mark.parametrize(
    ("at", "holds"),
    [
        (START - HOUR, False),
        (START, True),
        (START + HOUR, False),
        (START + timedelta(days=7, minutes=30), True),
        (START + timedelta(days=7, hours=2), False),
        (START + timedelta(days=364, minutes=59), True),
    ],
)
def test_a_weekly_freeze_comes_again(at: datetime, holds: bool) -> None:
    freeze = Freeze(START, START + HOUR, weekly=True)
    assert (end_of_freeze(freeze, at) is not None) is holds
    assert (stop_of(PipelineControl(freezes=(freeze,)), at) is not None) is holds


def test_a_freeze_that_is_not_weekly_does_not() -> None:
    assert end_of_freeze(Freeze(START, START + HOUR), START + timedelta(days=7)) is None


def test_a_pin_is_planned_for_and_put_in_place_even_where_the_plan_without_it_is_better() -> None:
    made = scenario(5.0)
    made.ticks(12)
    assert made.workload.desired[1].variant == "big"
    made.say(pins=(StagePin("read", Pin(variant="small"), "cheaper", "kim"),))
    made.ticks(2)
    assert made.workload.desired[1].variant == "small"
    made.ticks(30)
    assert made.workload.desired[1].variant == "small"
    made.say(pins=())
    made.ticks(20)
    assert made.workload.desired[1].variant == "big"


def test_a_workload_is_told_of_pins_since_its_queues_choose_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scenario(5.0)
    variants: list[str | None] = []
    read, write = made.workload.read, made.workload.write

    def reading(pipeline: Pipeline) -> WorkloadState:
        variants.append(pipeline.stage("read").pin.variant)
        return read(pipeline)

    def writing(pipeline: Pipeline, change: Change) -> str:
        variants.append(pipeline.stage("read").pin.variant)
        return write(pipeline, change)

    monkeypatch.setattr(made.workload, "read", reading)
    made.ticks(2)
    made.say(pins=(StagePin("read", Pin(variant="big")),))
    made.ticks(1)
    assert variants == [None, None, "big"]
    monkeypatch.setattr(made.workload, "write", writing)
    made.say(pins=(StagePin("read", Pin(variant="small")),))
    made.ticks(1)
    assert variants == [None, None, "big", "small", "small"], "as it is read and as it is written"


def test_what_a_person_asks_for_against_a_pin_is_refused() -> None:
    made = scenario(5.0)
    made.say(pins=(StagePin("read", Pin(replicas=1)),))
    wanted = (SMALLEST[0], replace(SMALLEST[1], replicas=2))
    decision = made.loop.tick_once(ChangeRequest(wanted, "requested by kim"))
    assert decision.reason is ReasonCode.INFEASIBLE
    assert "read is pinned to 1 replicas, not 2" in decision.detail
    assert made.workload.writes == []


def test_changes_are_told_and_troubles_once() -> None:
    events = Events()
    made = with_ports(scenario(lambda t_s: 5.0 if t_s < 60 else 30.0), events=events)
    made.ticks(12)
    assert [event.reason for event in events.events] == [ReasonCode.FIRST_PLAN]
    made.workload.errors["read"] = [UnavailableError("no route to host") for _ in range(6)]
    made.ticks(6)
    assert [(event.reason, event.is_warning) for event in events.events[1:]] == [
        (ReasonCode.WORKLOAD_UNKNOWN, True)
    ]


def test_a_write_that_failed_is_told_instead_of_the_change() -> None:
    events = Events()
    made = with_ports(scenario(30.0), events=events)
    made.workload.errors["write"] = [ForbiddenError("no")]
    made.ticks(3)
    assert [(event.reason, event.is_warning) for event in events.events] == [(ReasonCode.RBAC, True)]


def test_what_a_person_asked_for_takes_as_many_steps_as_it_needs() -> None:
    """Of 12 cores 11 run: one stage has to wait for the other."""
    start = (StageConfig("detect", "big", 1, 1.0, 5), StageConfig("read", "big", 1, 1.0, 2))
    wanted = (StageConfig("detect", "small", 1, 1.0, 4), StageConfig("read", "small", 1, 1.0, 2))
    made = scenario(5.0, configs=start)
    first = made.loop.tick_once(ChangeRequest(wanted, "requested by kim", by="kim", plan_id="b1c2"))
    assert first.action is Action.APPLY and "then" in first.detail
    made.clock.wait(5.0)
    second = made.ticks(1)[0]
    assert second.reason is ReasonCode.REQUESTED
    assert made.workload.desired == wanted
    assert [(each.by, each.plan_id) for each in (first, second)] == [("kim", "b1c2")] * 2
    assert made.ticks(1)[0].plan_id == ""
