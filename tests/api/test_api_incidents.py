"""Incidents and raised alerts over the API and the command line; a broken SLO is never healthy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.cli.main import run
from ipa.cli.views.times import date_time
from ipa.clients.http import HttpClient
from ipa.clients.in_process import InProcessClient
from ipa.control.audit.incidents import ALERT_OF
from ipa.metering.alerts import AlertState, RaisedAlert, runbook_of
from ipa.model.decision import ReasonCode
from ipa.model.errors import UnavailableError
from ipa.service.alerts import SEEN, SHARES
from ipa.settings import Settings, setting_fault
from tests.fakes.services import ApiClient, FakeWorld, InProcess, over

OCR = "/v1/pipelines/ocr"
RULES = Path("deploy/prometheus/rules.yaml")


# The ticks that the world has seen.
PLAYED = 10


def alerts(world: FakeWorld, source: Any = None) -> dict[str, Any]:
    """The alerts, those of the source if there is one."""
    found: dict[str, Any] = ApiClient(over(world.services(), alerts=source)).get("/v1/alerts").json()
    return found


def named(world: FakeWorld) -> dict[str, str]:
    """The state of each raised alert that the service knows itself."""
    return {each["name"]: each["state"] for each in alerts(world)["alerts"]}


def test_a_broken_slo_is_never_healthy(world: FakeWorld) -> None:
    api = ApiClient(world.services())
    assert api.get(f"{OCR}/status").json()["healthy"]
    world.slo_broken = True
    world.play(2)
    status = api.get(f"{OCR}/status").json()
    assert not status["healthy"] and status["live"]["slo_broken"]
    assert status["live"]["degraded"][0].startswith("the SLO is broken: 60.0 % of the requests")
    assert (status["live"]["dropped_rps"], status["live"]["failed_rps"]) == (3.0, 0.4)
    assert status["live"]["retried_rps"] == 0.2
    assert (
        status["live"]["series"][-1]["slo_broken"] and status["live"]["series"][-1]["busy"]["detect"] == 0.72
    )
    assert status["live"]["stages"][0]["busy_ratio"] == pytest.approx(0.72)
    assert status["incident"]["begun_at"] == world.log[-2].at
    [row] = api.get("/v1/fleet").json()["pipelines"]
    assert (row["healthy"], row["slo_broken"], row["in_time_ratio"]) == (False, True, 0.6)
    assert (row["lost_rps"], row["retried_rps"]) == (3.4, 0.2)


def test_incidents_are_listed_with_what_was_done(world: FakeWorld) -> None:
    world.slo_broken = True
    world.play(3)
    world.slo_broken = False
    world.play(1)
    api = ApiClient(world.services())
    [found] = api.get(f"{OCR}/incidents").json()["incidents"]
    assert (found["begun_at"], found["ended_at"]) == (world.log[10].at, world.log[13].at)
    assert found["cause"].startswith("requests failed at detect: model error")
    assert found["runbook_url"] == runbook_of("IpaSloBurnFast")
    done = [each for each in world.log[10:13] if each.action == "apply"]
    assert [each["decision_id"] for each in found["actions"]] == [each.decision_id for each in done]
    assert api.get(f"{OCR}/status").json()["incident"] is None
    with InProcessClient(world.services().service, "here") as client:
        assert client.incidents("ocr", 5)["incidents"] == [found]


def test_the_command_line_tells_incidents(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(world.services()))
    )
    assert run(["history", "ocr", "--incidents"]) == 0
    assert capfd.readouterr().out.strip() == "no incidents"
    world.slo_broken = True
    world.play(2)
    assert run(["history", "ocr", "--incidents"]) == 0
    first, cause, worst, *done = capfd.readouterr().out.splitlines()
    assert first == f"{date_time(world.log[10].at)}  lasts  SLO broken"
    assert cause.startswith("  cause  requests failed at detect: model error")
    assert worst.startswith("  worst  60.0 % in time, latency 0.")
    assert done and all(line.startswith("  done   ") for line in done)
    assert run(["status", "ocr"]) == 5
    out = capfd.readouterr().out
    since = date_time("2026-11-24T12:00:55Z")
    assert f"Incident since {since} (5 s), SLO broken: requests failed at detect" in out
    assert "Retried: 0.2 batches/s, because their replica was lost" in out
    assert run(["history", "ocr", "--incidents", "-o", "json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["incidents"]) == 1


def test_the_service_knows_the_rules_that_it_can(world: FakeWorld) -> None:
    assert alerts(world)["source"] == "service" and named(world) == {}
    world.slo_broken = True
    world.play(1)
    assert named(world) == {"IpaSloBurnFast": "pending"}
    world.slo_broken = False
    world.metrics_fail = True
    world.play(10)
    assert named(world)["IpaInputsStale"] == "pending"
    world.play(20)
    assert named(world)["IpaInputsStale"] == "firing"


def test_reasons_raise_alerts_for_as_long_as_their_windows(world: FakeWorld) -> None:
    world.play(170)
    ours = world.history

    def with_reason(reason: ReasonCode, ago: int, count: int) -> dict[str, str]:
        end = len(ours) - ago
        world.history = [
            replace(each, reason=reason.value) if end - count <= at < end else each
            for at, each in enumerate(ours)
        ]
        return named(world)

    assert with_reason(ReasonCode.RBAC, 60, 1) == {"IpaWritesRefused": "firing"}
    assert with_reason(ReasonCode.RBAC, 61, 1) == {}
    assert with_reason(ReasonCode.INFEASIBLE, 0, 31) == {"IpaInfeasible": "firing"}
    assert with_reason(ReasonCode.INFEASIBLE, 0, 30) == {}
    late = [replace(each, latency_s=1.0) for each in ours[-60:]]
    world.history = [*ours[:-60], *late]
    assert named(world) == {"IpaLatencyAboveSla": "pending"}
    world.history = [*ours[:-61], replace(ours[-61], latency_s=1.0), *late]
    assert named(world) == {"IpaLatencyAboveSla": "firing"}


class Source:
    """A Prometheus that raises these alerts, or does not answer."""

    def __init__(self, found: Sequence[RaisedAlert] | None, error: Exception | None = None) -> None:
        self._found, self._error = found, error

    def raised(self) -> Sequence[RaisedAlert] | None:
        if self._error:
            raise self._error
        return self._found


def test_alerts_of_prometheus_take_precedence_and_of_others_are_not_shown(world: FakeWorld) -> None:
    world.slo_broken = True
    world.play(1)
    pending, firing = AlertState.PENDING, AlertState.FIRING
    found = [
        RaisedAlert("IpaDrift", "warning", pending, "drift", "ocr"),
        RaisedAlert("IpaDrift", "warning", firing, "drift", "secret"),
        RaisedAlert("IpaNoLeader", "critical", firing, "nobody leads"),
    ]
    answer = alerts(world, Source(found))
    assert answer["source"] == "prometheus"
    assert [each["name"] for each in answer["alerts"]] == ["IpaNoLeader", "IpaDrift"]
    unloaded, away = alerts(world, Source(None)), alerts(world, Source([], UnavailableError("refused")))
    assert (unloaded["source"], away["source"]) == ("service", "service")
    assert unloaded["detail"] == "Prometheus does not have the shipped rules"
    assert away["detail"] == "Prometheus: refused" and away["alerts"] == unloaded["alerts"] != []


def test_every_alert_that_is_named_is_shipped_with_that_severity_and_a_runbook() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in rules if "alert" in rule}
    assert {name: severity[name] for name, *_ in SEEN} == {name: each for name, each, *_ in SEEN}
    assert all(severity[name] == "warning" for name, *_ in SHARES)
    assert set(ALERT_OF.values()) <= severity.keys()
    titles = Path("docs/how-to/alerts.md").read_text()
    assert all(f"### {name}\n" in titles for name in severity)
    runbooks = {rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert {f"docs/how-to/alerts.md#{name.lower()}" for name in severity} == runbooks


def test_the_runbook_that_is_named_is_shown_or_the_way_to_that_of_the_settings(world: FakeWorld) -> None:
    path, _, fragment = runbook_of("IpaSloBurnFast").partition("#")
    shown = ApiClient(world.services()).get(path)
    assert shown.status_code == 200 and f'id="{fragment}"' in shown.text
    own = Settings(runbooks_url="https://wiki.example/alerts")
    led = ApiClient(over(world.services(), settings=own)).get(path)
    assert (led.status_code, led.headers["location"]) == (307, own.runbooks_url)
    assert setting_fault("runbooks_url", "wiki/alerts") and not setting_fault("runbooks_url", "")
