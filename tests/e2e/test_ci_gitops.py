"""From a reviewed change to the cluster: `ipa ci`, a merge, our commit, and the GitOps tool."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.cli.main import run
from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl
from ipa.files import load_pipeline, load_profiles
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.policies.planning import plan_pipeline
from ipa.policies.table import PolicyInputs, make_policy
from ipa.targets.gitops.repository import Branch, Repository
from ipa.targets.gitops.workload import GitOpsWorkload
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.manifest_edit import Manifest
from ipa.targets.seldon.variants import at_cluster
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.metrics import FakeMetrics
from tests.fakes.reviewed import COSTLY, PIPELINE, edit, git, make
from tests.fakes.store import FakeStore
from tests.fakes.world import window_max

RATE_RPS = 24.0
MANIFEST = "deploy/video.yaml"
TICK_S = 10.0
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git")


class Story:
    """A remote with pipelines and manifests, a person's checkout, our bare clone, and a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.remote, self.person, self.ours = (folder / name for name in ("remote.git", "person", "ours.git"))
        self.person.mkdir()
        make(self.person)
        git(self.person, "checkout", "--quiet", "main")
        self.first = planned(self.pipeline(), RATE_RPS)
        (self.person / "deploy").mkdir()
        document = render(self.pipeline(), self.first)
        (self.person / MANIFEST).write_text(yaml.safe_dump(document, sort_keys=False))
        git(self.person, "add", ".")
        git(self.person, "commit", "--quiet", "-m", "the manifest")
        git(folder, "clone", "--quiet", "--bare", str(self.person), str(self.remote))
        git(self.person, "remote", "add", "origin", str(self.remote))
        git(self.person, "fetch", "--quiet", "origin")
        git(folder, "clone", "--quiet", "--bare", str(self.remote), str(self.ours))
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), 10.0)
        with self.kube.store.lock:
            self.kube.store.create("seldondeployments", "default", document)
        self.kube.tick(10)
        self.clock = VirtualClock()

    def pipeline(self) -> Pipeline:
        """As the person's checkout says."""
        return at_cluster(load_pipeline(self.person / PIPELINE))

    def service(self) -> ControlLoop:
        """The loop of a service that was started on that checkout, as IPA_ACTUATION=gitops has it."""
        pipeline, profiles = self.pipeline(), load_profiles(self.person / "profiles", "video")
        inputs = PolicyInputs(pipeline, profiles, solver="exact")
        store = FakeStore(PipelineControl(mode=Mode.ACTIVE))
        manifests = Repository(self.ours, Branch("main", "origin", "ipa <ipa@example.com>"), timeout_s=30.0)
        workload = GitOpsWorkload(
            KubeWorkload(self.client, layout_of),
            manifests,
            "deploy/{pipeline}.yaml",
            Manifest,
            store.decision,
        )
        return ControlLoop(
            pipeline,
            LoopPorts(self.clock, FakeMetrics(self.clock, lambda _: RATE_RPS), workload, store, store),
            policy=make_policy("ours", inputs),
            predict=inputs.predictor(),
            forecaster=window_max,
            settings=GuardSettings(tick_s=TICK_S),
            window_s=60.0,
            run_id="test",
        )

    def ticks(self, loop: ControlLoop, count: int) -> list[Decision]:
        """So many ticks, each with a step of the cluster."""
        found = []
        for _ in range(count):
            self.clock.wait(TICK_S)
            self.kube.tick()
            found.append(loop.tick_once())
        return found

    def sync(self) -> None:
        """The GitOps tool makes the cluster what main says."""
        document = yaml.safe_load(git(self.remote, "show", f"main:{MANIFEST}"))
        with self.kube.store.lock:
            live = self.kube.store.get("seldondeployments", "default", "video")
            self.kube.store.replace("seldondeployments", {**live, "spec": document["spec"]})

    def asked(self) -> tuple[StageConfig, ...]:
        """The configuration that the manifest on main asks for."""
        return Manifest(self.pipeline(), git(self.remote, "show", f"main:{MANIFEST}"), MANIFEST).configs()


def planned(pipeline: Pipeline, rate_rps: float) -> tuple[StageConfig, ...]:
    profiles = load_profiles(Path("profiles").resolve(), "video")
    return plan_pipeline(pipeline, profiles, rate_rps, solver="exact").configs


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[Story]:
    monkeypatch.chdir(root)
    made = Story(tmp_path)
    monkeypatch.chdir(made.person)
    monkeypatch.setenv("IPA_SOLVER", "exact")
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.client.close()
    made.kube.__exit__()


REVIEW = ("ci", "--base", "origin/main", "--policy-file", "guardrails.yaml", "--seeds", "1")


def test_a_reviewed_change_is_merged_and_becomes_our_commit_and_runs(
    story: Story, capfd: pytest.CaptureFixture[str]
) -> None:
    # A branch, and its review.
    git(story.person, "checkout", "--quiet", "-b", "accuracy")
    edit(story.person / PIPELINE, COSTLY)
    git(story.person, "commit", "--quiet", "-am", "accuracy is worth more")
    assert run([*REVIEW, "-o", "md"]) == 2
    assert "1 pipeline affected: +" in capfd.readouterr().out
    saved = ("plan", "video", "--rate", f"{RATE_RPS:g}", "--at", MANIFEST, "--out", "plan.json")
    assert run([*saved, "--detailed-exitcode"]) == 2
    # Merged; the service is started anew on what main says now.
    git(story.person, "checkout", "--quiet", "main")
    git(story.person, "merge", "--quiet", "--ff-only", "accuracy")
    git(story.person, "push", "--quiet", "origin", "main")
    loop = story.service()
    decided = story.ticks(loop, 6)
    [applied] = [decision for decision in decided if decision.action is Action.APPLY]
    # One commit of ours, of the one file, by that decision; the cluster was only read.
    assert git(story.remote, "log", "-1", "--format=%an %s", "main") == "ipa ipa: change video\n"
    assert git(story.remote, "show", "--format=", "--name-only", "main").split() == [MANIFEST]
    assert f"Decision: {applied.decision_id}" in git(story.remote, "log", "-1", "--format=%B", "main")
    assert story.asked() == applied.configs != story.first
    assert story.kube.writes == []
    assert decided[-1].reason is ReasonCode.IN_PROGRESS
    # The GitOps tool passes, and it runs; fewer, larger replicas come in two steps.
    for _ in range(2):
        story.sync()
        last = story.ticks(loop, 20)[-1]
    assert last.reason is not ReasonCode.IN_PROGRESS, last.detail
    live = KubeWorkload(story.client, layout_of).read(story.pipeline())
    assert live.settled and tuple(stage.config for stage in live.stages) == story.asked()
    # What the person had planned is stale by that commit, and our commit is no change of files to review.
    git(story.person, "pull", "--quiet", "origin", "main")
    capfd.readouterr()
    assert run(["apply", "plan.json"]) == 4
    assert "the running configuration was changed: revision sha256:" in capfd.readouterr().err
    git(story.person, "checkout", "--quiet", "-b", "next", "HEAD~1")
    assert run([*REVIEW]) == 0
    assert "no change above the threshold" in capfd.readouterr().out
