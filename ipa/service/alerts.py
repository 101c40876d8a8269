"""The raised alerts: those of Prometheus, else what the service itself knows of the shipped rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ipa.control.audit.incidents import BLIND
from ipa.control.loop.snapshot import Sample
from ipa.metering.alerts import AlertState, RaisedAlert, runbook_of
from ipa.model.decision import ReasonCode
from ipa.model.errors import IpaError
from ipa.model.pipeline import Pipeline
from ipa.service.live_state import LiveState
from ipa.service.service import Service
from ipa.service.status import live_of

CRITICAL, WARNING = "critical", "warning"
# As the rule IpaProfileSlow has it.
SLOW_RATIO = 1.25


class AlertOrigin(StrEnum):
    """The evaluator of the rules."""

    PROMETHEUS = "prometheus"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class AlertsView:
    """The raised alerts, the critical ones first, and where their rules are evaluated.

    The service alone knows the last quarter of an hour and no rates of burning budgets; `detail` says in
    words why it was not Prometheus.
    """

    source: AlertOrigin
    detail: str
    alerts: tuple[RaisedAlert, ...]


def alerts(service: Service) -> AlertsView:
    """The raised alerts of the visible pipelines and of the service."""
    try:
        found = service.alerts.raised() if service.alerts else None
        detail = "Prometheus does not have the shipped rules" if service.alerts else "no Prometheus is set"
    except IpaError as error:
        found, detail = None, f"Prometheus: {error.message}"
    if found is not None:
        visible = [each for each in found if not each.pipeline or each.pipeline in service.pipelines]
        return AlertsView(AlertOrigin.PROMETHEUS, "", _sorted(visible))
    pipelines = [service.pipelines.get(name) for name in sorted(service.pipelines)]
    known = [each for it in pipelines if it is not None for each in _known(it, live_of(service, it.name))]
    return AlertsView(AlertOrigin.SERVICE, detail, _sorted([*known, *_of_service(service)]))


def _sorted(found: Sequence[RaisedAlert]) -> tuple[RaisedAlert, ...]:
    def rank(alert: RaisedAlert) -> tuple[bool, bool, str, str]:
        is_pending, is_mild = alert.state is AlertState.PENDING, alert.severity != CRITICAL
        return is_pending, is_mild, alert.name, alert.pipeline

    return tuple(sorted(found, key=rank))


def _of_service(service: Service) -> Iterator[RaisedAlert]:
    standing = service.leadership.standing()
    if not standing.leading and not standing.leader:
        yield _alert("IpaNoLeader", CRITICAL, AlertState.PENDING, "no replica leads")
    for check in service.health.checks():
        if check.name == "store writes" and not check.ok:
            summary = f"the store cannot be written: {check.detail}"
            yield _alert("IpaStoreDegraded", WARNING, AlertState.PENDING, summary)


def _known(pipeline: Pipeline, live: LiveState) -> Iterator[RaisedAlert]:
    """The rules' states by the samples of the last quarter of an hour."""
    name, series = pipeline.name, live.series

    def found(alert: str, severity: str, seen: Seen, summary: str) -> Iterator[RaisedAlert]:
        if seen is not None:
            yield _alert(alert, severity, seen[0], f"{name}{summary}", name, seen[1])

    sla_s = pipeline.sla.latency_s
    broken = _lasting(series, lambda it: it.slo_broken, None)
    yield from found("IpaSloBurnFast", CRITICAL, broken, " breaks its SLO; the alert fires after an hour")
    above = _lasting(series, lambda it: it.latency_s is not None and it.latency_s > sla_s, 300.0)
    yield from found("IpaLatencyAboveSla", WARNING, above, " is above its SLA")
    unseen = _lasting(series, lambda it: it.rate_rps is None or it.reason in BLIND, 120.0)
    yield from found(
        "IpaInputsStale", CRITICAL, unseen, ": the load or the running configuration is not seen"
    )
    for alert, severity, reasons, window_s, summary in SEEN:
        yield from found(alert, severity, _seen(series, reasons, window_s), summary)
    for alert, reason, window_s, ratio, summary in SHARES:
        yield from found(alert, WARNING, _share(series, reason, window_s, ratio), summary)
    now: Seen = (AlertState.PENDING, None)
    for stage in live.stages:
        if stage.config and stage.ready_replicas is not None and stage.ready_replicas < stage.config.replicas:
            words = f": {stage.ready_replicas} of {stage.config.replicas} replicas of {stage.stage} are ready"
            yield from found("IpaReplicasNotReady", WARNING, now, words)
        if stage.config and (stage.slowdown_ratio or 1.0) > SLOW_RATIO:
            words = f": {stage.stage}={stage.config.variant} takes {stage.slowdown_ratio:.2f} × its profile"
            yield from found("IpaProfileSlow", WARNING, now, words)


# The alerts that any decision with one of these reasons within so many seconds raises.
SEEN = (
    (
        *("IpaCrowded", WARNING, frozenset({ReasonCode.SATURATED, ReasonCode.RELIEVED}), 600.0),
        " was given more replicas than planned",
    ),
    (
        "IpaAuditFailing",
        CRITICAL,
        frozenset({ReasonCode.AUDIT_FAILED}),
        300.0,
        ": the store takes no records",
    ),
    ("IpaRolledBack", WARNING, frozenset({ReasonCode.ROLLBACK}), 900.0, ": a change was taken back"),
    ("IpaRollbackFailed", CRITICAL, frozenset({ReasonCode.ROLLBACK_FAILED}), 300.0, " needs manual repair"),
    ("IpaDrift", WARNING, frozenset({ReasonCode.DRIFT}), 300.0, " was changed by someone else"),
    ("IpaWritesRefused", CRITICAL, frozenset({ReasonCode.RBAC}), 300.0, ": the cluster refuses the writes"),
)
# Those that more than this share of the decisions within so many seconds raises.
SHARES = (
    ("IpaInfeasible", ReasonCode.INFEASIBLE, 300.0, 0.5, ": no plan meets its constraints"),
    ("IpaSolverFailing", ReasonCode.SOLVER_FAILED, 300.0, 0.25, ": the solver found no plan"),
    ("IpaNoRoom", ReasonCode.NO_ROOM, 600.0, 0.5, ": no step to the plan fits the core budget"),
)
# The state of an alert and its begin; None if it is not raised.
Seen = tuple[AlertState, str | None] | None


def _lasting(series: Sequence[Sample], holds: Callable[[Sample], bool], for_s: float | None) -> Seen:
    """Raised while the newest samples hold; firing once they did for so long (None: never known)."""
    begin = len(series)
    while begin and holds(series[begin - 1]):
        begin -= 1
    if begin == len(series):
        return None
    is_long = for_s is not None and _ago_s(series, series[begin]) >= for_s
    return AlertState.FIRING if is_long else AlertState.PENDING, series[begin].at


def _seen(series: Sequence[Sample], reasons: frozenset[ReasonCode], window_s: float) -> Seen:
    found = [each for each in series if each.reason in reasons and _ago_s(series, each) <= window_s]
    return (AlertState.FIRING, found[0].at) if found else None


def _share(series: Sequence[Sample], reason: ReasonCode, window_s: float, ratio: float) -> Seen:
    recent = [each for each in series if _ago_s(series, each) <= window_s]
    found = [each for each in recent if each.reason == reason]
    return (AlertState.FIRING, found[0].at) if len(found) > ratio * len(recent) else None


def _ago_s(series: Sequence[Sample], sample: Sample) -> float:
    newest, at = (datetime.fromisoformat(each.at) for each in (series[-1], sample))
    return (newest - at).total_seconds()


def _alert(
    name: str, severity: str, state: AlertState, summary: str, pipeline: str = "", since: str | None = None
) -> RaisedAlert:
    return RaisedAlert(name, severity, state, summary, pipeline, since, runbook_of(name))
