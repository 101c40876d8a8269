"""Profiles that cannot be believed and broken SLOs, over the API and the command line."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipa.api.context import ApiContext
from ipa.clients.http import HttpClient
from ipa.control.audit.reason_log import ALERT_OF, RUNBOOKS, runbook_of
from ipa.model.profile import StageProfile
from tests.fakes.commands import Ipa
from tests.fakes.policy_contract import with_points
from tests.fakes.services import ApiClient, FakeWorld, InProcess, a_profile, over

OCR = "/v1/pipelines/ocr"
WORDS = "the profile of detect is not credible: other work used up to 40% of the CPUs while 16 of 16 points"


def disturbed(profile: StageProfile) -> StageProfile:
    return with_points(profile, lambda point: replace(point, foreign_cpu_ratio=0.4))


@pytest.fixture
def services() -> ApiContext:
    profiles = {"detect": disturbed(a_profile("detect")), "recognise": a_profile("recognise")}
    return over(FakeWorld().play(1).services(), profiles=profiles)


@pytest.mark.parametrize(("mode", "is_logged"), [("active", True), ("guarded", True), ("advisory", False)])
def test_the_answer_to_a_mode_has_the_doubts_and_one_that_writes_is_logged(
    services: ApiContext, caplog: pytest.LogCaptureFixture, mode: str, is_logged: bool
) -> None:
    api = ApiClient(services)
    with caplog.at_level(logging.WARNING):
        (doubt,) = api("PUT", f"{OCR}/mode", json={"mode": mode}).json()["profile_doubts"]
    assert doubt.startswith(WORDS)
    logged = [record.message for record in caplog.records if WORDS in record.message]
    assert bool(logged) is is_logged
    assert api.get(f"{OCR}/status").json()["control"]["profile_doubts"] == [doubt]


def test_the_fits_of_a_stage_have_the_reasons(services: ApiContext) -> None:
    api = ApiClient(services)
    fits = api.get(f"{OCR}/profiles/detect/fits").json()
    (reason,) = fits["doubts"]
    assert WORDS.endswith(reason.removesuffix(" were measured"))
    assert fits["remedy"] == "measure it on a quiet machine: ipa profile ocr -s detect --write"
    assert api.get(f"{OCR}/profiles/recognise/fits").json()["doubts"] == []


def test_mode_and_status_tell_of_it(services: ApiContext, ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(services)))
    out, err = ipa("mode", "ocr", "active")
    assert out == "ocr is active\n"
    assert f"warning: its plans, which are now applied, may be wrong: {WORDS}" in err
    assert "→ ipa fit ocr shows where" in err
    assert WORDS.capitalize()[:40] in ipa("status", "ocr").out
    assert ipa("mode", "ocr", "advisory").err == ""


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


def test_the_command_line_says_that_the_slo_is_broken(world: FakeWorld, ipa: Ipa) -> None:
    world.slo_broken = True
    world.play(2)
    out = ipa("status", "ocr", code=5).out
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
