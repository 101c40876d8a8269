"""`ipa demo` as a newcomer runs it: from the built package alone, in an empty folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.files.pipelines import example_folders
from tests.fakes.commands import Ipa
from tests.fakes.waiting import until

pytestmark = [pytest.mark.xdist_group("demo")]

# What is promised to a newcomer: the page, and a decision to look at.
PAGE_S, DECISION_S = 60.0, 60.0


@pytest.fixture(scope="module")
def package(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that `pip install` would put beside the dependencies."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(root / "ipa", source / "ipa", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(made)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "package")
    return made / "package"


@pytest.mark.live
def test_the_installed_package_alone_shows_decisions_within_a_minute(package: Path, tmp_path: Path) -> None:
    started_s = time.monotonic()
    script = "import ipa.cli.main as m; print(m.__file__, flush=True); m.main()"
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONUNBUFFERED": "1"}
    # What is set for a real service must not lead the demo to a cluster, or make it ask who one is.
    environment |= {"IPA_TARGET": "kubernetes", "IPA_ACTUATION": "gitops", "IPA_LEADER_ELECTION": "on"}
    environment |= {"IPA_AUTH": "kubernetes", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, "demo", "--port", "0", "--speed", "30"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline().startswith(str(package))
            url = next(line for line in service.stdout if "http://" in line).split()[-1]
            with httpx.Client(base_url=url, trust_env=False) as client:
                assert "<title>" in client.get("/").text
                assert time.monotonic() - started_s < PAGE_S

                def applied() -> Any:
                    return client.get("/v1/pipelines/video/history").json()["decisions"]

                decisions = until(applied, DECISION_S, every_s=0.2)
                assert decisions[0]["reason"].startswith("apply.")
                status = until(lambda: _served(client), DECISION_S, every_s=0.2)
                assert status["control"]["mode"] == "active"
                # What its loop decided is taken again as it was.
                decided = client.get("/v1/pipelines/video/decisions?inputs=false").json()["decisions"]
                for each in decided:
                    again = client.post(f"/v1/decisions/{each['decision_id']}:replay").json()
                    assert (again["outcome"], again["notes"]) == ("same", []), again
                # The verbs of a person work on it as on any other.
                paused = client.post("/v1/pipelines/video/pause", json={"reason": "to look", "by": "a guest"})
                assert paused.json()["paused"] is True
        finally:
            service.send_signal(signal.SIGINT)
        assert service.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def _served(client: httpx.Client) -> Any:
    """The status once requests were seen to be answered."""
    status = client.get("/v1/pipelines/video/status").json()
    return status if status["live"]["latency_s"] and status["live"]["rate_rps"] else None


def test_the_packaged_profiles_are_those_of_the_repository(root: Path) -> None:
    _, profiles = example_folders()
    names = {path.name for path in (profiles / "video").iterdir()}
    assert names == {path.name for path in (root / "profiles" / "video").iterdir()}
    for name in names:
        assert (profiles / "video" / name).read_text() == (root / "profiles" / "video" / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rates", "5"], 64, "LOW:HIGH"),
        (["--rates", "9:3"], 64, "LOW:HIGH"),
        (["--rates", "0:3"], 64, "LOW:HIGH"),
        (["--speed", "0"], 64, "speed"),
        (["nope", "--pipelines-dir", "pipelines"], 1, "there is no folder pipelines"),
        (["--policy", "nope"], 64, "there is no policy"),
    ],
)
def test_what_cannot_be_shown_is_said_at_once(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in ipa("demo", "--port", "0", *arguments, code=code).err
