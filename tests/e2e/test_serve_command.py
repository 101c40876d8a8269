"""`ipa serve` as its user starts and stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from ipa.cli.watching import parsed
from ipa.settings import Settings
from tests.api.test_external_scaler import ASKED, asked
from tests.fakes.commands import Ipa
from tests.fakes.postgres import other_children
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pipelines", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@contextmanager
def _ended(service: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The service, told to stop at the end also where the test fails: nothing else would stop it."""
    with service:
        try:
            yield service
        finally:
            service.terminate()


@pytest.mark.usefixtures("folder")
def test_a_taken_port_is_said_at_once(taken: int, ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"cannot listen on 127.0.0.1:{taken}" in ipa("serve", "digits", "--port", str(taken), code=1).err
    monkeypatch.setenv("IPA_KEDA_PORT", str(taken))
    assert f"cannot listen on 127.0.0.1:{taken}" in ipa("serve", "digits", "--port", "0", code=1).err
    assert other_children() == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nope"], 1, "there is no pipeline nope"),
        (["digits", "--policy", "x"], 64, "there is no policy 'x'"),
        (["digits", "--objective", "x"], 1, "has no objective 'x'"),
        (["digits", "--target", "x"], 64, "there is no target 'x'"),
        (["digits", "--host", "0.0.0.0"], 64, "does not listen on 0.0.0.0"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(
    arguments: list[str], code: int, words: str, ipa: Ipa
) -> None:
    assert words in ipa("serve", *arguments, "--port", "0", code=code).err
    assert other_children() == []


def test_it_serves_the_api_and_ends_with_all_it_started(folder: Path, root: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from ipa.cli.main import main; main()",
        "serve",
        "digits",
        "--port",
        "0",
        "--log",
        "json",
    ]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    # Trained models are found again where they were trained.
    with socket.create_server(("127.0.0.1", 0)) as free:
        settings = Settings(keda_port=free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    environment["IPA_KEDA_PORT"] = str(settings.keda_port)
    log = folder / "log.jsonl"
    with (
        log.open("w") as lines,
        _ended(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=lines, text=True
            )
        ) as service,
    ):
        # Addresses are lines of the log, which is JSON.
        until(lambda: "http://" in log.read_text())
        said_first = next(line for line in log.read_text().splitlines() if "http://" in line)
        url = json.loads(said_first)["message"].split()[-1]
        children = psutil.Process(service.pid).children(recursive=True)
        assert len(children) >= 6  # nursery, router, two queues, two model servers
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/readyz").json()["ready"] is True
            status = client.get("/v1/pipelines/digits/status").json()
            assert status["control"]["mode"] == "advisory"
            assert client.get("/v1/pipelines/digits").json()["endpoint"].startswith("http://127.0.0.1:")
            assert 'ipa_allocated_core_seconds_total{pipeline="digits"}' in client.get("/metrics").text
            body = {"mode": "shadow", "by": "kim", "reason": "trial"}
            assert client.put("/v1/pipelines/digits/mode", json=body).status_code == 200
            stream = client.get("/v1/events?after=0&follow=false").text
            events_sent = list(parsed(stream.splitlines()))
        assert asked(settings, "GetMetrics", ASKED)[0] == "NOT_FOUND"
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
    assert [child for child in children if child.is_running()] == []
    assert "control" in [event.kind for event in events_sent]
    log_lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "mode of digits by kim: trial" in [line["message"] for line in log_lines]
