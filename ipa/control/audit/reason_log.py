"""The log of a loop's reasons: one line when a reason begins, and one when it ends."""

from __future__ import annotations

import logging
import re
from datetime import datetime

from ipa.model.decision import UNHEALTHY, Action, Decision, ReasonCode

log = logging.getLogger("ipa.control")

# Ticks of a loop that works: a line for each change among them would hide the others.
ROUTINE = frozenset({ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE, ReasonCode.STABILISING})
# Reasons of ticks that saw no load or workload, and of those that acted on, or saw, a broken SLO.
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
# The page with a section for each alert, and the alert whose section helps with a reason.
RUNBOOKS = "docs/how-to/alerts.md"
ALERT_OF = {
    **dict.fromkeys(LATE, "IpaSloBurnFast"),
    **dict.fromkeys(BLIND, "IpaInputsStale"),
    ReasonCode.ROLLBACK: "IpaRolledBack",
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
# The address of the part that a cause is about, as errors name it.
ADDRESS = re.compile(r"https?://[^\s,;'\")]+")


def runbook_of(alert: str) -> str:
    """The section of the runbook about the alert, as the alert names it."""
    return f"{RUNBOOKS}#{alert.lower()}"


def runbook_for(decision: Decision) -> str:
    """The runbook that helps with the decision's trouble; empty without trouble."""
    reason = ReasonCode.SLO_BROKEN if decision.slo_broken else decision.reason
    alert = ALERT_OF.get(reason)
    return runbook_of(alert) if alert else ""


class ReasonLog:
    """A hook of the loops: logs every change, and the start and end of every hold that is not routine.

    A log record has its values in `fields`, which `ipa serve --log json` writes beside the message.
    """

    def __init__(self) -> None:
        # Of each pipeline the change, or the first decision of the hold, that was logged last; none once that
        # ended.
        self._logged: dict[str, Decision] = {}

    def __call__(self, decision: Decision, snapshot: object) -> None:
        """Log the decision if it is a change, or its reason differs from the previous decision's."""
        last, reason = self._logged.get(decision.pipeline), decision.reason
        if last is not None and reason is last.reason and decision.action is not Action.APPLY:
            return
        was_held = last if last is not None and last.action is Action.HOLD else None
        if last is not None and last.action is Action.APPLY and reason is ReasonCode.IN_PROGRESS:
            # It rolls out.
            return
        is_routine = reason in ROUTINE
        if is_routine:
            self._logged.pop(decision.pipeline, None)
        else:
            self._logged[decision.pipeline] = decision
        if is_routine and was_held is None:
            return
        words = f"{reason.value} {decision.detail}"
        lasted_s = None
        if was_held is not None:
            begun, now = (datetime.fromisoformat(each.at) for each in (was_held, decision))
            lasted_s = (now - begun).total_seconds()
            ended = f"{was_held.reason.value} ended after {lasted_s:.0f} s"
            words = f"{ended}: {words}" if is_routine else f"{words} ({ended})"
        level = logging.WARNING if reason in UNHEALTHY else logging.INFO
        level = logging.ERROR if reason is ReasonCode.AUDIT_FAILED else level
        address = ADDRESS.search(decision.detail)
        fields = {
            "pipeline": decision.pipeline,
            "decision_id": decision.decision_id,
            "action": decision.action.value,
            "reason": reason.value,
            "cause": decision.detail,
            "address": address.group() if address else "",
            "remedy": runbook_for(decision),
            "by": decision.by,
            "at": decision.at,
            "ended": was_held.reason.value if was_held else "",
            "lasted_s": lasted_s,
        }
        log.log(level, "%s: %s", decision.pipeline, words, extra={"fields": fields})
