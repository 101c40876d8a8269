"""What we will do, why, and the effects that carry it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ipa.model.forecast import Forecast
from ipa.model.plan import Plan, StageConfig


class Mode(StrEnum):
    """How far a pipeline is trusted to us, least first.

    Advisory decides each tick from what runs and writes nothing. Shadow writes nothing either, but goes on
    from its own decisions as if they had been carried out. Guarded writes only what adds replicas. Active
    writes all.
    """

    ADVISORY = "advisory"
    SHADOW = "shadow"
    GUARDED = "guarded"
    ACTIVE = "active"

    @property
    def writes(self) -> bool:
        """Whether anything may be written at all."""
        return self in (Mode.GUARDED, Mode.ACTIVE)


class Action(StrEnum):
    """Whether a decision changes the world."""

    APPLY = "apply"
    HOLD = "hold"


class ReasonCode(StrEnum):
    """Why a decision was taken. The same string is in the API, the metrics, the events and the audit."""

    SCALE_UP = "apply.scale_up"
    SCALE_DOWN = "apply.scale_down"
    SWITCH_VARIANT = "apply.switch_variant"
    REBATCH = "apply.rebatch"
    RESHARE = "apply.reshare"
    FIRST_PLAN = "apply.first_plan"
    ROLLBACK = "apply.rollback"
    SATURATED = "apply.saturated"
    FALLBACK = "apply.fallback"
    REQUESTED = "apply.requested"
    NO_CHANGE = "hold.no_change"
    WITHIN_TOLERANCE = "hold.within_tolerance"
    STABILISING = "hold.stabilising"
    SIGNALS_DISAGREE = "hold.signals_disagree"
    ADVISORY = "hold.advisory"
    SHADOW = "hold.shadow"
    GUARDED = "hold.guarded"
    FROZEN = "hold.frozen"
    NOT_LEADER = "hold.not_leader"
    NO_ROOM = "hold.no_room"
    PAUSED = "hold.paused"
    METRICS_MISSING = "hold.metrics_missing"
    METRICS_STALE = "hold.metrics_stale"
    METRICS_INVALID = "hold.metrics_invalid"
    WORKLOAD_UNKNOWN = "hold.workload_unknown"
    IN_PROGRESS = "hold.in_progress"
    INFEASIBLE = "hold.infeasible"
    SOLVER_FAILED = "hold.solver_failed"
    QUARANTINED = "hold.quarantined"
    ROLLBACK_FAILED = "hold.rollback_failed"
    CONFLICT = "hold.conflict"
    DRIFT = "hold.drift"
    RBAC = "hold.rbac"
    AUDIT_FAILED = "hold.audit_failed"


# Reasons for which a person should look; the others are the loop doing well.
UNHEALTHY = frozenset(
    {
        ReasonCode.ROLLBACK,
        ReasonCode.SATURATED,
        ReasonCode.FALLBACK,
        ReasonCode.METRICS_MISSING,
        ReasonCode.METRICS_STALE,
        ReasonCode.METRICS_INVALID,
        ReasonCode.WORKLOAD_UNKNOWN,
        ReasonCode.INFEASIBLE,
        ReasonCode.NO_ROOM,
        ReasonCode.SOLVER_FAILED,
        ReasonCode.QUARANTINED,
        ReasonCode.ROLLBACK_FAILED,
        ReasonCode.CONFLICT,
        ReasonCode.DRIFT,
        ReasonCode.RBAC,
        ReasonCode.AUDIT_FAILED,
    }
)


class Notice(StrEnum):
    """What is told beside decisions."""

    PROFILE_SLOW = "notice.profile_slow"


@dataclass(frozen=True, slots=True)
class Decision:
    """Apply a configuration, or hold, with the reason and the inputs it was taken from.

    `configs` is what will run (for a hold: what runs now, as far as known). `plan` and `forecast` are None
    where the tick held before it came to them. `observed_rate_rps` is None where it was not seen.
    """

    decision_id: str
    pipeline: str
    tick: int
    at: str
    action: Action
    reason: ReasonCode
    detail: str
    configs: tuple[StageConfig, ...]
    previous: tuple[StageConfig, ...]
    mode: Mode
    revision: str = ""
    observed_rate_rps: float | None = None
    observed_latency_s: float | None = None
    forecast: Forecast | None = None
    plan: Plan | None = None
    inputs_digest: str = ""
    # The inputs themselves as canonical JSON, so that the decision can be taken again.
    inputs: str = ""
    # Who asked for it; empty where nobody did.
    by: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to write: from what was read (`revision`, `previous`) to `configs`.

    It is taken back where it is not ready `deadline_s` after it was written.
    """

    decision_id: str
    pipeline: str
    revision: str
    previous: tuple[StageConfig, ...]
    configs: tuple[StageConfig, ...]
    deadline_s: float
    is_rollback: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling those who look at the workload: said once, not every tick."""

    reason: ReasonCode | Notice
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Effects:
    """What one tick asks the loop to carry out, in this order: record, then write, then tell, then wait."""

    decision: Decision
    change: Change | None = None
    next_tick_s: float = 0.0
    events: tuple[Event, ...] = field(default=())
