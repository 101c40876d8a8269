"""A broken SLO over the API and the command line is never healthy, and has a runbook."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.control.audit.reason_log import ALERT_OF, RUNBOOKS, runbook_of
from tests.fakes.services import ApiClient, FakeWorld, InProcess

OCR = "/v1/pipelines/ocr"
RULES = Path("deploy/prometheus/rules.yaml")


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
    [row] = api.get("/v1/fleet").json()["pipelines"]
    assert (row["healthy"], row["slo_broken"], row["in_time_ratio"]) == (False, True, 0.6)
    assert (row["lost_rps"], row["retried_rps"]) == (3.4, 0.2)


def test_the_command_line_says_that_the_slo_is_broken(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(world.services()))
    )
    world.slo_broken = True
    world.play(2)
    assert run(["status", "ocr"]) == 5
    out = capfd.readouterr().out
    assert "Degraded: the SLO is broken: 60.0 % of the requests" in out
    assert "Retried: 0.2 batches/s, because their replica was lost" in out


def test_every_alert_that_is_named_is_shipped_with_a_runbook() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    shipped = {rule["alert"] for rule in rules if "alert" in rule}
    assert set(ALERT_OF.values()) <= shipped
    titles = Path(RUNBOOKS).read_text()
    assert all(f"### {name}\n" in titles for name in shipped)
    runbooks = {rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert {runbook_of(name) for name in shipped} == runbooks
