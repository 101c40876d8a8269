"""`ipa serve` on every address of the machine, as a process, over the fake API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ipa.files import load_pipelines
from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import render
from tests.fakes.commands import Ipa
from tests.fakes.kube import FakeKube
from tests.fakes.kube.reviews import User

PAUSE = "/v1/pipelines/video/pause"
IPA = [sys.executable, "-c", "from ipa.cli.main import main; main()"]


@pytest.fixture
def kube(root: Path) -> Iterator[FakeKube]:
    pipeline = load_pipelines(root / "pipelines")["video"]
    configs = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 1.0, 2) for stage in pipeline.stages)
    with FakeKube() as fake:
        fake.store.create("seldondeployments", pipeline.namespace, render(pipeline, configs))
        fake.tick(4)
        fake.api.reviewer.tokens = {"ada's": User("ada"), "bob's": User("bob")}
        fake.api.reviewer.let("ada", pipeline.namespace, "get", "patch")
        fake.api.reviewer.let("bob", pipeline.namespace, "get")
        yield fake


def test_others_are_listened_to_once_it_is_known_who_they_are(
    kube: FakeKube, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])),
        ("PYTHONUNBUFFERED", "1"),
        ("IPA_PIPELINES_DIR", str(root / "pipelines")),
        ("IPA_PROFILES_DIR", str(root / "profiles")),
        ("IPA_KUBECONFIG", str(kube.kubeconfig(tmp_path))),
        ("IPA_PROMETHEUS_URL", "http://127.0.0.1:9"),
        ("IPA_AUTH", "keys,kubernetes"),
    ):
        monkeypatch.setenv(name, value)
    key = ipa("key", "create", "--role", "owner", "--name", "ci").out.strip()
    assert key.startswith("ipa_")
    serve = [*IPA, "serve", "video", "--target", "kubernetes", "--host", "0.0.0.0", "--port", "0"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, text=True) as service,
    ):
        try:
            assert service.stdout is not None
            port = next(line for line in service.stdout if "http://" in line).strip().rsplit(":", 1)[1]
            # An address of this machine, called by itself, as a kubelet and Prometheus do.
            at = f"http://127.0.0.2:{port}"
            with httpx.Client(base_url=at, trust_env=False) as client:
                assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
                assert client.get("/v1/pipelines").status_code == 401
                answers = [
                    client.post(PAUSE, json={}, headers={"Authorization": f"Bearer {it}"})
                    for it in ("bob's", "eve's", key, "ada's")
                ]
            text = (tmp_path / "log").read_text()
            assert [it.status_code for it in answers] == [403, 401, 200, 200], text
            assert answers[2].json()["paused_by"].startswith("key:ci#")
            assert "IPA_TOKEN" in ipa("resume", "video", "--at", at, code=77).err
            monkeypatch.setenv("IPA_TOKEN", key)
            assert "Paused by kubernetes:ada" in ipa("status", "video", "--at", at, code=5).out
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
    assert key[17:] not in (tmp_path / "log").read_text()
