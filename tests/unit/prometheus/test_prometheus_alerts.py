"""The alerts that a Prometheus raises by the shipped rules."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
import requests
from urllib3.response import HTTPResponse

from ipa.adapters.prometheus.alerts import KEPT_S, PrometheusAlerts
from ipa.adapters.prometheus.connection import PrometheusConnection
from ipa.metering.alerts import AlertState, RaisedAlert, runbook_of
from ipa.model.errors import InputError, UnavailableError


class Rules(requests.adapters.BaseAdapter):
    """Answers with these groups, and counts how often."""

    def __init__(self, groups: Any, status: int = 200) -> None:
        super().__init__()
        self.body = json.dumps({"status": "success", "data": {"groups": groups}}).encode()
        self.status = status
        self.asked: list[str | None] = []

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        self.asked.append(request.url)
        found = requests.Response()
        found.status_code = self.status
        found.raw = HTTPResponse(BytesIO(self.body), status=self.status, preload_content=False)
        return found

    def close(self) -> None:
        """Nothing is open."""


def reader(rules: Rules, now: list[float]) -> PrometheusAlerts:
    found = PrometheusAlerts(PrometheusConnection("http://prometheus"), lambda: now[0])
    found._session.mount("http://prometheus", rules)
    return found


def rule(name: str, *alerts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "type": "alerting", "alerts": list(alerts)}


RAISED = {
    "labels": {"alertname": "IpaDrift", "severity": "warning", "pipeline": "ocr", "namespace": "ml"},
    "annotations": {"summary": "another hand changed ocr", "runbook_url": "https://runbooks/drift"},
    "state": "firing",
    "activeAt": "2026-11-24T12:00:00Z",
    "value": "1e+00",
}


def test_the_raised_alerts_of_the_shipped_rules_are_read_and_kept_for_a_moment() -> None:
    path = {"runbook_url": "docs/how-to/alerts.md#ipadown"}
    plain = {"labels": {"severity": "critical"}, "annotations": path, "state": "pending"}
    groups = [
        {"rules": [rule("IpaDrift", RAISED), rule("Watchdog", RAISED)]},
        {"rules": [rule("IpaDown", plain)]},
    ]
    rules, now = Rules(groups), [0.0]
    alerts = reader(rules, now)
    expected = [
        RaisedAlert("IpaDrift", "warning", AlertState.FIRING, "another hand changed ocr", "ocr",
                    "2026-11-24T12:00:00Z", "https://runbooks/drift"),
        RaisedAlert("IpaDown", "critical", AlertState.PENDING, "IpaDown", "", None, runbook_of("IpaDown")),
    ]  # fmt: skip
    assert alerts.raised() == expected == alerts.raised()
    assert rules.asked == ["http://prometheus/api/v1/rules?type=alert"]
    now[0] += KEPT_S + 0.1
    assert alerts.raised() == expected and len(rules.asked) == 2


def test_without_the_shipped_rules_it_knows_nothing_and_with_them_that_all_is_well() -> None:
    assert reader(Rules([{"rules": [rule("Watchdog", RAISED)]}]), [0.0]).raised() is None
    assert reader(Rules([{"rules": [rule("IpaDrift")]}]), [0.0]).raised() == []


@pytest.mark.parametrize(
    ("groups", "status", "error"),
    [
        ([], 503, UnavailableError),
        ("x", 200, InputError),
        ([{"rules": [{"name": "IpaDrift", "alerts": [{"state": "asleep", "labels": {}}]}]}], 200, InputError),
        ([{}], 200, InputError),
    ],
)
def test_what_is_no_answer_says_so(groups: Any, status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        reader(Rules(groups, status), [0.0]).raised()
