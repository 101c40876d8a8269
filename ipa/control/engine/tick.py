"""The tick, as a pure function from an observation to its effects and the next state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from ipa.control.canonical import canonical_json, digest
from ipa.control.engine import lost_replicas
from ipa.control.engine.actuation import Actuation, begin
from ipa.control.engine.canary import without_canary
from ipa.control.engine.change_words import classify
from ipa.control.engine.correction import alarms, learned
from ipa.control.engine.decision_inputs import inputs_of
from ipa.control.engine.feedback import NO_FEEDBACK, breaks_slo, is_broken, planned_words, regulated
from ipa.control.engine.overrides import pins_of
from ipa.control.engine.rules import judge
from ipa.control.engine.state import ChangeRequest, EngineState, TickRequest, TickVerdict
from ipa.model.decision import UNHEALTHY, Action, Change, Decision, Effects, Event, Mode, ReasonCode
from ipa.model.errors import IpaError, PluginError
from ipa.model.forecast import Forecast
from ipa.model.observation import Observation, known
from ipa.model.parts import stage_pairs
from ipa.model.plan import Plan
from ipa.model.serving import wrong_rows
from ipa.policies.base import Policy, PolicyState, corrected, is_stateful, pinned


def on_tick(request: TickRequest, state: EngineState) -> tuple[Effects, EngineState]:
    """The decision of this tick with the change to write, and the state for the next tick.

    Equal requests and states give equal effects. Nothing is raised for bad data, a failing policy or a
    failing forecast: each is a hold with its reason.
    """
    before = state
    state = replace(state, tick=state.tick + 1, ended=None)
    if request.control.mode is not Mode.SHADOW:
        state = replace(state, shadow=None)
    deciding = request
    try:
        memory = remembered(request.policy, request.observation, state, request.now_s)
        state = replace(state, memory=memory)
    except PluginError as error:
        deciding = replace(deciding, policy=_Failing(request.policy.name, error))
    state, alarmed = _corrected(request, state)
    deciding = _asked(deciding, state)
    verdict, state = judge(deciding, state)
    verdict = _warned(request, state, verdict)
    decision = _decision(request, before, state.tick, verdict)
    events = (*_events(before, decision), *alarmed)
    counted_s = request.now_s if state.counts(request) else state.counted_s
    state = replace(state, last_reason=decision.reason, counted_s=counted_s)
    if verdict.trial is not None:
        trial = replace(verdict.trial, decision_id=decision.decision_id, before=decision.previous)
        state = replace(state, trial=trial)
    change = None
    if verdict.action is Action.APPLY:
        asked = _steps_behind(before.goal, request, verdict)
        step_of = decision.step_of or decision.decision_id
        origin = asked.before if asked else decision.previous
        before_it = state.actuation.change if verdict.amends else None
        # What is added to a change has the whole deadline; that it began is not forgotten.
        started_s = request.now_s if before_it is None else state.actuation.started_s
        change = Change(
            decision_id=decision.decision_id,
            pipeline=request.pipeline.name,
            revision=request.observation.revision,
            previous=decision.previous if before_it is None else before_it.previous,
            configs=verdict.configs,
            deadline_s=request.now_s - started_s + request.settings.rollout_deadline_s,
            is_rollback=verdict.takes_back or verdict.reason is ReasonCode.ROLLBACK,
            amends=before_it,
            lost=lost_replicas.counts(request.observation, verdict.configs, request.rolling),
            before=before_it.before if before_it else asked.before if asked else (),
        )
        state = replace(state.without_pending(), actuation=begin(change, started_s))
        if verdict.follow_up:
            reason = classify(verdict.configs, verdict.follow_up, urgent=True)
            following = ChangeRequest(verdict.follow_up, "the next step of the last change", reason)
            state = replace(state, goal=following)
        if state.goal is not None:
            state = replace(state, goal=replace(state.goal, step_of=step_of, before=origin))
    return Effects(decision, change, events), state


def _corrected(request: TickRequest, state: EngineState) -> tuple[EngineState, tuple[Event, ...]]:
    """The state with the newest correction of the profiles, and the events about it."""
    target_ratio = request.pipeline.sla.percentile / 100
    learns = request.settings.correct_profiles
    observation = without_canary(request.observation, state.trial)
    broken = learns and is_broken(observation.attainment, target_ratio, request.settings)
    now = learned(
        state.correction,
        request.observation,
        request.predict,
        request.settings,
        request.now_s,
        in_flight=state.actuation.in_flight,
        is_broken=broken,
    )
    now, alarmed = alarms(now, request.pipeline)
    if not learns:
        return replace(state, correction=now, feedback=NO_FEEDBACK), alarmed
    serving_s = _serving_s(request, state.actuation)
    feedback = regulated(
        state.feedback,
        observation,
        corrected(request.predict, now.slowdowns(request.pipeline)),
        request.now_s,
        in_flight=state.actuation.in_flight and serving_s is None,
        broken=broken,
        allowed_ratio=1 - target_ratio,
        serving_s=serving_s,
        is_quick=request.rolling.switches_at_once,
    )
    return replace(state, correction=now, feedback=feedback), alarmed


def _serving_s(request: TickRequest, actuation: Actuation) -> float | None:
    """The time of the write if the change in flight was made in place, and serves; else None."""
    change, running = actuation.change, request.observation.running()
    if change is None or not request.observation.settled or running != change.configs:
        return None
    in_place = all(
        old is not None and old.replicas == new.replicas and request.rolling.keeps_replicas(old, new)
        for old, new in stage_pairs(change.previous, change.configs)
    )
    return actuation.started_s if in_place else None


def _asked(request: TickRequest, state: EngineState) -> TickRequest:
    """The request with people's pins in its pipeline, and a predictor that knows how slow variants are.

    Two rules ask for the forecast of the same load, so that it is computed once.
    """
    request = replace(request, forecaster=cache(request.forecaster))
    pins, slowdowns = pins_of(request.control), state.correction.slowdowns(request.pipeline)
    if pins:
        request = replace(request, pipeline=pinned(request.pipeline, pins))
    return replace(request, predict=corrected(request.predict, slowdowns)) if slowdowns else request


def remembered(policy: Policy, observation: Observation, state: EngineState, now_s: float) -> object:
    """The policy's memory after this tick; unchanged if the running configuration is unknown.

    PluginError if a plug-in cannot remember the tick.
    """
    running = observation.running()
    if running is None or not is_stateful(policy):
        return state.memory
    asked = PolicyState(state.shadow or running, now_s=now_s, memory=state.memory)
    try:
        return policy.remember(observation, asked)
    except PluginError:
        raise
    except IpaError:
        # The policy raises the same error when it is asked for a plan.
        return state.memory


@dataclass(frozen=True, slots=True)
class _Failing:
    """A policy that could not remember this tick, and so cannot plan for it."""

    name: str
    error: PluginError

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        raise self.error


def _events(before: EngineState, decision: Decision) -> tuple[Event, ...]:
    """The events of the tick: every change, and a hold that a person should look at when it begins."""
    is_warning = decision.reason in UNHEALTHY
    if decision.action is Action.APPLY or (is_warning and decision.reason is not before.last_reason):
        return (Event(decision.reason, decision.detail, is_warning),)
    return ()


def _decision(request: TickRequest, before: EngineState, tick: int, verdict: TickVerdict) -> Decision:
    observation = request.observation
    running = observation.running() or ()
    inputs = canonical_json(inputs_of(request, before))
    asked = _request_behind(request.requested, before.goal, verdict)
    steps = _steps_behind(before.goal, request, verdict)
    return Decision(
        decision_id=f"{request.pipeline.name}-{tick}-{request.run_id}",
        pipeline=request.pipeline.name,
        tick=tick,
        at=request.at.isoformat(),
        action=verdict.action,
        reason=verdict.reason,
        detail=verdict.detail,
        configs=verdict.configs or running,
        previous=running,
        mode=request.control.mode,
        revision=observation.revision,
        observed_rate_rps=known(observation.arrival_rate_rps),
        observed_latency_s=known(observation.latency_s),
        forecast=verdict.forecast,
        plan=verdict.plan,
        inputs_digest=digest(inputs),
        inputs=inputs,
        by=asked.by if asked else "",
        plan_id=asked.plan_id if asked else "",
        step_of=steps.step_of if steps else "",
        undoes=asked.undoes if asked else "",
        attainment=observation.ended,
        slo_broken=breaks_slo(observation, request.pipeline.sla, request.settings),
    )


def _request_behind(
    requested: ChangeRequest | None, goal: ChangeRequest | None, verdict: TickVerdict
) -> ChangeRequest | None:
    """The request behind this decision, made now or some ticks ago if it takes several; else None."""
    if requested is not None:
        return requested
    return goal if verdict.action is Action.APPLY else None


def _steps_behind(
    goal: ChangeRequest | None, request: TickRequest, verdict: TickVerdict
) -> ChangeRequest | None:
    """The remaining steps of an earlier decision if this verdict is the next of them; else None."""
    if verdict.continues is not None:
        return verdict.continues
    is_new = request.requested is not None or verdict.reason is ReasonCode.ROLLBACK or verdict.amends
    return None if is_new or verdict.action is Action.HOLD else goal


def _warned(request: TickRequest, state: EngineState, verdict: TickVerdict) -> TickVerdict:
    """The verdict with what is odd: a rate beside the forecast's, lost replicas, bridged load, wrong rows."""
    observation = request.observation
    plan, forecast = verdict.plan, verdict.forecast
    is_planned = plan is not None and bool(plan.stages) and forecast is not None
    odd = [planned_words(forecast, plan.rate_rps, state.feedback)] if is_planned and plan and forecast else []
    odd.append(lost_replicas.words(observation))
    if observation.running() is not None:
        odd.append(observation.problem)
    if observation.bridged_s:
        since = f"its rates of {observation.bridged_s:.0f} s are older"
        odd.append(f"the pods that count the load were replaced: {since}")
    if verdict.action is Action.HOLD:
        odd += wrong_rows(request.pipeline, observation.running() or ())
    said = list(filter(None, odd))
    return replace(verdict, detail="; ".join([verdict.detail, *said])) if said else verdict
