"""Incidents of a pipeline, derived from its decisions: begin, end, cause, and what was done.

Trouble of another kind of cause (metrics lost, then a foreign write) is an incident of its own.

An incident is a row of decisions with trouble: requests late or lost, an overloaded stage, a load or workload
that is not seen, a hold that needs manual repair, or a change that was taken back. If nothing but a load or
workload is not seen, it begins once that lasts `BLIND_S`: a service that starts has seen nothing yet, and any
scrape may be missed. It ends with the first decision without trouble; trouble within `AGAIN_S` of that end
continues it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from ipa.control.ports import DecisionLog
from ipa.model.decision import HELD_BY_PEOPLE, UNHEALTHY, Action, Decision, ReasonCode

# A minute in which all is well tells two incidents apart.
AGAIN_S = 60.0
# What is not seen for less is no incident by itself.
BLIND_S = 30.0
# Of each pipeline so many incidents are kept, and of each incident its first actions and causes.
MOST_INCIDENTS, MOST_ACTIONS, MOST_CAUSES = 100, 20, 2
# Decisions that are read of a record that was never read: an hour and a half at ticks of ten seconds. Each
# takes a millisecond.
SEED = 500
# A decision stands for at most this time: ticks may have been missed.
LONGEST_TICK_S = 60.0


class Trouble(StrEnum):
    """A kind of trouble, the worst first."""

    SLO_BROKEN = "slo_broken"
    OVERLOADED = "overloaded"
    BLIND = "blind"
    ROLLED_BACK = "rolled_back"
    HELD = "held"


BLIND = frozenset(
    {
        ReasonCode.METRICS_MISSING,
        ReasonCode.METRICS_STALE,
        ReasonCode.METRICS_INVALID,
        ReasonCode.WORKLOAD_UNKNOWN,
        ReasonCode.FALLBACK,
    }
)
LATE = frozenset({ReasonCode.RELIEVED, ReasonCode.AMENDED, ReasonCode.SLO_BROKEN})
HELD = UNHEALTHY - BLIND - LATE - {ReasonCode.ROLLBACK, ReasonCode.SATURATED}


# The kinds of cause that are told apart; decisions of other reasons belong to the incident that lasts.
CAUSE_OF = {
    **dict.fromkeys(BLIND - {ReasonCode.WORKLOAD_UNKNOWN}, "metrics"),
    ReasonCode.WORKLOAD_UNKNOWN: "workload",
    ReasonCode.ROLLBACK: "rollout",
    ReasonCode.QUARANTINED: "rollout",
    ReasonCode.ROLLBACK_FAILED: "rollout",
    ReasonCode.CONFLICT: "foreign write",
    ReasonCode.DRIFT: "foreign write",
    ReasonCode.INFEASIBLE: "room",
    ReasonCode.NO_ROOM: "room",
    ReasonCode.SOLVER_FAILED: "planner",
    ReasonCode.RBAC: "rights",
    ReasonCode.AUDIT_FAILED: "store",
}


# The page of the service with a section for each alert.
RUNBOOKS = "/runbooks"
# The alert whose runbook helps, by the worst trouble, or by the reason of a hold.
ALERT_OF = {
    Trouble.SLO_BROKEN: "IpaSloBurnFast",
    Trouble.OVERLOADED: "IpaCrowded",
    Trouble.BLIND: "IpaInputsStale",
    Trouble.ROLLED_BACK: "IpaRolledBack",
    ReasonCode.INFEASIBLE: "IpaInfeasible",
    ReasonCode.NO_ROOM: "IpaNoRoom",
    ReasonCode.SOLVER_FAILED: "IpaSolverFailing",
    ReasonCode.QUARANTINED: "IpaQuarantined",
    ReasonCode.ROLLBACK_FAILED: "IpaRollbackFailed",
    ReasonCode.CONFLICT: "IpaWritesConflict",
    ReasonCode.DRIFT: "IpaDrift",
    ReasonCode.RBAC: "IpaWritesRefused",
    ReasonCode.AUDIT_FAILED: "IpaAuditFailing",
}


def runbook_of(alert: str) -> str:
    """The address of the section about the alert, at the service."""
    return f"{RUNBOOKS}#{alert.lower()}"


def runbook_for(decision: Decision) -> str:
    """The runbook that helps with the decision's trouble; empty without trouble."""
    found = troubles_of(decision)
    worst = next((each for each in Trouble if each in found), None)
    alert = ALERT_OF.get(decision.reason if worst in (None, Trouble.HELD) else worst)
    return runbook_of(alert) if alert else ""


def troubles_of(decision: Decision) -> frozenset[Trouble]:
    """The trouble that the decision shows; empty if all is well."""
    found = set()
    if decision.slo_broken or decision.reason in LATE:
        found.add(Trouble.SLO_BROKEN)
    if decision.reason is ReasonCode.SATURATED:
        found.add(Trouble.OVERLOADED)
    if decision.reason in BLIND:
        found.add(Trouble.BLIND)
    if decision.reason is ReasonCode.ROLLBACK:
        found.add(Trouble.ROLLED_BACK)
    if decision.reason in HELD:
        found.add(Trouble.HELD)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class IncidentAction:
    """A change that was made during an incident; `by` is the person who asked for it, empty if nobody did."""

    decision_id: str
    at: str
    reason: ReasonCode
    detail: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class PipelineIncident:
    """A time of trouble; `ended_at` is None while it lasts. Times are in RFC 3339.

    `decision_id` is the first decision with trouble, `troubles` are the kinds, the worst first, `cause` is
    what the record says about why, in words. `actions` are the first changes since then, of `action_count`,
    `held` the last hold. Of the share of requests in time, the latency and the rate the worst are told; None
    if not observed. `lost` is about how many requests got no answer.
    """

    pipeline: str
    begun_at: str
    decision_id: str
    ended_at: str | None = None
    troubles: tuple[Trouble, ...] = ()
    cause: str = ""
    actions: tuple[IncidentAction, ...] = ()
    action_count: int = 0
    held: str = ""
    in_time_ratio: float | None = None
    latency_s: float | None = None
    rate_rps: float | None = None
    lost: float = 0.0
    runbook_url: str = ""


@dataclass(slots=True)
class _Course:
    """The decisions of one pipeline so far: the first and the last of them, the incidents, oldest first."""

    first: Decision | None = None
    last: Decision | None = None
    found: deque[PipelineIncident] = field(default_factory=lambda: deque(maxlen=MOST_INCIDENTS))
    # The last decisions, each with the one before it, if they were made blind for less than `BLIND_S`.
    brief: list[tuple[Decision, Decision | None]] = field(default_factory=list)
    # The causes of the newest incident by their kind, in the order in which they were seen.
    causes: dict[str, str] = field(default_factory=dict)
    # The kind of its cause, of `CAUSE_OF`; empty while none was seen.
    kind: str = ""

    @property
    def lasting(self) -> PipelineIncident | None:
        """The newest incident if it lasts."""
        newest = self.found[-1] if self.found else None
        return newest if newest and newest.ended_at is None else None

    def see(self, decision: Decision) -> None:
        """Take up the next decision."""
        if self.last is not None and decision.tick < self.last.tick:
            # Another pipeline of that name.
            self.first = self.last = None
            self.found.clear()
            self.brief.clear()
        self.first = self.first or decision
        troubles = troubles_of(decision)
        lasting = self.lasting
        if not troubles:
            self.brief.clear()
            if lasting:
                self.found[-1] = replace(lasting, ended_at=decision.at)
        else:
            self.brief.append((decision, self.last))
            since = self.brief[0][0].at
            if lasting or troubles != {Trouble.BLIND} or _seconds(since, decision.at) >= BLIND_S:
                for each, before in self.brief:
                    self._add(each, before)
                self.brief.clear()
        self.last = decision

    def _add(self, decision: Decision, before: Decision | None) -> None:
        """Add a decision with trouble to the newest incident, or begin one."""
        newest, kind = self.found[-1] if self.found else None, CAUSE_OF.get(decision.reason, "")
        is_other = bool(kind and self.kind and kind != self.kind)
        if newest is not None and is_other and newest.ended_at is None:
            self.found[-1] = replace(newest, ended_at=decision.at)
        if newest is None or is_other or not _continues(newest, decision.at):
            self.causes, self.kind = {}, ""
            newest = PipelineIncident(decision.pipeline, decision.at, decision.decision_id)
            self.found.append(newest)
        self.kind = self.kind or kind
        for name, words in _causes(decision, before):
            self.causes.setdefault(name, words)
        first = list(self.causes.values())[:MOST_CAUSES]
        words = "; ".join(first) or _unexplained(decision)
        self.found[-1] = _with(newest, decision, before, troubles_of(decision), words)

    def precede(self, decisions: Iterable[Decision]) -> None:
        """Take up decisions, the oldest first, that were made before all others."""
        earlier = _Course()
        for decision in decisions:
            earlier.see(decision)
        if self.first is None:
            self.first, self.last, self.causes = earlier.first, earlier.last, earlier.causes
            self.kind = earlier.kind
            self.brief = earlier.brief
        elif earlier.found:
            last, mine = earlier.found[-1], self.found[0] if self.found else None
            if mine is not None and _continues(last, mine.begun_at):
                earlier.found[-1] = _joined(last, self.found.popleft())
            elif last.ended_at is None:
                earlier.found[-1] = replace(last, ended_at=self.first.at)
        self.found = deque((*earlier.found, *self.found), MOST_INCIDENTS)


def _continues(incident: PipelineIncident, at: str) -> bool:
    return incident.ended_at is None or _seconds(incident.ended_at, at) <= AGAIN_S


def _joined(one: PipelineIncident, then: PipelineIncident) -> PipelineIncident:
    """One incident of two of which the second continues the first."""
    return replace(
        then,
        begun_at=one.begun_at,
        decision_id=one.decision_id,
        troubles=tuple(each for each in Trouble if each in (*one.troubles, *then.troubles)),
        cause=one.cause,
        actions=(*one.actions, *then.actions)[:MOST_ACTIONS],
        action_count=one.action_count + then.action_count,
        in_time_ratio=_least(one.in_time_ratio, then.in_time_ratio),
        latency_s=_most(one.latency_s, then.latency_s),
        rate_rps=_most(one.rate_rps, then.rate_rps),
        lost=one.lost + then.lost,
    )


def _with(
    incident: PipelineIncident,
    decision: Decision,
    before: Decision | None,
    troubles: Iterable[Trouble],
    cause: str,
) -> PipelineIncident:
    """The incident with the decision."""
    actions, held = incident.actions, incident.held
    if decision.action is Action.APPLY:
        made = IncidentAction(
            decision.decision_id, decision.at, decision.reason, decision.detail, decision.by
        )
        actions = (*actions, made)[:MOST_ACTIONS]
    else:
        held = f"{decision.reason.value}: {decision.detail}"
    seen = decision.attainment
    found = tuple(each for each in Trouble if each in {*incident.troubles, *troubles})
    alert = ALERT_OF.get(decision.reason if found[0] is Trouble.HELD else found[0])
    passed_s = min(_seconds(before.at, decision.at), LONGEST_TICK_S) if before else 0.0
    return replace(
        incident,
        ended_at=None,
        troubles=found,
        runbook_url=runbook_of(alert) if alert else incident.runbook_url,
        cause=cause,
        actions=actions,
        action_count=incident.action_count + (decision.action is Action.APPLY),
        held=held,
        in_time_ratio=_least(incident.in_time_ratio, seen.in_time_ratio if seen else None),
        latency_s=_most(incident.latency_s, decision.observed_latency_s),
        rate_rps=_most(incident.rate_rps, decision.observed_rate_rps),
        lost=incident.lost + ((seen.dropped_rps + seen.failed_rps) * passed_s if seen else 0.0),
    )


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _causes(decision: Decision, before: Decision | None) -> Iterable[tuple[str, str]]:
    """The causes that the decision names, each with its kind, the nearest to the root first."""
    reason, seen = decision.reason, decision.attainment
    if reason in BLIND:
        yield "blind", decision.detail or reason.value
    for loss in seen.losses if seen else ():
        if not loss.is_drop:
            where = f" at {loss.stage}" if loss.stage else ""
            yield "failed", f"requests failed{where}: {loss.cause.replace('_', ' ')}"
            break
    if reason is ReasonCode.ROLLBACK:
        yield "rolled back", decision.detail
    forecast = before.forecast if before else None
    rate = decision.observed_rate_rps
    if forecast is not None and rate is not None and rate > forecast.upper_rps:
        yield "load", f"the load rose to {rate:.3g} rps, above the forecast of {forecast.upper_rps:.3g} rps"
    if reason in HELD or reason in HELD_BY_PEOPLE:
        yield "held", f"{reason.value}: {decision.detail}"
    if reason is ReasonCode.IN_PROGRESS:
        yield "rollout", f"a change was rolling out: {decision.detail}"
    if reason in (ReasonCode.SATURATED, ReasonCode.RELIEVED, ReasonCode.SLO_BROKEN, ReasonCode.AMENDED):
        yield "late", decision.detail
    for loss in seen.losses if seen else ():
        if loss.is_drop:
            where = f" by {loss.stage}" if loss.stage else ""
            yield "dropped", f"requests were dropped{where}: {loss.cause.replace('_', ' ')}"
            break


def _unexplained(decision: Decision) -> str:
    """The trouble whose cause the decision does not name, and the evidence that is missing."""
    seen = decision.attainment
    if seen is None:
        return "the latency was above the SLA; the stage is unknown, because ended requests were not counted"
    late = f"only {seen.in_time_ratio:.1%} of the requests were in time"
    return f"{late}; the stage is unknown, because no request was lost and no stage was overloaded"


def _seconds(first: str, then: str) -> float:
    return (datetime.fromisoformat(then) - datetime.fromisoformat(first)).total_seconds()


class IncidentBook:
    """The incidents of each pipeline since the service began, and of the newest decisions before that.

    A hook of the loops; what they do not tell, since another replica leads, is read from the record.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._courses: dict[str, _Course] = {}
        # The pipelines whose loops told the newest decision, and those whose earlier decisions were read.
        self._told: set[str] = set()
        self._read: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, decision: Decision, snapshot: object) -> None:
        """Take up a loop's decision."""
        name = decision.pipeline
        with self._lock:
            if decision.reason is ReasonCode.NOT_LEADER:
                self._told.discard(name)
                return
            self._told.add(name)
            self._courses.setdefault(name, _Course()).see(decision)

    def lasting(self, pipeline: str) -> PipelineIncident | None:
        """The incident that lasts, as far as the loops told; None if there is none. It reads no record."""
        with self._lock:
            course = self._courses.get(pipeline)
            return course.lasting if course else None

    def of(self, pipeline: str, log: DecisionLog) -> Sequence[PipelineIncident]:
        """The incidents of the pipeline, the newest first. Errors: those of the log."""
        with self._lock:
            course = self._courses.setdefault(pipeline, _Course())
            if pipeline not in self._read:
                course.precede(_earlier(pipeline, log, course.first))
                self._read.add(pipeline)
            if pipeline not in self._told:
                for decision in _newer(pipeline, log, course.last):
                    course.see(decision)
            return tuple(reversed(course.found))


def _earlier(pipeline: str, log: DecisionLog, first: Decision | None) -> Sequence[Decision]:
    """The newest decisions before that one, the oldest first."""
    before = None if first is None else first.tick
    return log.decisions(pipeline, limit=SEED, before_tick=before)[::-1]


def _newer(pipeline: str, log: DecisionLog, last: Decision | None) -> Sequence[Decision]:
    """The decisions after that one, the oldest first."""
    newest = log.decisions(pipeline, limit=1)
    if not newest or (last is not None and newest[0].decision_id == last.decision_id):
        return ()
    passed = SEED if last is None or newest[0].tick < last.tick else newest[0].tick - last.tick + 1
    found = log.decisions(pipeline, limit=min(passed, SEED))[::-1]
    known = [each.decision_id for each in found]
    return found[known.index(last.decision_id) + 1 :] if last and last.decision_id in known else found
