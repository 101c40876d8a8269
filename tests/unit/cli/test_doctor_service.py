"""`ipa doctor` beside a running service: it tells the service's target, and what the service sees there."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from ipa.cli.verbs.doctor import findings_table
from ipa.model.findings import Finding, Severity
from tests.fakes.browsing import serving
from tests.fakes.commands import Ipa
from tests.fakes.people import People, token
from tests.fakes.services import FakeWorld

Doctor = Callable[..., dict[str, Finding]]


@pytest.fixture
def doctor(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa) -> Doctor:
    """Runs it in a folder with one pipeline: what it found by name."""
    for name in ("pipelines", "profiles"):
        shutil.copytree(root / name / "video", tmp_path / name / "video")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("IPA_")]:
        monkeypatch.delenv(name)

    def findings(*arguments: str, code: int) -> dict[str, Finding]:
        out = ipa("doctor", "-o", "json", *arguments, code=code).out
        return {one["name"]: Finding(**{**one, "state": Severity(one["state"])}) for one in json.loads(out)}

    return findings


def blind() -> FakeWorld:
    world = FakeWorld(metrics_fail=True)
    world.tick()
    return world


def test_a_blind_service_is_a_failure(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(blind().services()) as url:
        monkeypatch.setenv("IPA_AT", url)
        for arguments in ([], ["--at", url]):
            findings = doctor(*arguments, code=1)
            sight = findings["service: ocr"]
            assert sight.state is Severity.FAIL and "Prometheus did not answer" in sight.seen
            assert sight.remedy == f"ipa status ocr --at {url}"
            # What this machine can reach of another target says nothing of the service.
            assert "port" not in findings and not any("cores" in name for name in findings)


def test_it_tells_what_the_service_sees_and_its_target(doctor: Doctor) -> None:
    world = FakeWorld()
    world.tick()
    services = world.services()
    settings = replace(services.service.settings, target="kubernetes")
    services = replace(services, service=replace(services.service, settings=settings))
    with serving(services) as url:
        findings = doctor("--at", url, code=0)
    assert findings["service: target"].seen == "kubernetes"
    assert findings["service: ocr"].state is Severity.OK and "it sees" in findings["service: ocr"].seen


def test_the_port_of_the_service_itself_is_no_warning(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(blind().services()) as url:
        monkeypatch.setenv("IPA_PORT", str(httpx.URL(url).port))
        findings = doctor(code=1)
        assert findings["port"] == Finding(
            "port", Severity.OK, f"the service listens on 127.0.0.1:{httpx.URL(url).port}", ""
        )
        assert findings["service: ocr"].state is Severity.FAIL


def test_an_owner_is_told_that_the_service_is_blind(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's settings, its target among them, are told to operators alone; its pipelines are not."""
    services = replace(blind().services(), authenticators=(People(),))
    with serving(services) as url:
        monkeypatch.setenv("IPA_TOKEN", token("act-here"))
        findings = doctor("--at", url, code=1)
        assert findings["service: ocr"].state is Severity.FAIL
        assert "service: target" not in findings and "service: pipelines" not in findings
        monkeypatch.setenv("IPA_TOKEN", token("ops"))
        assert doctor("--at", url, code=1)["service: target"].seen == "local"


def test_one_of_each_is_singular() -> None:
    findings = [Finding(name, state, "seen") for name, state in zip("abc", Severity, strict=True)]
    shown = Console(file=io.StringIO(), width=80)
    shown.print(findings_table(findings))
    assert shown.file.getvalue().splitlines()[-1] == "1 ok, 1 warning, 1 failure"
