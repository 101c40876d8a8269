"""The alerts that Prometheus raises by the shipped rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ipa.adapters.prometheus.connection import PrometheusConnection
from ipa.adapters.prometheus.transport import CheckedSession
from ipa.adapters.ttl_cache import TtlCache
from ipa.metering.alerts import PREFIX, AlertState, RaisedAlert, runbook_of
from ipa.model.errors import InputError

# Rules are evaluated every half minute or so; many may ask.
KEPT_S = 5.0


class PrometheusAlerts:
    """The alerts of a Prometheus, or of what speaks its API, read at most every `KEPT_S`."""

    def __init__(
        self, connection: PrometheusConnection, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = f"{connection.url}/api/v1/rules"
        self._session = CheckedSession(connection, holds="groups")
        self._kept: TtlCache[Sequence[RaisedAlert] | None] = TtlCache(KEPT_S, monotonic_s)

    def raised(self) -> Sequence[RaisedAlert] | None:
        """Return the raised alerts; None if it has none of the shipped rules."""
        return self._kept.get("rules", self._read)[0]

    def _read(self) -> Sequence[RaisedAlert] | None:
        answer = self._session.get(self._url, params={"type": "alert"}).json()
        try:
            rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
            known = [rule for rule in rules if rule["name"].startswith(PREFIX) and "alerts" in rule]
            return (
                [_raised(each, rule["name"]) for rule in known for each in rule["alerts"]] if known else None
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"not an alerting rule of Prometheus: {error}") from error


def _raised(alert: dict[str, Any], name: str) -> RaisedAlert:
    labels, said = alert["labels"], alert.get("annotations") or {}
    return RaisedAlert(
        name=name,
        severity=str(labels.get("severity", "")),
        state=AlertState(alert["state"]),
        summary=str(said.get("summary", name)),
        pipeline=str(labels.get("pipeline", "")),
        since=str(alert["activeAt"]) if alert.get("activeAt") else None,
        runbook_url=_address(said.get("runbook_url")) or runbook_of(name),
    )


def _address(text: Any) -> str:
    """The runbook's address; empty for none that a browser opens, as the path in the shipped rules."""
    return str(text) if str(text).startswith(("https://", "http://")) else ""
