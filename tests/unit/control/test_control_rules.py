"""The order of the engine's rules, and what it means where several apply to a tick."""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine.feedback import Feedback
from ipa.control.engine.observe import observe
from ipa.control.engine.rules import AMENDMENTS, BEFORE_LOAD, RULES, judge
from ipa.control.engine.state import ChangeRequest, EngineState, TickRequest, TickVerdict, WriteBlock
from ipa.control.ports import PipelineControl, Signals, StageState, WorkloadState
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.observation import Attainment, LoadHistory, Measured, Missing, MissingReason, Observation
from tests.fakes.world import PIPELINE, SMALLEST, ours, profiled, scenario, window_max

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


def late(request: TickRequest) -> tuple[TickRequest, EngineState]:
    """The request with four of ten requests late, and the state that knows it."""
    seen = replace(request.observation, attainment=Measured(Attainment(100.0, 0.6, 15.0)))
    return replace(request, observation=seen), EngineState(planned=True, feedback=Feedback(is_broken=True))


def test_while_the_slo_is_broken_capacity_is_added_and_never_removed() -> None:
    request = ticked(control=PipelineControl(mode=Mode.ACTIVE))
    best = judge(request, EngineState(planned=True))[0].configs
    running = tuple(StageState(config, config.replicas) for config in best)
    workload = WorkloadState("2", running, settled=True)

    def held(rate_rps: float) -> TickVerdict:
        load = Measured(LoadHistory(1.0, (rate_rps,) * 60))
        signals = Signals(Measured(rate_rps), load, Measured(0.4))
        seen = replace(request, observation=observe(PIPELINE, signals, workload, at_s=0.0))
        return judge(*late(seen))[0]

    # What runs is the best plan, or more than the load needs: neither is a reason to be content.
    for rate_rps in (25.0, 5.0):
        verdict = held(rate_rps)
        assert (verdict.action, verdict.reason) == (Action.HOLD, ReasonCode.SLO_BROKEN)
        assert verdict.detail.startswith("60.0% of the requests of the last 15 s were in time")
    # Where the model expects lateness, its own plan is carried out.
    assert held(60.0).action is Action.APPLY
