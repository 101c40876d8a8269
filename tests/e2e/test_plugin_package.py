"""A package of plug-ins, built and installed as a stranger would, keeps the contracts and runs everywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import ipa
from tests.fakes.waiting import until

pytestmark = [pytest.mark.xdist_group("plugin-package")]

LIMIT_S = 120.0


@pytest.fixture(name="environment", scope="module")
def _environment(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes in which the package is installed."""
    source, installed = tmp_path_factory.mktemp("acme") / "source", tmp_path_factory.mktemp("installed")
    shutil.copytree(root / "tests" / "example_plugin", source)
    install = ["uv", "pip", "install", "--offline", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", *install, "--python", sys.executable, "--target", installed, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    around = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**around, "PATH": path, "PYTHONPATH": str(installed), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def output_of(command: list[str], cwd: Path, environment: dict[str, str], code: int = 0) -> str:
    """All that a command prints, with the exit code that is expected."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_keeps_the_contracts(root: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", "acme"]
    command += ["tests/contract/test_plugin_contracts.py", "tests/contract/test_forecaster_contract.py"]
    assert "13 passed" in output_of(command, root, environment)


def test_the_offline_verbs_take_it(root: Path, environment: dict[str, str]) -> None:
    names = ["--policy", "acme", "--forecaster", "acme-trend", "--world", "acme-backup:2"]
    assert "policy acme " in output_of(
        ["ipa", "simulate", "video", *names, "--minutes", "1"], root, environment
    )
    by_reference = ["--policy", "acme_ipa.policy:Headroom", "--minutes", "1"]
    assert "policy acme_ipa.policy:Headroom " in output_of(
        ["ipa", "simulate", "video", *by_reference], root, environment
    )


def test_a_wrong_name_is_one_line(root: Path, environment: dict[str, str]) -> None:
    message = output_of(["ipa", "serve", "--policy", "acme_ipa.policy:Nothing"], root, environment, code=1)
    assert message == (
        "error: policy 'acme_ipa.policy:Nothing' is not there: module acme_ipa.policy has no Nothing\n"
    )
    known = output_of(["ipa", "simulate", "video", "--policy", "acm"], root, environment, code=64)
    assert "there is no policy 'acm'" in known and "static, acme" in known
    traced = ["ipa", "--traceback", "simulate", "video", "--policy", "nowhere:Nothing"]
    assert "Traceback" in output_of(traced, root, environment, code=1)


@pytest.mark.live
def test_the_service_runs_and_replays_it(environment: dict[str, str], tmp_path: Path) -> None:
    chosen = {**environment, "IPA_FORECASTER": "acme-trend"}
    command = ["ipa", "demo", "--policy", "acme", "--port", "0", "--speed", "30"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**chosen, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            url = next(line for line in service.stdout if "http://" in line).split()[-1]
            with httpx.Client(base_url=url, trust_env=False, timeout=LIMIT_S) as client:
                until(lambda: client.get("/v1/pipelines/video/history").json()["decisions"], LIMIT_S, 0.2)
                # Twelve ticks are the history that its forecaster needs.
                newest = "/v1/pipelines/video/decisions?inputs=false&limit=1"
                until(lambda: client.get(newest).json()["decisions"][0]["tick"] > 16, LIMIT_S, 0.2)
                decided = client.get("/v1/pipelines/video/decisions").json()["decisions"]
                assert {json.loads(each["inputs"])["policy"] for each in decided} == {"acme"}
                assert {json.loads(each["inputs"])["version"] for each in decided} == {
                    f"{ipa.__version__} with acme-ipa 1.2"
                }
                forecasts = [each["forecast"] for each in decided if each["forecast"]]
                assert any(each["rung"] == "acme-trend" for each in forecasts), forecasts
                for each in decided:
                    again = client.post(f"/v1/decisions/{each['decision_id']}:replay").json()
                    assert (again["outcome"], again["notes"]) == ("same", []), again
                what_the_api_takes(client)
        finally:
            service.send_signal(signal.SIGINT)
        assert service.wait(30) == 0


def what_the_api_takes(client: httpx.Client) -> None:
    """Installed plug-ins by name, and no reference to code."""
    newest = client.get("/v1/pipelines/video/decisions?inputs=false&limit=1").json()["decisions"][0]
    address = f"/v1/decisions/{newest['decision_id']}:replay"
    for code in ("os:abort", "acme_ipa.policy:Headroom"):
        refused = client.post(address, json={"policy": code})
        assert refused.status_code == 422
        assert "loads code" in refused.text and "ipa.policies" in refused.text
