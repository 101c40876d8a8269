"""The tick, as a pure function from an observation to its effects and the next state, with its record."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from math import exp
from typing import TYPE_CHECKING

import ipa
from ipa.control.canonical import canonical_json, digest, digest_of, restored
from ipa.control.engine import quarantine
from ipa.control.engine.actuation import Actuation, begin, unanswered, withdrawn
from ipa.control.engine.canary import FAILED, without_canary
from ipa.control.engine.correction import alarms, learned
from ipa.control.engine.guards import GuardSettings, pins_of
from ipa.control.engine.lateness import breaks_slo, is_broken
from ipa.control.engine.quarantine import FailedRollout, add, crowded_cores
from ipa.control.engine.rules import judge
from ipa.control.engine.state import (
    ChangeRequest,
    EngineState,
    PlannerProvenance,
    RecordedRequest,
    TickRequest,
    TickVerdict,
    WriteBlock,
    hold,
)
from ipa.control.engine.transition import classify, lost_counts, lost_words
from ipa.control.ports import PipelineControl, Rollout, RolloutPhase
from ipa.model.decision import UNHEALTHY, Action, Change, Decision, Effects, Event, Mode, ReasonCode
from ipa.model.errors import (
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    PluginError,
    StandbyError,
    UnavailableError,
)
from ipa.model.measured import with_accuracies
from ipa.model.observation import Forecast, Observation, known
from ipa.model.parts import stage_pairs
from ipa.model.plan import Plan
from ipa.model.serving import wrong_rows
from ipa.policies.base import Policy, PolicyState, corrected, is_stateful, pinned

if TYPE_CHECKING:
    from ipa.policies.table import PolicyInputs

# Gains that were missed longer ago count for little.
FADE_S = 120.0


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
    deciding = _adjusted(deciding, state)
    verdict, state = judge(deciding, state)
    observation = request.observation
    odd = [lost_words(observation)]
    if observation.running() is not None:
        odd.append(observation.problem)
    if verdict.action is Action.HOLD:
        odd += wrong_rows(request.pipeline, observation.running() or ())
    warnings = list(filter(None, odd))
    verdict = replace(verdict, detail="; ".join([verdict.detail, *warnings])) if warnings else verdict
    decision = _decision(request, before, state.tick, verdict)
    is_warning = decision.reason in UNHEALTHY
    # Every change, and a hold that a person should look at when it begins.
    is_told = verdict.action is Action.APPLY or (is_warning and decision.reason is not before.last_reason)
    events = (Event(decision.reason, decision.detail, is_warning), *alarmed) if is_told else alarmed
    counted_s = request.now_s if state.counts(request) else state.counted_s
    missed_gain = _missed_gain(request, state, verdict)
    state = replace(state, last_reason=decision.reason, counted_s=counted_s, missed_gain=missed_gain)
    if verdict.trial is not None:
        trial = replace(verdict.trial, decision_id=decision.decision_id, before=decision.previous)
        state = replace(state, trial=trial)
    change = None
    if verdict.action is Action.APPLY:
        goal = _steps_behind(before.goal, request, verdict)
        step_of = decision.step_of or decision.decision_id
        origin = goal.before if goal else decision.previous
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
            lost=lost_counts(request.observation, verdict.configs, request.rolling),
            before=before_it.before if before_it else goal.before if goal else (),
        )
        state = replace(state, actuation=begin(change, started_s))
        if verdict.follow_up:
            reason = classify(verdict.configs, verdict.follow_up, urgent=True)
            following = ChangeRequest(verdict.follow_up, "the next step of the last change", reason)
            state = replace(state, goal=following)
        if state.goal is not None:
            state = replace(state, goal=replace(state.goal, step_of=step_of, before=origin))
    return Effects(decision, change, events, verdict.proposed), state


def _missed_gain(request: TickRequest, state: EngineState, verdict: TickVerdict) -> float:
    """The gain missed by staying, with that of this tick."""
    if verdict.action is Action.APPLY:
        return 0.0
    if not state.counts(request):
        return state.missed_gain
    tick_s = request.settings.tick_s
    return max(state.missed_gain * exp(-tick_s / FADE_S) + verdict.gain * tick_s, 0.0)


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
        measured=request.pipeline.bounds.measured,
        moving=_moving(request, state.actuation),
        is_broken=broken,
    )
    now, alarmed = alarms(now, request.pipeline)
    return replace(state, correction=now, is_late=broken), alarmed


def _moving(request: TickRequest, actuation: Actuation) -> frozenset[str]:
    """The stages whose replicas are being replaced: of a change by others, all."""
    change, observation = actuation.change, request.observation
    if observation.settled and not actuation.in_flight:
        return frozenset()
    if change is None or observation.running() != change.configs:
        return frozenset(stage.name for stage in request.pipeline.served)
    return frozenset(
        new.stage
        for old, new in stage_pairs(change.previous, change.configs)
        if old is None or not request.rolling.keeps_replicas(old, new)
    )


def _adjusted(request: TickRequest, state: EngineState) -> TickRequest:
    """The request with people's pins in its pipeline, and what was measured of variants.

    Two rules ask for the forecast of the same load, so that it is computed once.
    """
    request = replace(request, forecaster=cache(request.forecaster))
    pins, slowdowns = pins_of(request.control), state.correction.slowdowns(request.pipeline)
    if pins:
        request = replace(request, pipeline=pinned(request.pipeline, pins))
    if not slowdowns:
        return request
    pipeline = with_accuracies(request.pipeline, slowdowns)
    return replace(request, pipeline=pipeline, predict=corrected(request.predict, slowdowns))


def remembered(policy: Policy, observation: Observation, state: EngineState, now_s: float) -> object:
    """The policy's memory after this tick; unchanged if the running configuration is unknown.

    PluginError if a plug-in cannot remember the tick.
    """
    running = observation.running()
    if running is None or not is_stateful(policy):
        return state.memory
    policy_state = PolicyState(state.shadow or running, now_s=now_s, memory=state.memory)
    try:
        return policy.remember(observation, policy_state)
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


def _decision(request: TickRequest, before: EngineState, tick: int, verdict: TickVerdict) -> Decision:
    observation = request.observation
    running = observation.running() or ()
    pipeline, policy = digest_of(request.pipeline), request.policy.name
    version = version_of(request.policy)
    inputs = canonical_json(
        DecisionInputs(pipeline=pipeline, policy=policy, version=version, state=before, **request.recorded)
    )
    # A request made some ticks ago may take several.
    change_request = request.requested or (before.goal if verdict.action is Action.APPLY else None)
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
        by=change_request.by if change_request else "",
        plan_id=change_request.plan_id if change_request else "",
        step_of=steps.step_of if steps else "",
        undoes=change_request.undoes if change_request else "",
        attainment=observation.ended,
        slo_broken=breaks_slo(observation, request.pipeline.sla, request.settings),
    )


def _steps_behind(
    goal: ChangeRequest | None, request: TickRequest, verdict: TickVerdict
) -> ChangeRequest | None:
    """The remaining steps of an earlier decision if this verdict is the next of them; else None."""
    if verdict.continues is not None:
        return verdict.continues
    is_new = request.requested is not None or verdict.reason is ReasonCode.ROLLBACK or verdict.amends
    return None if is_new or verdict.action is Action.HOLD else goal


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs(RecordedRequest):
    """The request of a tick and the state before it; a digest or a name stands for long or opaque parts.

    `pipeline` is the pipeline's digest, `policy` the policy's name, `version` that of this package (and of
    the package that a plug-in policy comes with).
    """

    pipeline: str
    policy: str
    version: str
    state: EngineState


def recalled_failures(
    last: Decision, inputs: DecisionInputs, base_s: float, later_s: float
) -> tuple[FailedRollout, ...]:
    """The failures that an earlier process knew after its last decision; its clock reads `later_s` less."""
    failures, rollout = inputs.state.failures, inputs.rollout or Rollout(RolloutPhase.FAILED)
    if last.reason is ReasonCode.ROLLBACK:
        # The state is that of before it.
        why = last.detail if last.detail.startswith(FAILED) else ""
        cores = crowded_cores(last.configs, last.previous, inputs.rolling, rollout)
        failures = add(failures, last.configs, last.previous, base_s, inputs.now_s, why, cores)
    return tuple(replace(each, until_s=each.until_s + later_s) for each in failures)


def version_of(policy: Policy) -> str:
    """The version of this package, with the package and version of a policy that comes with another."""
    package = getattr(policy, "package", "")
    return f"{ipa.__version__} with {package}" if package else ipa.__version__


def read_inputs(text: str) -> DecisionInputs:
    """Decode the inputs; InputError if the text is invalid. A policy's memory stays plain."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"they are not JSON: {error}") from error
    return restored(DecisionInputs, values)


def made_of(inputs: PolicyInputs) -> PlannerProvenance:
    """The provenance that is recorded with each decision."""
    return PlannerProvenance(digest_of(inputs.profiles), inputs.objective, inputs.solver, inputs.deadline_s)


# The suffix of the id of a decision about a write's outcome.
OUTCOME = "-outcome"


def is_outcome(decision: Decision) -> bool:
    """True if the decision is the outcome of a failed write."""
    return decision.decision_id.endswith(OUTCOME)


def standing_by(request: TickRequest) -> Decision:
    """The decision of a replica of the service that does not lead; it is not recorded."""
    words = "another replica of the service leads; this one stands by"
    return _decision(request, EngineState(), 0, hold(ReasonCode.NOT_LEADER, words))


def unrecorded(
    decision: Decision, state: EngineState, error: IpaError, now_s: float
) -> tuple[Decision, EngineState]:
    """The hold for a decision that could not be recorded: nothing is written."""
    if state.actuation.change is not None and decision.action is Action.APPLY:
        state = replace(state, actuation=withdrawn(state.actuation, now_s), goal=None)
    words = f"the decision {decision.reason.value} could not be recorded: {error}"
    held = replace(decision, action=Action.HOLD, reason=ReasonCode.AUDIT_FAILED, detail=words)
    return replace(held, configs=decision.previous), replace(state, last_reason=held.reason)


def unwritten(
    decision: Decision,
    change: Change,
    state: EngineState,
    error: IpaError,
    *,
    control: PipelineControl,
    settings: GuardSettings,
    now_s: float,
) -> tuple[Decision, EngineState]:
    """A second decision, with the next tick's number, that holds with the cause of the failed write.

    A refused write is never repeated: the next tick reads and decides afresh. Repeated refusals, and refusals
    for missing rights or an invalid object, block the pipeline.
    """
    reason, words = ReasonCode.WORKLOAD_UNKNOWN, str(error)
    left = withdrawn(state.actuation, now_s)
    match error:
        case UnavailableError() | DeadlineError():
            left = unanswered(state.actuation, words)
            words = f"the write got no answer, so the workload will be read back: {words}"
        case StandbyError():
            reason = ReasonCode.NOT_LEADER
        case ConflictError():
            reason, conflicts = ReasonCode.CONFLICT, state.conflicts + 1
            state = replace(state, conflicts=conflicts)
            if conflicts >= settings.max_conflicts:
                why = f"{conflicts} writes in a row were refused, the last with: {words}"
                block = WriteBlock(reason, why, control, now_s + settings.quarantine_s)
                state = replace(state, conflicts=0, block=block)
        case ForbiddenError() | InputError():
            reason = ReasonCode.RBAC
            state = replace(state, block=WriteBlock(reason, words, control))
        case NotFoundError():
            pass
        case _:
            reason = ReasonCode.QUARANTINED
            failures = quarantine.add(
                state.failures, change.previous, change.configs, settings.quarantine_s, now_s
            )
            state = replace(state, failures=failures)
    tick = state.tick + 1
    held = replace(
        decision,
        decision_id=f"{decision.decision_id}{OUTCOME}",
        tick=tick,
        action=Action.HOLD,
        reason=reason,
        detail=words,
        configs=decision.previous,
    )
    return held, replace(state, tick=tick, actuation=left, goal=None, last_reason=reason)
