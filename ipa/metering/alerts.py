"""Alerts: their names' runbooks, and one that was raised, by Prometheus or by the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# The page of the service with a section for each alert.
RUNBOOKS = "/runbooks"
# The beginning of the names of the shipped alerts.
PREFIX = "Ipa"


class AlertState(StrEnum):
    """Pending until it has lasted as long as its rule asks for."""

    FIRING = "firing"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class RaisedAlert:
    """An alert that is pending or firing; `since` in RFC 3339, None if unknown.

    `pipeline` is empty for one of the whole service. `runbook_url` is a path of the service,
    or an address, that shows its remedy.
    """

    name: str
    severity: str
    state: AlertState
    summary: str
    pipeline: str = ""
    since: str | None = None
    runbook_url: str = ""


class AlertSource(Protocol):
    """The evaluator of alert rules."""

    def raised(self) -> Sequence[RaisedAlert] | None:
        """The raised alerts of the shipped rules; None if no such rule is loaded.

        Errors: UnavailableError (no answer), InputError (not an answer of Prometheus).
        """


def runbook_of(alert: str) -> str:
    """The address of the section about the alert, at the service."""
    return f"{RUNBOOKS}#{alert.lower()}"
