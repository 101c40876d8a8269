"""The outcome of a decision that could not be carried out: a hold with the cause, and the next state."""

from __future__ import annotations

from dataclasses import replace

from ipa.control.engine import quarantine
from ipa.control.engine.actuation import unanswered, withdrawn
from ipa.control.engine.feedback import breaks_slo
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import EngineState, TickRequest, WriteBlock
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Change, Decision, ReasonCode
from ipa.model.errors import (
    ConflictError,
    DeadlineError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    StandbyError,
    UnavailableError,
)
from ipa.model.observation import known

# The suffix of the id of a decision about a write's outcome.
OUTCOME = "-outcome"


def is_outcome(decision: Decision) -> bool:
    """True if the decision is the outcome of a failed write."""
    return decision.decision_id.endswith(OUTCOME)


def standing_by(request: TickRequest) -> Decision:
    """The decision of a replica of the service that does not lead; it is not recorded."""
    name, running = request.pipeline.name, request.observation.running() or ()
    rate = request.observation.arrival_rate_rps
    return Decision(
        decision_id=f"{name}-standby-{request.run_id}",
        pipeline=name,
        tick=0,
        at=request.at.isoformat(),
        action=Action.HOLD,
        reason=ReasonCode.NOT_LEADER,
        detail="another replica of the service leads; this one stands by",
        configs=running,
        previous=running,
        mode=request.control.mode,
        revision=request.observation.revision,
        observed_rate_rps=known(rate),
        slo_broken=breaks_slo(request.observation, request.pipeline.sla, request.settings),
    )


def unrecorded(
    decision: Decision, state: EngineState, error: IpaError, now_s: float
) -> tuple[Decision, EngineState]:
    """The hold for a decision that could not be recorded: nothing is written."""
    if state.actuation.change is not None and decision.action is Action.APPLY:
        state = replace(state, actuation=withdrawn(state.actuation, now_s))
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
            reason = ReasonCode.CONFLICT
            state = _conflicted(state, words, control, settings, now_s)
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


def _conflicted(
    state: EngineState, words: str, control: PipelineControl, settings: GuardSettings, now_s: float
) -> EngineState:
    conflicts = state.conflicts + 1
    if conflicts < settings.max_conflicts:
        return replace(state, conflicts=conflicts)
    said = f"{conflicts} writes in a row were refused, the last with: {words}"
    until_s = now_s + settings.quarantine_s
    return replace(state, conflicts=0, block=WriteBlock(ReasonCode.CONFLICT, said, control, until_s))
