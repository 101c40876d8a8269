"""Incidents over the API and the command line; a broken SLO is never healthy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ipa.cli.layout import date_time
from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.clients.in_process import InProcessClient
from ipa.control.audit.incidents import ALERT_OF, runbook_of
from ipa.settings import Settings, setting_fault
from tests.fakes.services import ApiClient, FakeWorld, InProcess, over

OCR = "/v1/pipelines/ocr"
RULES = Path("deploy/prometheus/rules.yaml")


# The ticks that the world has seen.
PLAYED = 10


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


def test_every_alert_that_is_named_is_shipped_with_a_runbook() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    shipped = {rule["alert"] for rule in rules if "alert" in rule}
    assert set(ALERT_OF.values()) <= shipped
    titles = Path("docs/how-to/alerts.md").read_text()
    assert all(f"### {name}\n" in titles for name in shipped)
    runbooks = {rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert {f"docs/how-to/alerts.md#{name.lower()}" for name in shipped} == runbooks


def test_the_runbook_that_is_named_is_shown_or_the_way_to_that_of_the_settings(world: FakeWorld) -> None:
    path, _, fragment = runbook_of("IpaSloBurnFast").partition("#")
    shown = ApiClient(world.services()).get(path)
    assert shown.status_code == 200 and f'id="{fragment}"' in shown.text
    own = Settings(runbooks_url="https://wiki.example/alerts")
    led = ApiClient(over(world.services(), settings=own)).get(path)
    assert (led.status_code, led.headers["location"]) == (307, own.runbooks_url)
    assert setting_fault("runbooks_url", "wiki/alerts") and not setting_fault("runbooks_url", "")
