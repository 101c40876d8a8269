"""The order of the engine's rules, and what it means where several apply to a tick."""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine.rules import AMENDMENTS, BEFORE_LOAD, RULES, judge
from ipa.control.engine.state import ChangeRequest, EngineState, TickRequest, WriteBlock
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode, ReasonCode
from ipa.model.observation import Missing, MissingReason, Observation
from tests.fakes.world import SMALLEST, ours, profiled, scenario, window_max

GROWN = tuple(replace(config, replicas=3) for config in SMALLEST)
UNREAD = Missing(MissingReason.UNREACHABLE, "down")
BLOCK = WriteBlock(ReasonCode.RBAC, "forbidden", PipelineControl(mode=Mode.ACTIVE))


def ticked(**changed: object) -> TickRequest:
    """The request of a tick over the smallest configuration under a load that it does not carry."""
    made = scenario(25.0)
    found = made.loop._request(None, recover=False)
    return replace(found, policy=ours(), predict=profiled().predict, forecaster=window_max, **changed)  # type: ignore[arg-type]


def unread(observation: Observation) -> Observation:
    stages = tuple(replace(stage, running=UNREAD) for stage in observation.stages)
    return replace(observation, stages=stages, problem="the API server is down")


def reason(request: TickRequest, state: EngineState | None = None) -> ReasonCode:
    verdict, _ = judge(request, state or EngineState())
    return verdict.reason


def test_the_order_of_the_rules_is_this_one() -> None:
    assert [rule.__name__ for rule in RULES] == [
        "paused",
        "workload_unknown",
        "blocked",
        "follow_change",
        "drift",
        "foreign_rollout",
        "requested",
        "telemetry_lost",
        "slo_broken",
        "planned",
    ]
    assert RULES[: len(BEFORE_LOAD)] == BEFORE_LOAD
    assert [amend.__name__ for amend in AMENDMENTS] == ["overloaded", "mixed_rows"]


def test_each_rule_gives_way_to_those_before_it() -> None:
    """All troubles at once: each that ends lets the next rule decide."""
    request = ticked(
        control=PipelineControl(mode=Mode.ACTIVE, paused=True),
        requested=ChangeRequest(GROWN, "ann asked", by="ann"),
    )
    seen = request.observation
    lost = replace(seen, arrival_rate_rps=UNREAD, load=UNREAD, settled=False)
    state = EngineState(last_applied=GROWN, block=BLOCK)
    request = replace(request, observation=unread(lost))
    assert reason(request, state) is ReasonCode.PAUSED
    request = replace(request, control=BLOCK.control)
    assert reason(request, state) is ReasonCode.WORKLOAD_UNKNOWN
    request = replace(request, observation=lost)
    assert reason(request, state) is ReasonCode.RBAC
    state = replace(state, block=None)
    assert reason(request, state) is ReasonCode.DRIFT
    state = replace(state, last_applied=SMALLEST)
    assert reason(request, state) is ReasonCode.IN_PROGRESS
    request = replace(request, observation=replace(lost, settled=True))
    assert reason(request, state) is ReasonCode.REQUESTED
    request = replace(request, requested=None)
    assert reason(request, state) is ReasonCode.METRICS_MISSING
    request = replace(request, observation=seen)
    assert reason(request, state) is ReasonCode.FIRST_PLAN


def test_what_stops_the_rules_of_the_load_ends_a_row_of_smaller_plans() -> None:
    request = ticked()
    plan = profiled().plan(request.pipeline, 5.0, SMALLEST)
    state = EngineState(pending_scale_downs=(plan,))
    _, after = judge(replace(request, control=PipelineControl(mode=Mode.ACTIVE, paused=True)), state)
    assert after.pending_scale_downs == ()


def test_two_rules_ask_for_one_forecast() -> None:
    asked = []
    made = scenario(25.0, forecaster=lambda load: asked.append(load) or window_max(load))  # type: ignore[func-returns-value]
    made.loop.tick_once()
    assert len(asked) == 1
