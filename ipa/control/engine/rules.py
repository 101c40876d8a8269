"""The rules of a tick, in their order: the first one that has a verdict decides.

A rule returns its verdict, or None to leave the tick to the next rule, and the state that follows. The rules
of the load come last. What they decide may be amended: by smaller batches if the running ones mix the rows of
several requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ipa.control.engine import quarantine
from ipa.control.engine.actuation import IDLE, Actuation, ActuationPhase, advance, withdrawn
from ipa.control.engine.canary import (
    FAILED,
    CanaryTrial,
    has_failed,
    has_passed,
    measured,
    proven_by,
    without,
)
from ipa.control.engine.guards import bound_faults, mode_objection, pin_faults, restoring_faults, stop_of
from ipa.control.engine.load_rules import (
    amended,
    beside_trial,
    carries_forecast,
    planned,
    telemetry_lost,
)
from ipa.control.engine.state import (
    ChangeRequest,
    EngineState,
    TickRequest,
    TickVerdict,
    WriteBlock,
    hold,
)
from ipa.control.engine.transition import changes, classify, make_room, no_room, safe_step
from ipa.model.decision import Action, Change, ReasonCode
from ipa.model.observation import Missing, MissingReason
from ipa.model.parts import Configs, variants_of
from ipa.model.serving import without_batches, wrong_rows

# The window in which changes by others are counted: it detects a GitOps tool that reverts every few minutes.
DRIFT_WINDOW_S = 3600.0

Ruling = tuple[TickVerdict | None, EngineState]
Rule = Callable[[TickRequest, EngineState], Ruling]
Amendment = Callable[[TickRequest, EngineState, TickVerdict], tuple[TickVerdict, EngineState]]


def judge(request: TickRequest, state: EngineState) -> tuple[TickVerdict, EngineState]:
    """The verdict of the first rule that has one, with its amendments, and the state that follows."""
    verdict, state = _first(BEFORE_LOAD, request, state)
    if verdict is not None:
        return verdict, state
    request = _within_room(request, state)
    verdict, state = _first(OF_LOAD, request, state)
    assert verdict is not None
    for amend in AMENDMENTS:
        verdict, state = amend(request, state, verdict)
    return verdict, state


def _first(rules: Sequence[Rule], request: TickRequest, state: EngineState) -> Ruling:
    for rule in rules:
        verdict, state = rule(request, state)
        if verdict is not None:
            return verdict, state
    return None, state


def paused(request: TickRequest, state: EngineState) -> Ruling:
    """Hold a pipeline that is paused or frozen. A change in flight is followed, not taken back."""
    stop = stop_of(request.control, request.at)
    if stop is None:
        return None, state
    running = request.observation.running()
    if running is None:
        return hold(*stop), state
    _, state = _follow(request, _unblocked(request, state), running, may_write=False)
    # Others may change a paused pipeline: that is no drift when it resumes.
    last_applied = state.last_applied if state.actuation.in_flight else running
    return hold(*stop), replace(state, goal=None, last_applied=last_applied)


def workload_unknown(request: TickRequest, state: EngineState) -> Ruling:
    """Hold if the running configuration could not be read, or is not one of the pipeline."""
    observation = request.observation
    if observation.running() is not None:
        return None, state
    is_drift = any(
        isinstance(stage.running, Missing) and stage.running.reason is MissingReason.INVALID
        for stage in observation.stages
    )
    reason = ReasonCode.DRIFT if is_drift else ReasonCode.WORKLOAD_UNKNOWN
    return hold(reason, observation.problem or "the running configuration could not be read"), state


def blocked(request: TickRequest, state: EngineState) -> Ruling:
    """Hold a pipeline that is blocked, until a person changes its control or the block ends."""
    state = _unblocked(request, state)
    block = state.block
    if block is None:
        return None, state
    _, followed = _follow(request, state, request.running, may_write=False)
    if block.reason is ReasonCode.ROLLBACK_FAILED:
        if followed.actuation.phase is ActuationPhase.IDLE:
            # It is ready after all, or somebody has changed it.
            return None, replace(followed, block=None)
        # That it failed was said once.
        followed = replace(followed, ended=None)
    block = followed.block or block
    words = f"{block.detail}; to continue, `ipa pause` and `ipa resume` the pipeline"
    return hold(block.reason, words), replace(followed, goal=None)


def follow_change(request: TickRequest, state: EngineState) -> Ruling:
    """Follow the change in flight: hold while it rolls out, or add to it; roll it back if it failed."""
    running, may_write = request.running, request.control.mode.writes
    verdict, state = _follow(request, state, running, may_write=may_write)
    if verdict is not None and verdict.reason is ReasonCode.IN_PROGRESS and may_write:
        wanted, change = request.requested, state.actuation.change
        may_leave = state.actuation.asks_rollout and change is not None and not change.is_rollback
        if wanted is not None and wanted.restores and may_leave:
            # A person who does not wait for its end takes it back first.
            assert change is not None
            if running == change.previous:
                words = "a change is in progress: it was just written; try again"
                return hold(ReasonCode.IN_PROGRESS, words), state
            verdict = _back(request, change, running, ReasonCode.REQUESTED, wanted.detail)
            ended = replace(state.actuation, phase=ActuationPhase.MOVED, detail=wanted.detail)
            goal = None if verdict.configs == wanted.configs else wanted
            return verdict, replace(state, ended=ended, actuation=IDLE, goal=goal, trial=None)
        verdict = amended(_within_room(request, state), state, running, verdict)
    return verdict, state


def drift(request: TickRequest, state: EngineState) -> Ruling:
    """Hold for a tick if somebody else changed the running configuration; block the pipeline if it recurs."""
    running, last_applied = request.running, state.last_applied
    if last_applied is None or running == last_applied:
        return None, replace(state, last_applied=running if request.control.mode.writes else None)
    by = f" ({request.observation.changed_by})" if request.observation.changed_by else ""
    words = f"someone else{by} changed the running configuration: {changes(last_applied, running)}"
    recent = tuple(at_s for at_s in state.drifts_s if request.now_s - at_s < DRIFT_WINDOW_S)
    state = replace(state, last_applied=running, goal=None, drifts_s=(*recent, request.now_s))
    if len(state.drifts_s) >= request.settings.max_drifts:
        state = replace(state, block=WriteBlock(ReasonCode.DRIFT, words, request.control))
    return hold(ReasonCode.DRIFT, words), state


def foreign_rollout(request: TickRequest, state: EngineState) -> Ruling:
    """Hold while someone else's change rolls out.

    A change that ended in this tick ended after the observation, which does not count then.
    """
    if request.observation.settled or state.ended is not None:
        return None, state
    return hold(ReasonCode.IN_PROGRESS, "a change that this service did not make is rolling out"), state


def requested(request: TickRequest, state: EngineState) -> Ruling:
    """Apply the configuration a person asked for, or the next step of one that takes several.

    It needs no load and does not wait, but keeps the bounds, and removes no capacity before its successor is
    ready.
    """
    change_request = request.requested or state.goal
    if change_request is None:
        return None, state
    verdict, goal = _on_request(request, change_request, request.running)
    return verdict, replace(state, goal=goal)


def on_trial(request: TickRequest, state: EngineState) -> Ruling:
    """Hold while a canary is measured; it takes all requests if it passes, and is removed if it fails.

    If the load rises meanwhile, the others get more replicas.
    """
    canary, running = request.pipeline.canary, request.running
    if canary is None:
        return None, replace(state, trial=None)
    state = replace(state, proven=proven_by(running, canary, state.proven))
    if state.trial is None or not state.trial.is_in(running):
        return None, replace(state, trial=None)
    trial = measured(state.trial, request.observation, request.now_s)
    state = replace(state, trial=trial)
    figures = trial.figures(request.pipeline)
    if has_failed(trial, request.pipeline, canary, request.now_s):
        words, mode = f"{FAILED}: {figures}", request.control.mode
        back, base_s = without(trial, running), request.settings.quarantine_s
        held = mode_objection(mode, running, back)
        if held is not None and not mode.writes:
            return hold(held, f"would roll it back: {words}"), state
        # Its variants are left alone for a while.
        failures = quarantine.add(state.failures, back, running, base_s, request.now_s, words)
        detail = f"{words}: {changes(running, back)}"
        state = replace(state, failures=failures, trial=None, goal=None)
        return TickVerdict(Action.APPLY, ReasonCode.ROLLBACK, detail, back), state
    if has_passed(trial, canary):
        return _canary_passed(request, state, trial, f"the canary passed: {figures}")
    words = f"a canary is measured for {trial.measured_s:.0f} of {canary.measure_s:g} s: {figures}"
    return beside_trial(request, state, trial, words), state


def _canary_passed(request: TickRequest, state: EngineState, trial: CanaryTrial, words: str) -> Ruling:
    """Run what was wanted when the canary began; what is planned now, if that does not carry the load."""
    running, mode = request.running, request.control.mode
    held = mode_objection(mode, running, trial.wanted)
    if held is not None:
        return hold(held, f"{words}; would {changes(running, trial.wanted)}"), state
    state = replace(state, trial=None, proven=state.proven | variants_of(trial.canary))
    reason = classify(running, trial.wanted, urgent=True)
    step_of, before = trial.decision_id, trial.before
    change_request = ChangeRequest(trial.wanted, words, reason, step_of=step_of, before=before)
    if carries_forecast(request, trial.wanted):
        verdict, goal = _on_request(request, change_request, running)
        if verdict.action is Action.APPLY:
            return replace(verdict, continues=change_request), replace(state, goal=goal)
    verdict, state = planned(request, state, words)
    return replace(verdict, continues=change_request if verdict.action is Action.APPLY else None), state


def canary_held(
    request: TickRequest, state: EngineState, verdict: TickVerdict
) -> tuple[TickVerdict, EngineState]:
    """Hold with the reason if a better plan needs a variant that failed as a canary."""
    words = quarantine.barred(state.failures, request.running, request.now_s)
    if not words or verdict.reason not in (ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE):
        return verdict, state
    return replace(verdict, reason=ReasonCode.QUARANTINED, detail=f"{words}; {verdict.detail}"), state


def mixed_rows(
    request: TickRequest, state: EngineState, verdict: TickVerdict
) -> tuple[TickVerdict, EngineState]:
    """Rebatch at once if the running batches give requests the rows of others.

    A plan that ends all of them takes precedence: it also has the replicas that the load needs without
    batches.
    """
    running = request.running
    faults = wrong_rows(request.pipeline, running)
    if not faults or (verdict.action is Action.APPLY and not wrong_rows(request.pipeline, verdict.configs)):
        return verdict, state
    configs, bounds = without_batches(request.pipeline, running), request.pipeline.bounds
    step = safe_step(running, configs, request.rolling, bounds).configs
    if step == running:
        step = make_room(running, configs, request.rolling, bounds)
    if step == running or mode_objection(request.control.mode, running, step) is not None:
        return verdict, state
    rebatched = replace(
        verdict,
        action=Action.APPLY,
        reason=ReasonCode.REBATCH,
        detail=f"{'; '.join(faults)}: {changes(running, step)}",
        configs=step,
        follow_up=(),
    )
    return rebatched, state


BEFORE_LOAD: tuple[Rule, ...] = (
    paused,
    workload_unknown,
    blocked,
    follow_change,
    drift,
    foreign_rollout,
    requested,
)
# The last one always has a verdict.
OF_LOAD: tuple[Rule, ...] = (telemetry_lost, on_trial, planned)
AMENDMENTS: tuple[Amendment, ...] = (mixed_rows, canary_held)


def _within_room(request: TickRequest, state: EngineState) -> TickRequest:
    """The request with no more room than the cluster had lately."""
    pipeline = request.pipeline
    room = quarantine.room_cores(state.failures, request.running, pipeline.bounds, request.now_s)
    if room is None:
        return request
    return replace(request, pipeline=replace(pipeline, bounds=pipeline.bounds.within(room)))


def _unblocked(request: TickRequest, state: EngineState) -> EngineState:
    """The state without a block that has ended."""
    until_s = None if state.block is None else state.block.until_s
    is_over = until_s is not None and request.now_s >= until_s
    if state.block is None or (state.block.control == request.control and not is_over):
        return state
    # Nothing more is waited for of a rollback that failed.
    left = IDLE if state.block.reason is ReasonCode.ROLLBACK_FAILED else state.actuation
    return replace(state, block=None, actuation=left, conflicts=0, drifts_s=())


def _follow(request: TickRequest, state: EngineState, running: Configs, *, may_write: bool) -> Ruling:
    """Advance the change in flight; None if nothing is in flight any more."""
    actuation = advance(state.actuation, request.observation, request.rollout, request.now_s)
    if actuation.phase is ActuationPhase.NOT_APPLIED:
        state = replace(state, goal=None, ended=actuation)
        actuation = withdrawn(actuation, request.now_s)
    if actuation.in_flight:
        words = f": {actuation.detail}" if actuation.detail else ""
        held = hold(ReasonCode.IN_PROGRESS, f"a change is not ready yet{words}")
        return held, replace(state, actuation=actuation)
    if actuation.phase is ActuationPhase.FAILED:
        if not may_write:
            # It stays in flight, and is judged again once writing is allowed.
            words = f"the rollout failed, and this mode or pause does not roll it back: {actuation.detail}"
            return hold(ReasonCode.IN_PROGRESS, words), state
        return _take_back(request, replace(state, ended=actuation), running, actuation)
    if actuation.change is None:
        return None, replace(state, actuation=IDLE)
    configs, state = actuation.change.configs, replace(state, actuation=IDLE, ended=actuation)
    if actuation.phase is ActuationPhase.ROLLBACK_FAILED:
        words = f"the rollback failed, and the workload must be repaired by hand: {actuation.detail}"
        block = WriteBlock(ReasonCode.ROLLBACK_FAILED, words, request.control)
        # It is followed on, since it may still become ready.
        return hold(block.reason, words), replace(state, actuation=actuation, block=block)
    state = replace(state, planned=True)
    if actuation.phase is ActuationPhase.SETTLED:
        state = replace(state, conflicts=0, failures=quarantine.forgive(state.failures, configs))
    # If someone else changed it meanwhile, the next rule detects the drift.
    return None, replace(state, last_applied=configs)


def _take_back(
    request: TickRequest, state: EngineState, running: Configs, actuation: Actuation
) -> tuple[TickVerdict, EngineState]:
    """Return to the configuration before the decision whose change failed, and quarantine its variants.

    Of a decision of several steps the last one is undone at once, and the others once that is ready.
    """
    change = actuation.change
    assert change is not None
    base_s = request.settings.quarantine_s
    cores = quarantine.crowded_cores(change.previous, change.configs, request.rolling, actuation)
    failures = quarantine.add(
        state.failures, change.origin, change.configs, base_s, request.now_s, crowded_cores=cores
    )
    state = replace(state, failures=failures, actuation=IDLE, goal=None, trial=None)
    if change.origin != change.previous:
        reason = classify(change.previous, change.origin, urgent=True)
        rest = ChangeRequest(change.origin, "the rollback goes on", reason, restores=True)
        state = replace(state, goal=rest)
    why = f"the rollout failed ({actuation.detail or 'no reason given'})"
    if running == change.previous:
        state = replace(state, last_applied=running)
        return hold(ReasonCode.QUARANTINED, f"{why}: the previous configuration runs again"), state
    return _back(request, change, running, ReasonCode.ROLLBACK, why), state


def _back(
    request: TickRequest, change: Change, running: Configs, reason: ReasonCode, why: str
) -> TickVerdict:
    """The verdict to return to the configuration before the change.

    It ran, so it is safer than a new plan, even if bounds lowered meanwhile are violated until the next plan;
    the detail names them.
    """
    # It may be someone else's, with batch sizes that must not be written again.
    back = without_batches(request.pipeline, change.previous)
    words = f"{why}: {changes(running, back)}"
    faults = bound_faults(request.pipeline, back)
    if faults:
        words += f"; it violates the present bounds: {'; '.join(faults)}"
    return TickVerdict(Action.APPLY, reason, words, back, takes_back=True)


def _on_request(
    request: TickRequest, change_request: ChangeRequest, running: Configs
) -> tuple[TickVerdict, ChangeRequest | None]:
    """The verdict on a request, and the request again if more of its steps are left."""
    configs, detail, pipeline = change_request.configs, change_request.detail, request.pipeline
    violated = [*bound_faults(pipeline, configs), *pin_faults(pipeline, configs)]
    faults = restoring_faults(pipeline, configs) if change_request.restores else violated
    if faults:
        return hold(ReasonCode.INFEASIBLE, f"{detail}: {'; '.join(faults)}"), None
    if change_request.restores:
        # It may be someone else's, with batch sizes that must not be written again.
        configs = without_batches(pipeline, configs)
        violated = [*bound_faults(pipeline, configs), *pin_faults(pipeline, configs)]
    if configs == running:
        return hold(ReasonCode.NO_CHANGE, f"{detail}: this configuration already runs"), None
    also = f"; until the next plan it violates: {'; '.join(violated)}" if violated else ""
    words = f"{detail}: {changes(running, configs)}{also}"
    mode = request.control.mode
    held = mode_objection(mode, running, configs)
    # Guarded mode writes what a person asked for, and a return to what ran, though they remove something.
    overrides = change_request.restores or change_request.reason is ReasonCode.REQUESTED
    if held is not None and not (mode.writes and overrides):
        return hold(held, f"would {words}"), None
    step = safe_step(running, configs, request.rolling, request.pipeline.bounds)
    if step.configs == running:
        remedy = "; allow them in `bounds.transition_cores`, or apply a plan that fits"
        why = no_room(step, running, configs) + (remedy if change_request.restores else "")
        return hold(ReasonCode.NO_ROOM, f"{detail}: {why}"), None
    if step.configs != configs:
        words = f"{detail}: {changes(running, step.configs)}; {step.later}{also}"
    goal = change_request if step.configs != configs else None
    return TickVerdict(Action.APPLY, change_request.reason, words, step.configs), goal
