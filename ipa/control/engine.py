"""One tick, as a pure function: from what was seen to what is to be done, and what to remember."""

from __future__ import annotations

from dataclasses import replace

from ipa.control import quarantine
from ipa.control.actuation import IDLE, Actuation, Phase, advance, begin, withdrawn
from ipa.control.canonical import canonical_json, digest
from ipa.control.choose import changes, classify, no_room
from ipa.control.correction import alarms, learned
from ipa.control.guards import bound_faults
from ipa.control.inputs import inputs_of
from ipa.control.load import on_load
from ipa.control.said import held_back, pin_faults, pins_of, stop_of
from ipa.control.state import Block, EngineState, Request, TickRequest, Verdict, hold
from ipa.control.steps import make_room, safe_step
from ipa.model.decision import UNHEALTHY, Action, Change, Decision, Effects, Event, Mode, ReasonCode
from ipa.model.errors import IpaError
from ipa.model.observation import Measured, Missing, MissingReason, Observation
from ipa.model.plan import StageConfig
from ipa.model.row_counts import without_batches, wrong_rows
from ipa.policies.base import Policy, PolicyState, corrected, is_stateful, pinned

# Changes by another hand are counted over this long: a GitOps tool that reverts every few minutes is seen.
DRIFT_WINDOW_S = 3600.0

Configs = tuple[StageConfig, ...]


def on_tick(request: TickRequest, state: EngineState) -> tuple[Effects, EngineState]:
    """The decision of this tick with the change to write, and the state for the next tick.

    Equal requests and states give equal effects. Nothing is raised for bad data, a failing policy or a
    failing forecast: each is a hold with its reason.
    """
    before = state
    state = replace(state, tick=state.tick + 1, ended=None)
    if request.control.mode is not Mode.SHADOW:
        state = replace(state, shadow=None)
    state = replace(state, memory=remembered(request.policy, request.observation, state, request.now_s))
    state, alarmed = _corrected(request, state)
    verdict, state = _judge(_asked(request, state), state)
    verdict = _warned(request, verdict)
    decision = _decision(request, before, state.tick, verdict)
    events = (*_events(before, decision), *alarmed)
    counted_s = request.now_s if state.counts(request) else state.counted_s
    state = replace(state, last_reason=decision.reason, counted_s=counted_s)
    change = None
    if verdict.action is Action.APPLY:
        change = Change(
            decision_id=decision.decision_id,
            pipeline=request.pipeline.name,
            revision=request.observation.revision,
            previous=decision.previous,
            configs=verdict.configs,
            deadline_s=request.settings.rollout_deadline_s,
            is_rollback=verdict.reason is ReasonCode.ROLLBACK,
        )
        state = replace(state, actuation=begin(change, request.now_s), lower=())
        if verdict.then:
            reason = classify(verdict.configs, verdict.then, urgent=True)
            state = replace(state, goal=Request(verdict.then, "the rest of what was begun", reason))
    return Effects(decision, change, next_tick_s=request.settings.tick_s, events=events), state


def _corrected(request: TickRequest, state: EngineState) -> tuple[EngineState, tuple[Event, ...]]:
    """The state with what is now known of the profiles, and what people are to be told of them."""
    now = learned(
        state.correction,
        request.observation,
        request.predict,
        request.settings,
        request.now_s,
        in_flight=state.actuation.in_flight,
    )
    now, alarmed = alarms(now, request.pipeline)
    return replace(state, correction=now), alarmed


def _asked(request: TickRequest, state: EngineState) -> TickRequest:
    """The request with people's pins in its pipeline, and a predictor that knows how slow variants are."""
    pins, slowdowns = pins_of(request.control), state.correction.slowdowns(request.pipeline)
    if pins:
        request = replace(request, pipeline=pinned(request.pipeline, pins))
    return replace(request, predict=corrected(request.predict, slowdowns)) if slowdowns else request


def remembered(policy: Policy, observation: Observation, state: EngineState, now_s: float) -> object:
    """What the policy remembers after this tick; what it did before where it could not see what runs."""
    running = observation.running()
    if running is None or not is_stateful(policy):
        return state.memory
    asked = PolicyState(state.shadow or running, now_s=now_s, memory=state.memory)
    try:
        return policy.remember(observation, asked)
    except IpaError:
        # It will say so itself when it is asked for a plan.
        return state.memory


def _events(before: EngineState, decision: Decision) -> tuple[Event, ...]:
    """What is worth telling: every change, and a hold for which a person should look, when it begins."""
    is_warning = decision.reason in UNHEALTHY
    if decision.action is Action.APPLY or (is_warning and decision.reason is not before.last_reason):
        return (Event(decision.reason, decision.detail, is_warning),)
    return ()


def _decision(request: TickRequest, before: EngineState, tick: int, verdict: Verdict) -> Decision:
    observation = request.observation
    running = observation.running() or ()
    inputs = canonical_json(inputs_of(request, before))
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
        observed_rate_rps=_value(observation.arrival_rate_rps),
        observed_latency_s=_value(observation.latency_s),
        forecast=verdict.forecast,
        plan=verdict.plan,
        inputs_digest=digest(inputs),
        inputs=inputs,
        by=_asked_by(request.requested, before.goal, verdict),
    )


def _asked_by(requested: Request | None, goal: Request | None, verdict: Verdict) -> str:
    """Who asked for what this tick decides: now, or some ticks ago where it takes more than one."""
    if requested is not None:
        return requested.by
    return goal.by if goal is not None and verdict.action is Action.APPLY else ""


def _judge(request: TickRequest, state: EngineState) -> tuple[Verdict, EngineState]:
    """Pause, then what is in flight, then other hands, then people's requests, then the load."""
    said = stop_of(request.control, request.at)
    pause = hold(*said) if said else None
    running = request.observation.running()
    if running is None:
        reset = replace(state, lower=())
        problem = request.observation.problem or "what runs was not seen"
        reason = ReasonCode.DRIFT if _is_foreign(request.observation) else ReasonCode.WORKLOAD_UNKNOWN
        return pause or hold(reason, problem), reset
    if state.block and not state.block.holds(request.control, request.now_s):
        state = replace(state, block=None, conflicts=0, drifts_s=())
    stop = _stop(state, pause)
    verdict, state = _follow(request, state, running, stop)
    if stop is not None:
        idle = not state.actuation.in_flight
        return stop, replace(state, lower=(), goal=None, ours=running if idle and pause else state.ours)
    if verdict is None:
        verdict, state = _others(request, state, running)
    requested = request.requested or state.goal
    if verdict is None and requested is not None:
        verdict, goal = _on_request(request, requested, running)
        state = replace(state, goal=goal)
    if verdict is not None:
        return verdict, replace(state, lower=())
    verdict, state = on_load(request, state, running)
    return _answering(request, state, running, verdict), state


def _answering(request: TickRequest, state: EngineState, running: Configs, verdict: Verdict) -> Verdict:
    """The verdict, or a rebatch at once where the running batches give requests the rows of others.

    A plan that ends all of them comes first: it also has the replicas that the load needs without batches.
    """
    faults = wrong_rows(request.pipeline, running)
    if not faults or (verdict.action is Action.APPLY and not wrong_rows(request.pipeline, verdict.configs)):
        return verdict
    configs, bounds = without_batches(request.pipeline, running), request.pipeline.bounds
    if quarantine.objection(state.failures, running, configs, request.now_s):
        return verdict
    step = safe_step(running, configs, request.rolling, bounds).configs
    if step == running:
        step = make_room(running, configs, request.rolling, bounds)
    if step == running or held_back(request.control.mode, running, step) is not None:
        return verdict
    return replace(
        verdict,
        action=Action.APPLY,
        reason=ReasonCode.REBATCH,
        detail=f"{'; '.join(faults)}: {changes(running, step)}",
        configs=step,
        then=(),
    )


def _warned(request: TickRequest, verdict: Verdict) -> Verdict:
    """The verdict; a hold says which running batches give requests the rows of others."""
    running = request.observation.running()
    faults = [] if verdict.action is Action.APPLY else wrong_rows(request.pipeline, running or ())
    return replace(verdict, detail="; ".join([verdict.detail, *faults])) if faults else verdict


def _is_foreign(observation: Observation) -> bool:
    """Whether what runs was read, and is no configuration of the pipeline."""
    return any(
        isinstance(stage.running, Missing) and stage.running.reason is MissingReason.INVALID
        for stage in observation.stages
    )


def _stop(state: EngineState, pause: Verdict | None) -> Verdict | None:
    """The hold of a pipeline that is paused, frozen or blocked: nothing at all is written."""
    if pause is not None:
        return pause
    if state.block is not None:
        return hold(state.block.reason, f"{state.block.detail}; pause and resume to go on")
    return None


def _follow(
    request: TickRequest, state: EngineState, running: Configs, stop: Verdict | None
) -> tuple[Verdict | None, EngineState]:
    """Take the change in flight one step on; None where nothing is in flight any more."""
    actuation = advance(state.actuation, request.observation, request.rollout, request.now_s)
    if actuation.phase is Phase.NOT_APPLIED:
        state = replace(state, goal=None, ended=actuation)
        actuation = withdrawn(actuation, request.now_s)
    if actuation.in_flight:
        return _in_progress(actuation), replace(state, actuation=actuation)
    if actuation.phase is Phase.FAILED:
        if stop is not None or not request.control.mode.writes:
            # Kept in flight: it is judged again once writing is allowed.
            words = f"the rollout failed and is not taken back in this mode: {actuation.detail}"
            return hold(ReasonCode.IN_PROGRESS, words), state
        return _take_back(request, replace(state, ended=actuation), running, actuation)
    ended = actuation if actuation.change is not None else state.ended
    return _landed(request, replace(state, actuation=IDLE, ended=ended), actuation)


def _landed(
    request: TickRequest, state: EngineState, actuation: Actuation
) -> tuple[Verdict | None, EngineState]:
    """What follows from a change that is no longer in flight, if there was one."""
    if actuation.change is None:
        return None, state
    configs = actuation.change.configs
    if actuation.phase is Phase.ROLLBACK_FAILED:
        words = f"taking back failed, what runs needs a person: {actuation.detail}"
        block = Block(ReasonCode.ROLLBACK_FAILED, words, request.control)
        return hold(block.reason, words), replace(state, block=block)
    state = replace(state, planned=True)
    if actuation.phase is Phase.SETTLED:
        state = replace(state, conflicts=0, failures=quarantine.forgive(state.failures, configs))
    # Where another hand moved it meanwhile, what runs differs from this and is seen as drift.
    return None, replace(state, ours=configs)


def _take_back(
    request: TickRequest, state: EngineState, running: Configs, actuation: Actuation
) -> tuple[Verdict, EngineState]:
    """Return to what ran before a change that failed, and leave its variants alone for a while."""
    change = actuation.change
    assert change is not None
    base_s = request.settings.quarantine_s
    # Where only room was lacking the variants are not to blame: nothing so large is tried for a while.
    before = change.configs if actuation.lacks_room else change.previous
    failures = quarantine.add(state.failures, before, change.configs, base_s, request.now_s)
    state = replace(state, failures=failures, actuation=IDLE, goal=None)
    words = f"the rollout failed ({actuation.detail or 'no reason given'}): "
    if running == change.previous:
        state = replace(state, ours=running)
        return hold(ReasonCode.QUARANTINED, f"{words}what ran before runs again"), state
    # What ran before may have been another hand's, with batches that must not be written again.
    back = without_batches(request.pipeline, change.previous)
    return Verdict(Action.APPLY, ReasonCode.ROLLBACK, words + changes(running, back), back), state


def _others(request: TickRequest, state: EngineState, running: Configs) -> tuple[Verdict | None, EngineState]:
    """The hold where another hand changed what runs, or is about to."""
    if state.ours is not None and running != state.ours:
        by = f" ({request.observation.changed_by})" if request.observation.changed_by else ""
        words = f"changed by another hand{by}: {changes(state.ours, running)}"
        recent = tuple(at_s for at_s in state.drifts_s if request.now_s - at_s < DRIFT_WINDOW_S)
        state = replace(state, ours=running, goal=None, drifts_s=(*recent, request.now_s))
        if len(state.drifts_s) >= request.settings.max_drifts:
            state = replace(state, block=Block(ReasonCode.DRIFT, words, request.control))
        return hold(ReasonCode.DRIFT, words), state
    state = replace(state, ours=running if request.control.mode.writes else None)
    if not request.observation.settled:
        return hold(ReasonCode.IN_PROGRESS, "a change that is not ours is rolling out"), state
    return None, state


def _on_request(request: TickRequest, requested: Request, running: Configs) -> tuple[Verdict, Request | None]:
    """What a person asked for, or the rest of a change, and the same again where more steps of it are left.

    It needs no load and no patience, yet keeps the bounds, and takes no capacity away before its successor.
    """
    configs, detail = requested.configs, requested.detail
    faults = [*bound_faults(request.pipeline, configs), *pin_faults(request.pipeline, configs)]
    if faults:
        return hold(ReasonCode.INFEASIBLE, f"{detail}: {'; '.join(faults)}"), None
    if configs == running:
        return hold(ReasonCode.NO_CHANGE, f"{detail}: it runs already"), None
    words = f"{detail}: {changes(running, configs)}"
    if not request.control.mode.writes:
        reason = ReasonCode.SHADOW if request.control.mode is Mode.SHADOW else ReasonCode.ADVISORY
        return hold(reason, f"would {words}"), None
    step = safe_step(running, configs, request.rolling, request.pipeline.bounds)
    if step.configs == running:
        return hold(ReasonCode.NO_ROOM, f"{detail}: {no_room(step, running, configs)}"), None
    if step.configs != configs:
        words = f"{detail}: {changes(running, step.configs)}; {step.later}"
    goal = requested if step.configs != configs else None
    return Verdict(Action.APPLY, requested.reason, words, step.configs), goal


def _in_progress(actuation: Actuation) -> Verdict:
    detail = f": {actuation.detail}" if actuation.detail else ""
    return hold(ReasonCode.IN_PROGRESS, f"a change is {actuation.phase.value.replace('_', ' ')}{detail}")


def _value(value: Measured[float] | Missing) -> float | None:
    return value.value if isinstance(value, Measured) else None
