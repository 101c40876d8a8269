"""Profiles that cannot be believed, as the API and the commands tell of them."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from ipa.api.context import ApiContext
from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.model.profile import StageProfile
from tests.fakes.services import ApiClient, FakeWorld, InProcess, a_profile, over

OCR = "/v1/pipelines/ocr"
WORDS = "the profile of detect is not credible: others used up to 40% of the CPUs while 16 of 16 points"


def disturbed(profile: StageProfile) -> StageProfile:
    return replace(
        profile,
        variants=tuple(
            replace(each, points=tuple(replace(point, foreign_cpu_ratio=0.4) for point in each.points))
            for each in profile.variants
        ),
    )


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


def test_mode_and_status_tell_of_it(
    services: ApiContext, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(services)))
    assert run(["mode", "ocr", "active"]) == 0
    out, err = capfd.readouterr()
    assert out == "ocr is active\n"
    assert f"warning: its plans, which are now applied, may be wrong: {WORDS}" in err
    assert "→ ipa fit ocr shows where" in err
    run(["status", "ocr"])
    assert WORDS.capitalize()[:40] in capfd.readouterr().out
    assert run(["mode", "ocr", "advisory"]) == 0
    assert capfd.readouterr().err == ""
