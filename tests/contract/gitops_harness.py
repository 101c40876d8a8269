"""GitOpsWorkload under the contract: fake API server, real git repository, and a GitOps tool between."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import Workload
from ipa.model.decision import Decision
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.gitops import GitOpsWorkload, Repository
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.target import SELDON
from tests.contract.kube_harness import TIMEOUT_S, contract_pipeline
from tests.contract.workload_harness import Settling
from tests.fakes.kube import FakeKube
from tests.fakes.kube.store import ApiError

PATH = "{pipeline}.yaml"


def git(folder: Path, *words: str) -> str:
    """The output of that git command of a person."""
    command = ["git", "-C", str(folder), "-c", "user.name=ann", "-c", "user.email=ann@example.com", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def person_writes(clone: Path, name: str, text: str, message: str = "by hand") -> None:
    """A person commits to main and pushes."""
    git(clone, "pull", "--quiet", "origin", "main")
    (clone / name).write_text(text)
    git(clone, "add", name)
    git(clone, "commit", "--quiet", "-m", message)
    git(clone, "push", "--quiet", "origin", "HEAD:main")


class GitOpsHarness(Settling):
    """A remote, our clone of it, a person's clone; `sync` is one pass of the GitOps tool, as Flux or Argo."""

    def __init__(self, folder: Path, decision: Callable[[str], Decision] | None = None) -> None:
        if shutil.which("git") is None:
            pytest.skip("needs git: apt-get install git")
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.pipeline: Pipeline = contract_pipeline()
        self.name = f"{self.pipeline.name}.yaml"
        self.remote, self.ours, self.person = (folder / name for name in ("remote.git", "ours", "person"))
        git(folder, "init", "--quiet", "--bare", "-b", "main", str(self.remote))
        git(folder, "clone", "--quiet", str(self.remote), str(self.person))
        (self.person / "README").write_text("manifests\n")
        git(self.person, "checkout", "--quiet", "-b", "main")
        git(self.person, "add", "README")
        git(self.person, "commit", "--quiet", "-m", "first")
        git(self.person, "push", "--quiet", "origin", "main")
        git(folder, "clone", "--quiet", "--bare", str(self.remote), str(self.ours))
        self.manifests = Repository(self.ours, "main", "origin", "ipa <ipa@example.com>", timeout_s=30.0)
        self.cluster = KubeWorkload(self.client, layout_of)
        self.workload: Workload = GitOpsWorkload(
            self.cluster, self.manifests, PATH, SELDON.manifest, decision
        )

    def sync(self) -> None:
        """The GitOps tool makes the cluster what the branch says."""
        text = git(self.remote, "show", f"main:{self.name}")
        for document in yaml.safe_load_all(text):
            self._bring(document)

    def _bring(self, document: Any) -> None:
        place = ("seldondeployments", document["metadata"]["namespace"], document["metadata"]["name"])
        with self.kube.store.lock:
            try:
                live = self.kube.store.get(*place)
            except ApiError:
                self.kube.store.create(*place[:2], document)
                return
            self.kube.store.replace(place[0], {**live, "spec": document["spec"]})

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        text = yaml.safe_dump(render(self.pipeline, configs), sort_keys=False)
        person_writes(self.person, self.name, text, "deploy")

    def let_time_pass(self) -> None:
        self.sync()
        self.kube.tick()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        text = self.manifests.read(self.name)
        manifest = SELDON.manifest(self.pipeline, text, self.name)
        wanted = [
            replace(config, replicas=replicas) if config.stage == stage else config
            for config in manifest.configs()
        ]
        person_writes(self.person, self.name, manifest.changed(wanted))

    def remove(self) -> None:
        self.kube.store.delete("seldondeployments", "default", self.pipeline.name)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()
