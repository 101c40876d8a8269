"""The order of the engine's rules, and what it means where several apply to a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from ipa.control.engine import rules
from ipa.control.engine.actuation import ActuationPhase, accepted, begin
from ipa.control.engine.canary import CanaryTrial, EndedCount
from ipa.control.engine.observe import observe
from ipa.control.engine.quarantine import FailedRollout
from ipa.control.engine.rules import BEFORE_LOAD, OF_LOAD, judge
from ipa.control.engine.state import (
    ChangeRequest,
    EngineState,
    TelemetryLoss,
    TickRequest,
    TickVerdict,
    WriteBlock,
)
from ipa.control.engine.tick import on_tick, unrecorded, unwritten
from ipa.control.ports import PipelineControl, Rollout, RolloutPhase, Signals, StageState, WorkloadState
from ipa.model.decision import Action, Change, Mode, ReasonCode
from ipa.model.errors import ConflictError, SolverError
from ipa.model.observation import (
    Attainment,
    Forecast,
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
)
from ipa.model.parts import Configs, in_order, with_share
from ipa.model.pipeline import Canary, Fallback
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE
from ipa.policies.base import PolicyState
from ipa.policies.ours import Ours
from tests.fakes.world import PIPELINE, SMALLEST, ours, planner, profiled, scenario, window_max

GROWN = tuple(replace(config, replicas=3) for config in SMALLEST)
UNREAD = Missing(MissingReason.UNREACHABLE, "down")
ACTIVE = PipelineControl(mode=Mode.ACTIVE)
BLOCK = WriteBlock(ReasonCode.RBAC, "forbidden", ACTIVE)


def ticked(**changed: object) -> TickRequest:
    """The request of a tick over the smallest configuration under a load that it does not carry."""
    made = scenario(25.0)
    request = made.loop._request(None, recover=False)
    usual = {"policy": ours(), "predict": profiled().predict, "forecaster": window_max}
    return replace(request, **{**usual, **changed})  # type: ignore[arg-type]


def unread(observation: Observation) -> Observation:
    stages = tuple(replace(stage, running=UNREAD) for stage in observation.stages)
    return replace(observation, stages=stages, problem="the API server is down")


def troubles() -> Iterator[tuple[TickRequest, EngineState, ReasonCode]]:
    """Requests and states from all troubles at once to none, with the reason of each."""
    request = ticked(
        control=PipelineControl(mode=Mode.ACTIVE, paused=True),
        requested=ChangeRequest(GROWN, "ann asked", by="ann"),
        pipeline=replace(PIPELINE, canary=Canary(5, 60.0)),
    )
    plain = replace(request, control=BLOCK.control, requested=None, pipeline=PIPELINE)
    best = judge(plain, EngineState(planned=True))[0].configs
    running = tuple(StageState(config, config.replicas) for config in best)
    signals = Signals(Measured(25.0), Measured(LoadHistory(1.0, (25.0,) * 60)), Measured(0.4))
    whole = observe(PIPELINE, signals, WorkloadState("2", running, settled=True), at_s=0.0)
    whole = replace(whole, attainment=Measured(Attainment(100.0, 0.6, 15.0)))
    lost = replace(whole, arrival_rate_rps=UNREAD, load=UNREAD)
    state = EngineState(
        planned=True,
        last_applied=GROWN,
        block=BLOCK,
        trial=CanaryTrial(best, GROWN, 0.0, 60.0, 60.0, EndedCount(50.0)),
        is_late=True,
    )
    request = replace(request, observation=unread(replace(lost, settled=False)))
    yield request, state, ReasonCode.PAUSED
    request = replace(request, control=BLOCK.control)
    yield request, state, ReasonCode.WORKLOAD_UNKNOWN
    request = replace(request, observation=replace(lost, settled=False))
    change = Change("pages-1", "pages", "1", SMALLEST, best, 60.0)
    rolling = replace(state, actuation=accepted(begin(change, request.now_s)))
    progressing = replace(request, rollout=Rollout(RolloutPhase.PROGRESSING, "1 of 2"))
    yield progressing, rolling, ReasonCode.RBAC
    yield progressing, replace(rolling, block=None), ReasonCode.IN_PROGRESS
    state = replace(state, block=None)
    yield request, state, ReasonCode.DRIFT
    state = replace(state, last_applied=best)
    yield request, state, ReasonCode.IN_PROGRESS
    request = replace(request, observation=lost)
    yield request, state, ReasonCode.REQUESTED
    request = replace(request, requested=None)
    yield request, state, ReasonCode.METRICS_MISSING
    request = replace(request, observation=whole)
    yield request, state, ReasonCode.SWITCH_VARIANT
    state = replace(state, trial=None)
    yield request, state, ReasonCode.SLO_BROKEN


def test_each_rule_gives_way_to_those_before_it() -> None:
    reasons = [(judge(request, state)[0].reason, expected) for request, state, expected in troubles()]
    assert [reason for reason, _ in reasons] == [expected for _, expected in reasons]
    assert len(reasons) == len(BEFORE_LOAD) + len(OF_LOAD)


@pytest.mark.parametrize("name", ["BEFORE_LOAD", "OF_LOAD"])
def test_two_rules_that_change_places_decide_otherwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(troubles())
    listed = getattr(rules, name)
    for at in range(len(listed) - 1):
        order = [*listed[:at], listed[at + 1], listed[at], *listed[at + 2 :]]
        monkeypatch.setattr(rules, name, tuple(order))
        assert any(_reason(request, state) is not expected for request, state, expected in rows), listed[at]


def _reason(request: TickRequest, state: EngineState) -> ReasonCode | None:
    """The reason of the verdict; None where a rule meets what one before it would have refused."""
    try:
        return judge(request, state)[0].reason
    except AssertionError:
        return None


def test_two_rules_ask_for_one_forecast() -> None:
    loads = []
    made = scenario(25.0, forecaster=lambda load: loads.append(load) or window_max(load))  # type: ignore[func-returns-value]
    made.loop.tick_once()
    assert len(loads) == 1


def running_at(rate_rps: float, configs: tuple[StageConfig, ...], **changed: object) -> TickRequest:
    """A tick of the active pipeline over settled replicas of these configurations under that load."""
    request = ticked(control=ACTIVE, **changed)
    signals = Signals(Measured(rate_rps), Measured(LoadHistory(1.0, (rate_rps,) * 60)), Measured(0.4))
    running = tuple(StageState(config, config.replicas) for config in configs)
    workload = WorkloadState("2", running, settled=True)
    return replace(request, observation=observe(request.pipeline, signals, workload, at_s=0.0))


def planning(configs: tuple[StageConfig, ...]) -> Ours:
    """A policy that plans these configurations for any load."""
    plan = profiled().describe(configs, 1.0)
    assert plan is not None
    return Ours(PIPELINE, lambda *_: plan)


@pytest.mark.parametrize(("start", "planned", "words"), [(2, 1, "worth 0.6 more"), (1, 2, "worth 0.6 less")])
def test_a_hold_compares_the_plan_with_the_running_one(start: int, planned: int, words: str) -> None:
    """A replica of detect is one core, at 0.02 a second for half a minute."""
    running, wanted = ((replace(SMALLEST[0], replicas=count), SMALLEST[1]) for count in (start, planned))
    verdict, _ = judge(running_at(2.0, running, policy=planning(wanted)), EngineState(planned=True))
    assert verdict.reason is ReasonCode.WITHIN_TOLERANCE and words in verdict.detail


@pytest.mark.parametrize(
    ("in_fallback", "rate_rps", "planned_rps"), [(True, 25.0, 40.0), (True, 50.0, 55.0), (False, 25.0, 27.5)]
)
def test_until_the_fallback_ends_no_less_than_its_rate_is_planned_for(
    in_fallback: bool, rate_rps: float, planned_rps: float
) -> None:
    pipeline = replace(PIPELINE, fallback=Fallback(40.0, recover_ticks=3))
    state = EngineState(planned=True, telemetry_loss=TelemetryLoss(0, 1, in_fallback))
    verdict, _ = judge(running_at(rate_rps, SMALLEST, pipeline=pipeline), state)
    assert verdict.forecast is not None and verdict.forecast.upper_rps == pytest.approx(planned_rps)


def test_a_canary_that_already_runs_is_measured() -> None:
    pipeline = replace(PIPELINE, canary=Canary(5, 60.0))
    begun, _ = judge(running_at(5.0, SMALLEST, pipeline=pipeline), EngineState(planned=True))
    again, _ = judge(running_at(5.0, begun.configs, pipeline=pipeline), EngineState(planned=True))
    assert (begun.reason, again.reason) == (ReasonCode.CANARY, ReasonCode.CANARY_MEASURED)
    assert begun.trial == again.trial is not None


def test_batches_that_mix_up_rows_are_ended_also_without_load() -> None:
    detect, read = PIPELINE.stages
    pipeline = replace(PIPELINE, stages=(replace(detect, unbatched="its batches mix up rows"), read))
    batched = (replace(SMALLEST[0], batch_size=4), SMALLEST[1])
    request = running_at(25.0, batched, pipeline=pipeline, policy=planning(GROWN))
    blind = replace(request.observation, arrival_rate_rps=UNREAD, load=UNREAD)
    unseen = replace(request, observation=blind)
    state = EngineState(planned=True)
    verdict, _ = judge(unseen, state)
    assert (verdict.reason, verdict.configs) == (ReasonCode.REBATCH, SMALLEST)
    held, _ = judge(replace(unseen, control=PipelineControl(mode=Mode.ADVISORY)), state)
    assert held.reason is ReasonCode.METRICS_MISSING
    # A plan that ends them takes precedence, one that keeps them does not.
    assert judge(request, state)[0].configs == GROWN
    again = judge(replace(request, policy=planning((batched[0], GROWN[1]))), state)[0]
    assert (again.reason, again.configs) == (ReasonCode.REBATCH, SMALLEST)


@dataclass(frozen=True)
class Scripted:
    """A policy that plans by a function of its state and the rate."""

    plan: Callable[[PolicyState, float], Plan | None]
    name: str = "scripted"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        plan = self.plan(state, forecast.upper_rps)
        assert plan is not None
        return plan


@pytest.mark.parametrize(("note", "words"), [("", "no plan was found in time"), ("it is full",) * 2])
def test_a_hold_without_a_plan_says_why_there_is_none(note: str, words: str) -> None:
    whole = planner(PIPELINE, 5.0)
    none = replace(whole, stages=(), termination=Termination.NO_SOLUTION_FOUND, note=note)
    request = running_at(25.0, SMALLEST, policy=Scripted(lambda *_: none))
    verdict, _ = judge(request, EngineState(planned=True))
    assert (verdict.reason, verdict.detail) == (ReasonCode.SOLVER_FAILED, words)


def test_of_loads_without_a_plan_the_highest_is_named() -> None:
    rates = []

    def plan(_: PolicyState, rate_rps: float) -> Plan:
        rates.append(rate_rps)
        raise SolverError(f"no plan for {rate_rps:.3f} rps")

    verdict, _ = judge(running_at(25.0, SMALLEST, policy=Scripted(plan)), EngineState(planned=True))
    assert verdict.detail == f"no plan for {max(rates):.3f} rps" and min(rates) < max(rates)


@pytest.mark.parametrize(("switches", "named"), [(("detect",), ["detect in place"]), ((), [])])
def test_a_decision_names_the_stages_that_change_in_place(
    switches: tuple[str, ...], named: list[str]
) -> None:
    rolling = replace(SIDE_BY_SIDE, switches=switches)
    big = tuple(replace(config, variant="big", replicas=4) for config in SMALLEST)
    request = running_at(25.0, SMALLEST, policy=planning(big), rolling=rolling)
    words = judge(request, EngineState(planned=True))[0].detail.split("; ")
    assert "detect=big" in words[-1] + words[-2] and [it for it in words if it.endswith("in place")] == named


DETECT, READ = SMALLEST
BIG_SIX = (replace(DETECT, variant="big", replicas=6), replace(READ, replicas=2))
BIG_FIVE = (replace(BIG_SIX[0], replicas=5), BIG_SIX[1])
SMALL_FOUR = (replace(DETECT, replicas=4), BIG_SIX[1])
LARGER = (replace(DETECT, variant="big", cores=2.0, replicas=3), READ)
HALVES = in_order(
    [with_share((replace(DETECT, variant=variant, replicas=2), READ), 50) for variant in ("big", "small")]
)


@pytest.mark.parametrize(
    ("most_cores", "running", "wanted", "near", "kept", "hop"),
    [
        # Six big replicas carry 40 rps and two small ones as much: they start once two of the six are gone.
        pytest.param(8.0, BIG_SIX, SMALL_FOUR, SMALL_FOUR, 4, 2, id="nothing can be reached"),
        pytest.param(8.0, BIG_SIX, SMALL_FOUR, BIG_FIVE, 4, 2, id="what can be reached carries less"),
        # The next step depends on the load.
        pytest.param(7.0, HALVES, LARGER, LARGER, 1, None, id="several parts run"),
    ],
)
def test_room_is_made_for_what_carries_as_much_as_now(
    most_cores: float, running: Configs, wanted: Configs, near: Configs, kept: int, hop: int | None
) -> None:
    def plan(state: PolicyState, rate_rps: float) -> Plan | None:
        is_less = state.reachable and near != wanted
        return profiled().describe(near if is_less else wanted, min(rate_rps, 30.0) if is_less else rate_rps)

    tight = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=most_cores))
    request = running_at(60.0, running, pipeline=tight, policy=Scripted(plan))
    verdict, _ = judge(request, EngineState(planned=True))
    assert verdict.action is Action.APPLY and "; then detect=" in verdict.detail
    assert verdict.configs[0].replicas == kept
    assert (verdict.follow_up[0].replicas if verdict.follow_up else None) == hop


def test_while_the_slo_is_broken_a_cheaper_plan_that_carries_as_much_is_no_relief() -> None:
    running = (SMALLEST[0], replace(SMALLEST[1], replicas=5))
    verdict, _ = judge(*late(running_at(5.0, running, policy=planning(SMALLEST))))
    assert (verdict.action, verdict.reason) == (Action.APPLY, ReasonCode.SCALE_DOWN)


@pytest.mark.parametrize(("mode", "is_drift"), [(Mode.ACTIVE, True), (Mode.ADVISORY, False)])
def test_a_change_by_someone_else_is_drift_where_the_loop_writes(mode: Mode, is_drift: bool) -> None:
    control = PipelineControl(mode=mode)
    _, seen = judge(replace(running_at(5.0, SMALLEST), control=control), EngineState(planned=True))
    verdict, _ = judge(replace(running_at(5.0, GROWN), control=control), seen)
    assert (verdict.reason is ReasonCode.DRIFT) == is_drift


def late(request: TickRequest) -> tuple[TickRequest, EngineState]:
    """The request with four of ten requests late, and the state that knows it."""
    broken = replace(request.observation, attainment=Measured(Attainment(100.0, 0.6, 15.0)))
    return replace(request, observation=broken), EngineState(planned=True, is_late=True)


def test_while_the_slo_is_broken_capacity_is_added_and_never_removed() -> None:
    best = judge(ticked(control=ACTIVE), EngineState(planned=True))[0].configs

    def held(rate_rps: float) -> TickVerdict:
        return judge(*late(running_at(rate_rps, best)))[0]

    # What runs is the best plan, or more than the load needs: neither is a reason to be content.
    for rate_rps in (25.0, 5.0):
        verdict = held(rate_rps)
        assert (verdict.action, verdict.reason) == (Action.HOLD, ReasonCode.SLO_BROKEN)
        assert verdict.detail.startswith("60.0 % of the requests of the last 15 s were in time")
    # Where the model expects lateness, its own plan is carried out.
    assert held(60.0).action is Action.APPLY


MIDDLE = tuple(replace(config, replicas=2) for config in SMALLEST)


def rolling_out(
    start: tuple[StageConfig, ...] = SMALLEST,
    wanted: tuple[StageConfig, ...] = MIDDLE,
    rate_rps: float = 60.0,
    **changed: object,
) -> tuple[TickRequest, EngineState]:
    """A change to more replicas rolls out while requests are late; those of the new ones are not ready."""
    request = ticked(control=ACTIVE, rollout=Rollout(RolloutPhase.PROGRESSING, "1 of 2"))
    change = Change("pages-1", "pages", "1", start, wanted, 60.0)
    load = Measured(LoadHistory(1.0, (rate_rps,) * 60))
    running = tuple(StageState(config, 1) for config in wanted)
    workload = WorkloadState("2", running, settled=False)
    signals = Signals(Measured(rate_rps), load, Measured(0.4))
    observation = observe(PIPELINE, signals, workload, at_s=0.0)
    settings = replace(request.settings, correct_profiles=True)
    request, state = late(replace(request, observation=observation, settings=settings))
    waiting = accepted(begin(change, request.now_s))
    return replace(request, **changed), replace(state, actuation=waiting)  # type: ignore[arg-type]


@pytest.mark.parametrize("are_late", [True, False])
def test_what_a_load_has_outgrown_is_added_to_while_it_rolls_out(are_late: bool) -> None:
    request, state = rolling_out()
    state = state if are_late else replace(state, is_late=False)
    verdict, _ = judge(request, state)
    assert (verdict.action, verdict.reason, verdict.amends) == (Action.APPLY, ReasonCode.AMENDED, True)
    for old, new in zip(MIDDLE, verdict.configs, strict=True):
        assert replace(new, replicas=old.replicas, batch_size=old.batch_size) == old
        assert new.replicas >= old.replicas
    assert verdict.configs != MIDDLE
    # The configuration before both is the one to return to.
    effects, after = on_tick(request, state)
    assert effects.change is not None
    assert (effects.change.previous, effects.change.amends) == (SMALLEST, state.actuation.change)
    # It has the whole deadline, and additions still end half of that after the first write.
    assert after.actuation.started_s == state.actuation.started_s
    assert effects.decision.previous == MIDDLE
    failed = replace(request, rollout=Rollout(RolloutPhase.FAILED, "no"), now_s=request.now_s + 5)
    ran = tuple(StageState(config, 1) for config in verdict.configs)
    workload = WorkloadState("3", ran, settled=False)
    signals = Signals(Measured(60.0), request.observation.load, Measured(0.4))
    failed = replace(failed, observation=observe(PIPELINE, signals, workload, at_s=0.0))
    back, _ = judge(failed, replace(after, actuation=accepted(after.actuation)))
    assert (back.reason, back.configs) == (ReasonCode.ROLLBACK, SMALLEST)


REQUEST, STATE = rolling_out()
ROLLBACK = replace(STATE.actuation, change=replace(STATE.actuation.change, is_rollback=True))  # type: ignore[type-var]
# Someone asked for the variant although it failed lately.
BIG_REQUEST, BIG_STATE = rolling_out(
    wanted=(replace(MIDDLE[0], variant="big"), MIDDLE[1]),
    policy=planning((replace(GROWN[0], variant="big"), GROWN[1])),
)
BIG_FAILED = FailedRollout(frozenset({("detect", "big")}), 6.0, BIG_REQUEST.now_s + 60.0)
WIDER = (MIDDLE[0], GROWN[1])
FULL = tuple(replace(config, replicas=8) for config in SMALLEST)


@pytest.mark.parametrize(
    ("request_", "state"),
    [
        pytest.param(*rolling_out(rate_rps=15.0), id="it carries the load"),
        pytest.param(replace(REQUEST, rolling=DEPLOYMENT), STATE, id="a write restarts what starts"),
        pytest.param(replace(REQUEST, now_s=REQUEST.now_s + 31), STATE, id="it may never be ready"),
        pytest.param(REQUEST, replace(STATE, actuation=ROLLBACK), id="it is a rollback"),
        pytest.param(*rolling_out(wanted=FULL), id="there is no more"),
        pytest.param(*rolling_out(policy=planning(WIDER)), id="it carries no more"),
        pytest.param(BIG_REQUEST, replace(BIG_STATE, failures=(BIG_FAILED,)), id="its variant failed lately"),
        pytest.param(
            replace(REQUEST, control=PipelineControl(mode=Mode.ADVISORY)), STATE, id="nothing is written"
        ),
    ],
)
def test_nothing_is_added_to_a_change_without_need_or_where_it_may_do_harm(
    request_: TickRequest, state: EngineState
) -> None:
    assert judge(request_, state)[0].reason is ReasonCode.IN_PROGRESS


def test_an_addition_that_is_not_written_leaves_the_change_as_it_was() -> None:
    effects, after = on_tick(REQUEST, STATE)
    assert effects.change is not None
    refused = unwritten(
        effects.decision,
        effects.change,
        after,
        ConflictError("modified"),
        control=REQUEST.control,
        settings=REQUEST.settings,
        now_s=REQUEST.now_s,
    )
    for state in (refused[1], after, unrecorded(effects.decision, after, ConflictError("no"), 0.0)[1]):
        again = replace(REQUEST, now_s=REQUEST.now_s + 1, control=PipelineControl(mode=Mode.ADVISORY))
        verdict, unchanged = judge(again, state)
        assert verdict.reason is ReasonCode.IN_PROGRESS
        assert unchanged.actuation.change == STATE.actuation.change
        assert unchanged.actuation.phase is ActuationPhase.WAITING_READY
