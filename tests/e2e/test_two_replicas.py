"""Two replicas of `ipa serve` on one cluster, as their users start, ask and end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.kube.lease import write_spec
from ipa.control.election import Lease
from ipa.files import load_pipelines
from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.section import seldon_of
from tests.fakes.kube import FakeKube
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]
NAMESPACE = "default"


class Replica:
    def __init__(self, root: Path, folder: Path, kube: FakeKube, name: str, store_url: str) -> None:
        folder.joinpath(name).mkdir()
        settings = {
            "IPA_KUBECONFIG": str(kube.kubeconfig(folder / name)),
            "IPA_LEADER_ELECTION": "on",
            "IPA_LEASE_NAMESPACE": NAMESPACE,
            "IPA_LEASE_IDENTITY": name,
            "IPA_LEASE_S": "6",
            "IPA_LEASE_RENEW_DEADLINE_S": "4",
            "IPA_LEASE_RETRY_S": "0.2",
            "IPA_PIPELINES_DIR": str(root / "pipelines"),
            "IPA_PROFILES_DIR": str(root / "profiles"),
            "IPA_STORE_URL": store_url,
            "IPA_PROMETHEUS_URL": "http://127.0.0.1:9",
            "IPA_TICK_S": "0.5",
        }
        command = [sys.executable, "-c", "from ipa.cli.main import main; main()", "serve", "video"]
        with (folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--target", "kubernetes", "--port", "0"],
                cwd=folder,
                env={**os.environ, **settings},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.client = httpx.Client(timeout=10)

    def listens(self) -> None:
        """Wait until it can be asked."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.client.base_url = httpx.URL(line.split()[-1])

    def standing(self) -> dict[str, Any]:
        return dict(self.client.get("/v1/pipelines/video/status").json()["standing"])

    def leads(self) -> bool:
        return bool(self.standing()["leading"])


def ended(replica: Replica) -> None:
    replica.client.close()
    replica.process.kill()
    replica.process.communicate()


def test_one_leads_and_hands_over_when_it_ends(root: Path, tmp_path: Path, postgres_url: str) -> None:
    pipeline = load_pipelines(root / "pipelines")["video"]
    configs = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 1.0, 1) for stage in pipeline.served)
    with FakeKube() as kube, ExitStack() as stack:
        lease = {"kind": "Lease", "metadata": {"name": "ipa-serving"}, "spec": write_spec(Lease("", 1.0))}
        kube.store.create("leases", NAMESPACE, lease)
        kube.store.create("seldondeployments", seldon_of(pipeline).namespace, render(pipeline, configs))  # type: ignore[union-attr]
        kube.tick(8)
        replicas = []
        for name in ("one", "other"):
            replicas.append(Replica(root, tmp_path, kube, name, postgres_url))
            stack.callback(ended, replicas[-1])
        for replica in replicas:
            replica.listens()
        until(lambda: any(replica.leads() for replica in replicas))
        first, second = replicas
        leader, standby = (first, second) if first.leads() else (second, first)
        until(lambda: standby.standing()["leader"] == leader.standing()["identity"])

        refused = standby.client.post("/v1/pipelines/video/pause", json={"by": "kim"})
        assert refused.status_code == 409
        assert leader.standing()["identity"] in refused.json()["detail"]
        assert leader.client.post("/v1/pipelines/video/pause", json={"by": "kim"}).status_code == 200
        # The standby, which may lead next, has it too.
        until(lambda: standby.client.get("/v1/pipelines/video/status").json()["control"]["paused"])
        for replica, metric in (
            (leader, 'ipa_leader{install="ipa"} 1.0'),
            (standby, 'ipa_leader{install="ipa"} 0.0'),
        ):
            assert metric in replica.client.get("/metrics").text.splitlines()
            assert replica.client.get("/healthz").status_code == 200
            assert replica.client.get("/readyz").status_code == 200
        checks = {one["name"]: one for one in standby.client.get("/readyz?verbose").json()["checks"]}
        assert checks["leadership"]["ok"]
        until(
            lambda: (
                standby.client.get("/v1/pipelines/video/status").json()["live"]["reason"] == "hold.not_leader"
            )
        )

        leader.process.send_signal(signal.SIGTERM)
        assert leader.process.wait(30) == 0
        given_up = [one for one in kube.writes if one.resource == "leases"]
        assert any(one.body["spec"]["holderIdentity"] is None for one in given_up)
        until(standby.leads)
        # What people said to the one holds for the other.
        until(
            lambda: standby.client.get("/v1/pipelines/video/status").json()["live"]["reason"] == "hold.paused"
        )
