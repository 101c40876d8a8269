"""The actuation of a decision, as a pure state machine: at most one change in flight for a pipeline.

    IDLE ─begin▶ PATCHING ─accepted▶ WAITING_READY ─ready▶ SETTLED
      PATCHING ─refused▶ IDLE (never sent again: the next tick reads and decides afresh)
      PATCHING ─no answer▶ UNKNOWN ─read back▶ WAITING_READY | NOT_APPLIED
        (of several objects only some may be written: that part is then the change)
      WAITING_READY ─failed or deadline▶ FAILED ─begin a rollback▶ PATCHING ▶ WAITING_READY
        WAITING_READY (rollback) ─ready▶ ROLLED_BACK    ─failed or deadline▶ ROLLBACK_FAILED ─▶ WAITING_READY

SETTLED, NOT_APPLIED, FAILED, ROLLED_BACK and MOVED (someone else changed it meanwhile) are verdicts of one
tick; the engine handles each and continues from IDLE. ROLLBACK_FAILED lasts until it is ready or a person
ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ipa.control.ports import Rollout, RolloutPhase
from ipa.model.decision import Action, Change, Decision, ReasonCode
from ipa.model.observation import Observation
from ipa.model.plan import StageConfig, in_words
from ipa.model.recording import UNLESS_DEFAULT


class ActuationPhase(StrEnum):
    """The phase of an actuation."""

    IDLE = "idle"
    PATCHING = "patching"
    UNKNOWN = "unknown"
    WAITING_READY = "waiting_ready"
    SETTLED = "settled"
    NOT_APPLIED = "not_applied"
    MOVED = "moved"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


IN_FLIGHT = frozenset({ActuationPhase.PATCHING, ActuationPhase.UNKNOWN, ActuationPhase.WAITING_READY})


@dataclass(frozen=True, slots=True)
class Actuation:
    """A phase, its change (None when idle), and its start on the monotonic clock."""

    phase: ActuationPhase = ActuationPhase.IDLE
    change: Change | None = None
    started_s: float = 0.0
    detail: str = ""
    lacks_room: bool = False
    room_cores: float | None = field(default=None, metadata=UNLESS_DEFAULT)

    @property
    def in_flight(self) -> bool:
        """True if a change is in flight: no other may begin."""
        return self.phase in IN_FLIGHT

    @property
    def asks_rollout(self) -> bool:
        """True if the next step needs the state of the rollout: also of a rollback that failed."""
        return self.phase in (ActuationPhase.WAITING_READY, ActuationPhase.ROLLBACK_FAILED)


IDLE = Actuation()


def begin(change: Change, now_s: float) -> Actuation:
    """The actuation of a change whose decision is about to be recorded, and then written."""
    return Actuation(ActuationPhase.PATCHING, change, now_s)


def accepted(actuation: Actuation) -> Actuation:
    """The actuation after the write was accepted: the change is rolling out."""
    return _answered(actuation, ActuationPhase.WAITING_READY)


def unanswered(actuation: Actuation, detail: str) -> Actuation:
    """The actuation after a write without an answer: the workload must be read back."""
    return _answered(actuation, ActuationPhase.UNKNOWN, detail)


def withdrawn(actuation: Actuation, now_s: float) -> Actuation:
    """The actuation after a change that was not written: idle, or that of the change before it.

    One that it was to amend goes on. One that it was to roll back is past its deadline, so the next tick
    rolls it back again unless it has become ready.
    """
    change = _change(actuation)
    if change.amends is not None:
        return Actuation(ActuationPhase.WAITING_READY, change.amends, actuation.started_s, actuation.detail)
    if not change.is_rollback:
        return IDLE
    undone = replace(
        change, previous=change.configs, configs=change.previous, deadline_s=0.0, is_rollback=False
    )
    return Actuation(ActuationPhase.WAITING_READY, undone, now_s, actuation.detail)


def advance(
    actuation: Actuation, observation: Observation, rollout: Rollout | None, now_s: float
) -> Actuation:
    """The actuation after the newest observation.

    PATCHING of a tick that raised before the answer is handled as UNKNOWN. A rollback that failed is waited
    for as before.
    """
    if actuation.phase is ActuationPhase.ROLLBACK_FAILED:
        actuation = replace(actuation, phase=ActuationPhase.WAITING_READY)
    if not actuation.in_flight:
        return IDLE
    running = observation.running()
    if running is None:
        return actuation
    if actuation.phase is not ActuationPhase.WAITING_READY:
        actuation = _read_back(actuation, running)
        if actuation.phase is not ActuationPhase.WAITING_READY:
            return actuation
    return _watched(actuation, running, rollout, now_s)


def resume(
    applied: Sequence[Decision], observation: Observation, deadline_s: float, now_s: float
) -> Actuation:
    """The actuation that an earlier process left in flight, from the record and the workload alone.

    `applied` are the applied decisions, the newest first. The change is in flight if the newest one's
    configuration runs and is not settled yet. If that decision was a rollback that was not written, the
    change that it was to undo is in flight, and is rolled back again.
    """
    last = applied[0] if applied else None
    if last is None or last.action is not Action.APPLY or observation.settled:
        return IDLE
    # What amended a change returns to the configuration before that, and so does the step of a decision.
    begun = next((each for each in applied if each.reason is not ReasonCode.AMENDED), last)
    first = next((each for each in applied if each.decision_id == begun.step_of), None)
    change = Change(
        decision_id=last.decision_id,
        pipeline=last.pipeline,
        revision=observation.revision,
        previous=begun.previous,
        configs=last.configs,
        deadline_s=deadline_s,
        is_rollback=bool(last.undoes) or last.reason is ReasonCode.ROLLBACK,
        before=first.previous if first else (),
    )
    actuation = Actuation(ActuationPhase.WAITING_READY, change, now_s, "resumed after a restart")
    running = observation.running()
    if running == last.configs:
        return actuation
    if change.is_rollback and running == last.previous:
        return withdrawn(actuation, now_s)
    return _partly(actuation, running) if running and _is_part(change, running) else IDLE


def _read_back(actuation: Actuation, running: Sequence[StageConfig]) -> Actuation:
    change = _change(actuation)
    if tuple(running) == change.configs:
        return replace(actuation, phase=ActuationPhase.WAITING_READY)
    if tuple(running) == (change.previous if change.amends is None else change.amends.configs):
        return replace(actuation, phase=ActuationPhase.NOT_APPLIED)
    if _is_part(change, running):
        return _partly(actuation, running)
    return replace(actuation, phase=ActuationPhase.MOVED, detail=f"read back {in_words(running)}")


def _is_part(change: Change, running: Sequence[StageConfig]) -> bool:
    """True if part of the change runs: each stage's batch size and replicas are as before or after it."""
    if len(running) == len(change.previous) == len(change.configs):
        pairs = zip(running, change.previous, change.configs, strict=True)
        return tuple(running) != change.previous and all(
            now.batch_size in (old.batch_size, new.batch_size)
            and replace(now, batch_size=1) in (replace(old, batch_size=1), replace(new, batch_size=1))
            for now, old, new in pairs
        )
    return False


def _partly(actuation: Actuation, running: Sequence[StageConfig]) -> Actuation:
    """The actuation of the part of its change that was written; the rest is decided once that is ready."""
    change = replace(_change(actuation), configs=tuple(running))
    return replace(
        actuation,
        phase=ActuationPhase.WAITING_READY,
        change=change,
        detail="only a part of the change was written",
    )


def _watched(
    actuation: Actuation, running: Sequence[StageConfig], rollout: Rollout | None, now_s: float
) -> Actuation:
    if rollout is None:
        return replace(actuation, detail="the state of the rollout cannot be read")
    change = _change(actuation)
    actuation = replace(actuation, lacks_room=rollout.lacks_room, room_cores=rollout.room_cores)
    # A rollback waits for room: the pods of the change that it takes back hold theirs until they have ended.
    if rollout.phase is RolloutPhase.FAILED and not (change.is_rollback and rollout.lacks_room):
        return _failed(actuation, rollout.detail)
    if rollout.phase is RolloutPhase.READY and tuple(running) == change.configs:
        end = ActuationPhase.ROLLED_BACK if change.is_rollback else ActuationPhase.SETTLED
        # What it waited for last is over.
        return replace(actuation, phase=end, detail="")
    moved = _moved(change, running, rollout)
    if moved:
        return replace(actuation, phase=ActuationPhase.MOVED, detail=moved)
    if now_s - actuation.started_s >= change.deadline_s:
        waited = f"not ready after {change.deadline_s:g} s"
        return _failed(actuation, f"{waited}: {rollout.detail}" if rollout.detail else waited)
    return replace(actuation, detail=rollout.detail)


def _moved(change: Change, running: Sequence[StageConfig], rollout: Rollout) -> str:
    """The configuration that someone else made of it, in words; empty if nobody did, as far as known."""
    if rollout.phase is RolloutPhase.REPLACED:
        # Even if it reads as before the change: it was created anew, so the read is not stale.
        return rollout.detail
    # Ready but still `previous`: the read may be older than our write, so wait for the next one.
    is_other = rollout.phase is RolloutPhase.READY and tuple(running) != change.previous
    return f"someone else changed it to {in_words(running)}" if is_other else ""


def _failed(actuation: Actuation, detail: str) -> Actuation:
    phase = ActuationPhase.ROLLBACK_FAILED if _change(actuation).is_rollback else ActuationPhase.FAILED
    return replace(actuation, phase=phase, detail=detail)


def _answered(actuation: Actuation, to: ActuationPhase, detail: str = "") -> Actuation:
    if actuation.phase is not ActuationPhase.PATCHING:
        raise ValueError(f"an actuation cannot go from {actuation.phase.value} to {to.value}")
    return replace(actuation, phase=to, detail=detail)


def _change(actuation: Actuation) -> Change:
    if actuation.change is None:
        raise ValueError(f"an actuation that is {actuation.phase.value} has no change")
    return actuation.change
