"""The control loop where a GitOps tool writes the cluster: commits of ours, followed until they run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.bootstrap.app import build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import ChangeRequest
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import PipelineControl, RolloutPhase
from ipa.files import load_pipeline
from ipa.model.decision import Action, Change, Decision, Mode, ReasonCode
from ipa.model.errors import (
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.findings import Severity
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.plan import StageConfig
from ipa.service.doctor import gitops_findings
from ipa.settings import Settings
from ipa.targets.gitops import Git, GitOpsWorkload, Repository, gitops_faults
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.target import SELDON
from tests.contract.gitops_harness import PATH, GitOpsHarness, git, person_writes
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import create
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import loop_over, ours

FIRST = (StageConfig("first", "first-s", 1, 0.25, 1), StageConfig("second", "second-s", 1, 0.25, 1))
MORE = (replace(FIRST[0], replicas=2), FIRST[1])
SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=30.0)


def no_forecast(load: LoadHistory) -> Forecast:
    """The load is no matter here."""
    raise UnavailableError("nothing is forecast here")


class Loop:
    """The loop over a repository; the GitOps tool passes when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.store = FakeStore(PipelineControl(mode=Mode.ACTIVE))
        self.harness = GitOpsHarness(folder, self.store.decision)
        self.harness.start(FIRST)
        self.harness.kube.writes.clear()
        self.clock = VirtualClock()
        metrics = FakeMetrics(self.clock, lambda t_s: 1.0)
        ports = LoopPorts(self.clock, metrics, self.harness.workload, self.store, self.store)
        how = {"predict": lambda configs, rate_rps: None, "forecaster": no_forecast, "run_id": "test"}
        self.loop = loop_over(self.harness.pipeline, ports, ours(), SETTINGS, **how)

    def ticks(self, count: int) -> list[Decision]:
        """So many ticks, each with a step of the cluster."""
        decisions = []
        for _ in range(count):
            self.clock.wait(SETTINGS.tick_s)
            self.harness.kube.tick()
            decisions.append(self.loop.tick_once())
        return decisions

    def log(self, form: str) -> list[str]:
        """The branch's commits, newest first."""
        return git(self.harness.remote, "log", f"--format={form}", "main").splitlines()

    def text(self) -> str:
        return git(self.harness.remote, "show", f"main:{self.harness.name}")


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.harness.close()


def test_a_change_is_one_commit_that_says_why_and_is_followed_until_it_runs(loop: Loop) -> None:
    before = loop.log("%H")
    decision = loop.loop.tick_once(ChangeRequest(MORE, "requested by kim: trial\nDecision: forged"))
    assert decision.reason is ReasonCode.REQUESTED
    assert len(loop.log("%H")) == len(before) + 1
    assert loop.log("%an <%ae> %s")[0] == "ipa <ipa@example.com> ipa: change ipa-contract"
    body = git(loop.harness.remote, "log", "-1", "--format=%B", "main").splitlines()
    assert f"Decision: {decision.decision_id}" in body
    assert [line for line in body if line.startswith("Decision: ")] == [f"Decision: {decision.decision_id}"]
    assert any(line.startswith("Reason: apply.requested: requested by kim: trial") for line in body)
    assert git(loop.harness.remote, "show", "--format=", "--name-only", "main").split() == [loop.harness.name]
    waiting = loop.ticks(2)
    assert {each.reason for each in waiting} == {ReasonCode.IN_PROGRESS}
    assert "has not brought ipa-contract.yaml to the cluster yet" in waiting[-1].detail
    loop.harness.sync()
    assert loop.ticks(8)[-1].reason is not ReasonCode.IN_PROGRESS
    state = loop.harness.workload.read(loop.harness.pipeline)
    assert state.settled and tuple(stage.config for stage in state.stages) == MORE
    assert loop.harness.kube.writes == []


def test_what_the_tool_does_not_bring_in_time_is_written_back(loop: Loop) -> None:
    before = loop.text()
    assert loop.loop.tick_once(ChangeRequest(MORE, "requested by kim")).action is Action.APPLY
    assert loop.text() != before
    late = loop.ticks(8)
    (back,) = [each for each in late if each.reason is ReasonCode.ROLLBACK]
    assert "not ready after 30 s" in back.detail and "GitOps tool has not brought" in back.detail
    assert loop.text() == before
    assert loop.log("%s")[0] == "ipa: take back ipa-contract"
    loop.harness.sync()
    assert loop.ticks(4)[-1].reason is not ReasonCode.IN_PROGRESS
    assert loop.harness.kube.writes == []


def test_a_person_who_reverts_the_commit_is_seen_and_not_fought(loop: Loop) -> None:
    before = loop.text()
    loop.loop.tick_once(ChangeRequest(MORE, "requested by kim"))
    person_writes(loop.harness.person, loop.harness.name, before, "no")
    commits = len(loop.log("%H"))
    reasons = [each.reason for each in loop.ticks(6)]
    assert ReasonCode.DRIFT in reasons
    assert len(loop.log("%H")) == commits
    assert loop.text() == before


def test_only_what_an_observer_may_is_asked_of_the_cluster(loop: Loop, root: Path) -> None:
    loop.harness.kube.verbs.clear()
    loop.loop.tick_once(ChangeRequest(MORE, "requested by kim"))
    loop.harness.sync()
    loop.ticks(8)
    role = yaml.safe_load((root / "deploy" / "rbac" / "observer.yaml").read_text())
    allowed = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert loop.harness.kube.verbs and loop.harness.kube.verbs <= allowed


def a_change(harness: GitOpsHarness) -> Change:
    return Change("d-1", "ipa-contract", harness.workload.read(harness.pipeline).revision, FIRST, MORE, 30.0)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[GitOpsHarness]:
    made = GitOpsHarness(tmp_path)
    made.start(FIRST)
    yield made
    made.close()


class Overtaken(Repository):
    """A repository in which somebody is faster, between reading and pushing."""

    def __init__(self, harness: GitOpsHarness) -> None:
        super().__init__(harness.ours, "main", "origin", timeout_s=30.0)
        self._harness = harness

    def _commit(self, head: str, path: str, text: str, message: str) -> str:
        made = super()._commit(head, path, text, message)
        person_writes(self._harness.person, "README", "changed\n")
        return made


def test_a_push_that_somebody_overtook_is_refused_and_changes_nothing(harness: GitOpsHarness) -> None:
    manifests = Overtaken(harness)
    workload = GitOpsWorkload(harness.cluster, manifests, PATH, SELDON.manifest)
    with pytest.raises(ConflictError, match="moved during the write"):
        workload.write(harness.pipeline, a_change(harness))
    assert git(harness.remote, "log", "-1", "--format=%an", "main") == "ann\n"
    again = a_change(harness)
    assert harness.workload.write(harness.pipeline, again) != again.revision
    assert git(harness.remote, "show", "main:README") == "changed\n"


def test_a_branch_without_a_remote_is_moved_only_from_where_it_was_read(harness: GitOpsHarness) -> None:
    git(harness.person, "pull", "--quiet", "origin", "main")

    class Moved(Repository):
        def _commit(self, head: str, path: str, text: str, message: str) -> str:
            made = super()._commit(head, path, text, message)
            git(harness.person, "commit", "--quiet", "--allow-empty", "-m", "meanwhile")
            return made

    for kind, error in ((Moved, ConflictError), (Repository, None)):
        workload = GitOpsWorkload(harness.cluster, kind(harness.person, "main"), PATH, SELDON.manifest)
        state = workload.read(harness.pipeline)
        change = Change("d-1", "ipa-contract", state.revision, FIRST, MORE, 30.0)
        if error:
            with pytest.raises(error):
                workload.write(harness.pipeline, change)
            continue
        workload.write(harness.pipeline, change)
    assert git(harness.person, "log", "-2", "--format=%s", "main").splitlines() == [
        "ipa: change ipa-contract",
        "meanwhile",
    ]


def test_pipelines_that_write_at_once_do_not_get_in_each_other_s_way(harness: GitOpsHarness) -> None:
    names = ("a.yaml", "b.yaml")
    for name in names:
        person_writes(harness.person, name, "0\n")

    def count(name: str) -> None:
        for number in range(4):
            assert harness.manifests.read(name) == f"{number}\n"
            harness.manifests.write(name, f"{number}\n", f"{number + 1}\n", f"{name} {number + 1}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(count, names))
    assert [harness.manifests.read(name) for name in names] == ["4\n", "4\n"]


def test_a_remote_that_refuses_or_does_not_answer_is_told_apart(harness: GitOpsHarness) -> None:
    hook = harness.remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho protected branch >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ForbiddenError, match="git refused to write branch"):
        harness.workload.write(harness.pipeline, a_change(harness))
    hook.unlink()
    change = a_change(harness)
    harness.remote.rename(harness.remote.with_name("away"))
    with pytest.raises(UnavailableError, match="cannot be read"):
        harness.workload.write(harness.pipeline, change)
    harness.remote.with_name("away").rename(harness.remote)


def test_git_ends_in_time_with_all_it_started(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    marker = tmp_path / "pids"
    helper = f"!f() {{ echo $$ > {marker}; while true; do :; done; }}; f"
    slow = Git(tmp_path, 0.5)
    with pytest.raises(UnavailableError, match=r"did not finish within 0.5 s"):
        slow("-c", f"alias.hang={helper}", "hang")
    (pid,) = marker.read_text().split()
    clock = SystemClock()
    until_s = clock.monotonic_s() + 10
    # It is killed; how soon it is gone is the kernel's affair.
    while is_running(pid) and clock.monotonic_s() < until_s:
        clock.wait(0.01)
    assert not is_running(pid)


def is_running(pid: str) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_secrets_of_an_address_are_not_told(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "-b", "main")
    git(tmp_path, "remote", "add", "origin", "http://kim:canary@127.0.0.1:9/x.git")
    repository = Repository(tmp_path, "main", "origin", timeout_s=10.0)
    with pytest.raises(UnavailableError) as caught:
        repository.read("a.yaml")
    assert "canary" not in str(caught.value)


def test_what_is_not_there_is_said(harness: GitOpsHarness) -> None:
    with pytest.raises(NotFoundError, match=r"no file other\.yaml on branch main"):
        harness.manifests.read("other.yaml")
    with pytest.raises(UnavailableError, match="branch nope of origin"):
        Repository(harness.ours, "nope", "origin").read(harness.name)
    with pytest.raises(NotFoundError, match="no branch 'nope'"):
        Repository(harness.ours, "nope").read(harness.name)
    with pytest.raises(ConfigurationError, match="not a git repository"):
        Repository(harness.remote.parent, "main")
    with pytest.raises(ConfigurationError, match="IPA_GITOPS_AUTHOR"):
        Repository(harness.ours, "main", author="nobody")


def test_the_cluster_behind_the_manifest_is_not_settled(harness: GitOpsHarness) -> None:
    """As long as the tool has not passed, nothing is decided upon what only the branch says."""
    text = harness.manifests.read(harness.name)
    person_writes(harness.person, harness.name, SELDON.manifest(harness.pipeline, text, "x").changed(MORE))
    assert not harness.workload.read(harness.pipeline).settled
    change = a_change(harness)
    assert harness.workload.rollout(harness.pipeline, change).phase is RolloutPhase.PROGRESSING
    harness.sync()
    harness.kube.tick(10)
    assert harness.workload.read(harness.pipeline).settled


@pytest.mark.parametrize("path", ["", "/a.yaml", "../a.yaml", "a/../../b.yaml", "a//b.yaml", "a.json"])
def test_a_path_outside_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    settings = Settings(actuation="gitops", gitops_dir=str(tmp_path), gitops_path=path)
    (fault,) = gitops_faults(settings)
    assert fault.startswith("IPA_GITOPS_PATH: ")
    assert list(gitops_faults(replace(settings, gitops_path="apps/{pipeline}/sdep.yaml"))) == []


def test_settings_that_make_no_sense_are_all_said(tmp_path: Path) -> None:
    settings = Settings(
        store_url=f"sqlite:///{tmp_path}/ipa.sqlite3",
        actuation="gitops",
        gitops_path="../x.yaml",
        gitops_remote="https://example.com/x.git",
        gitops_branch="",
        target="kubernetes",
        kubeconfig=str(tmp_path / "kubeconfig"),
    )
    (tmp_path / "kubeconfig").write_text(
        "{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: "
        '"http://127.0.0.1:9"}}], users: [{name: a, user: {token: t}}], '
        "contexts: [{name: a, context: {cluster: a, user: a}}]}"
    )
    with pytest.raises(ConfigurationError) as caught:
        build(settings, ServeOptions(("video",)))
    for word in ("IPA_GITOPS_PATH", "IPA_GITOPS_DIR", "IPA_GITOPS_REMOTE", "IPA_GITOPS_BRANCH"):
        assert word in str(caught.value)


def test_doctor_takes_a_clone_bare_or_not_and_no_other_folder(harness: GitOpsHarness) -> None:
    states = {}
    for folder in (harness.ours, harness.person, harness.remote.parent):
        (finding,) = gitops_findings(Settings(gitops_dir=str(folder)))
        states[folder.name] = finding.state
    assert list(states.values()) == [Severity.OK, Severity.OK, Severity.FAIL]


def test_the_service_writes_the_file_and_reads_the_cluster(tmp_path: Path, root: Path) -> None:
    pipeline = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    first = SELDON.smallest(pipeline)
    text = "# Of the vision team.\n" + yaml.safe_dump(render(pipeline, first), sort_keys=False)
    (tmp_path / "clone").mkdir()
    git(tmp_path / "clone", "init", "--quiet", "-b", "main")
    (tmp_path / "clone" / "video.yaml").write_text(text)
    git(tmp_path / "clone", "add", "video.yaml")
    git(tmp_path / "clone", "commit", "--quiet", "-m", "first")
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        create(client, pipeline, first)
        client.close()
        kube.tick(10)
        kube.writes.clear()
        settings = Settings(
            pipelines_dir=root / "pipelines",
            profiles_dir=root / "profiles",
            store_url=f"sqlite:///{tmp_path}/ipa.sqlite3",
            prometheus_url="http://127.0.0.1:9",
            target="kubernetes",
            kubeconfig=str(tmp_path / "kubeconfig"),
            actuation="gitops",
            gitops_dir=str(tmp_path / "clone"),
        )
        app = build(settings, ServeOptions(("video",), mode=Mode.ACTIVE))
        try:
            more = (replace(first[0], replicas=2), *first[1:])
            decision = app.loops["video"].tick_once(ChangeRequest(more, "requested by kim"))
        finally:
            app.close()
        assert decision.reason is ReasonCode.REQUESTED, decision.detail
        assert kube.writes == []
    changed = git(tmp_path / "clone", "show", "main:video.yaml")
    assert changed.startswith("# Of the vision team.\n") and changed != text
    assert SELDON.manifest(pipeline, changed, "video.yaml").configs() == more
