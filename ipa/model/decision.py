"""Decisions: what the loop does and why, and the effects that carry it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ipa.model.observation import Attainment, Forecast
from ipa.model.plan import Plan, StageConfig
from ipa.model.recording import UNLESS_DEFAULT


class Mode(StrEnum):
    """The extent to which the service may act on a pipeline, least first.

    Advisory decides each tick from the running configuration and writes nothing. Shadow writes nothing
    either, but continues from its own decisions as if they had been carried out. Guarded writes only changes
    that add replicas. Active writes all changes.
    """

    ADVISORY = "advisory"
    SHADOW = "shadow"
    GUARDED = "guarded"
    ACTIVE = "active"

    @property
    def writes(self) -> bool:
        """True if the mode allows any write."""
        return self in (Mode.GUARDED, Mode.ACTIVE)


class Action(StrEnum):
    """The kind of a decision: a change to the workload, or none."""

    APPLY = "apply"
    HOLD = "hold"


class ReasonCode(StrEnum):
    """The reason for a decision. The same string is in the API, the metrics, the events and the record."""

    SCALE_UP = "apply.scale_up"
    SCALE_DOWN = "apply.scale_down"
    SWITCH_VARIANT = "apply.switch_variant"
    REBATCH = "apply.rebatch"
    RESHARE = "apply.reshare"
    CANARY = "apply.canary"
    FIRST_PLAN = "apply.first_plan"
    ROLLBACK = "apply.rollback"
    RELIEVED = "apply.slo_broken"
    AMENDED = "apply.amended"
    FALLBACK = "apply.fallback"
    REQUESTED = "apply.requested"
    NO_CHANGE = "hold.no_change"
    WITHIN_TOLERANCE = "hold.within_tolerance"
    STABILISING = "hold.stabilising"
    CANARY_MEASURED = "hold.canary"
    SLO_BROKEN = "hold.slo_broken"
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

    @classmethod
    def _missing_(cls, value: object) -> ReasonCode | None:
        """The present reason in place of one in records of earlier versions."""
        return cls.RELIEVED if value == "apply.saturated" else None


# Reasons that need a person's attention; with the others the loop works normally.
UNHEALTHY = frozenset(
    {
        ReasonCode.ROLLBACK,
        ReasonCode.RELIEVED,
        ReasonCode.AMENDED,
        ReasonCode.SLO_BROKEN,
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
    """Events that are not decisions."""

    PROFILE_SLOW = "notice.profile_slow"


@dataclass(frozen=True, slots=True)
class Decision:
    """Apply a configuration, or hold, with the reason and the inputs of the decision.

    `configs` is the configuration after the decision (for a hold: the running one, as far as known). `plan`
    and `forecast` are None if the tick held before making them. `observed_rate_rps` is None if it was
    missing.
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
    # The inputs as canonical JSON, so that the decision can be replayed.
    inputs: str = ""
    # The person who asked for it; empty if nobody did.
    by: str = ""
    # The stored plan that the person asked to apply; empty if the configuration did not come from one.
    plan_id: str = ""
    # The decision whose next step this is; empty if it is the first.
    step_of: str = field(default="", metadata=UNLESS_DEFAULT)
    # The decision whose change a person takes back by this one, with all later changes; else empty.
    undoes: str = field(default="", metadata=UNLESS_DEFAULT)
    # The requests that ended lately; None if they were not observed.
    attainment: Attainment | None = field(default=None, metadata=UNLESS_DEFAULT)
    # True if they, or the latency if they are not known, broke the SLO.
    slo_broken: bool = field(default=False, metadata=UNLESS_DEFAULT)


@dataclass(frozen=True, slots=True)
class Change:
    """A change to write: from the state that was read (`revision`, `previous`) to `configs`.

    It is rolled back to `previous` if it is not ready `deadline_s` after the write. `amends` is the change
    that was rolling out, if this one adds to it: then `previous` is the configuration before both. `lost` are
    the replicas of each stage that were lost before (empty: none): the change does not wait for them.
    `before` is the configuration before the decision's first step, if this is a later step.
    """

    decision_id: str
    pipeline: str
    revision: str
    previous: tuple[StageConfig, ...]
    configs: tuple[StageConfig, ...]
    deadline_s: float
    is_rollback: bool = False
    amends: Change | None = None
    lost: tuple[int, ...] = ()
    before: tuple[StageConfig, ...] = field(default=(), metadata=UNLESS_DEFAULT)

    @property
    def origin(self) -> tuple[StageConfig, ...]:
        """The configuration before the decision, however many steps it takes."""
        return self.before or self.previous


@dataclass(frozen=True, slots=True)
class Event:
    """An event for observers of the workload: emitted once, not every tick."""

    reason: ReasonCode | Notice
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one tick, which the loop carries out in this order: record, write, notify.

    `proposed` is the configuration that the mode kept from being written; empty if it kept none.
    """

    decision: Decision
    change: Change | None = None
    events: tuple[Event, ...] = ()
    proposed: tuple[StageConfig, ...] = ()
