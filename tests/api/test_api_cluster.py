"""The verbs on a cluster (a fake API server) and in a manifest; waiting moves the cluster's clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.store import Store, open_store
from ipa.cli.main import run
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.files import load_profiles
from ipa.files.pipelines import find_pipeline
from ipa.model.decision import Action, ReasonCode
from ipa.simulate.cluster import KUBERNETES
from ipa.simulate.run import SimSetup, simulate
from ipa.targets.seldon.variants import at_cluster
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind, Trouble

Json = dict[str, Any]
# So far apart that the variant of one stage differs, and with it what its pods are made of.
SMALL, LARGE = "5", "30"
DEADLINE_S = 60.0


class ClusterClock(VirtualClock):
    """Waiting lets the cluster live a tick; `meanwhile` is done at the first wait."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__()
        self._kube = kube
        self.meanwhile: Callable[[], None] | None = None

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        then, self.meanwhile = self.meanwhile, None
        if then:
            then()
        self._kube.tick()


@dataclass
class Cli:
    """The command against the fake cluster."""

    kube: FakeKube
    clock: ClusterClock
    store: Store
    capfd: pytest.CaptureFixture[str]
    at: str

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = run([*words, "--at", self.at])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def sdep(self) -> Json:
        with self.kube.store.lock:
            return dict(self.kube.store.get("seldondeployments", "default", "video"))

    def stages(self) -> list[Json]:
        found = json.loads(self("status", "video", "-o", "json")[1])
        return [stage["config"] for stage in found["live"]["stages"]]

    def edit(self, change: Callable[[Json], None]) -> None:
        self.kube.edit("default", "video", change)

    def reasons(self) -> list[ReasonCode]:
        return [decision.reason for decision in self.store.decisions("video")]


@pytest.fixture
def ipa(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    url = f"sqlite:///{tmp_path / 'ipa.sqlite3'}"
    monkeypatch.setenv("IPA_STORE_URL", url)
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(root / "pipelines"))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(root / "profiles"))
    monkeypatch.setenv("IPA_ROLLOUT_DEADLINE_S", str(DEADLINE_S))
    monkeypatch.setenv("IPA_SOLVER", "exact")
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    with FakeKube() as kube:
        clock = ClusterClock(kube)
        for place in ("ipa.control.loop.scheduler", "ipa.bootstrap.one_shot"):
            monkeypatch.setattr(f"{place}.SystemClock", lambda: clock)
        store = open_store(url)
        yield Cli(kube, clock, store, capfd, f"kubernetes:{kube.kubeconfig(tmp_path)}")
        store.close()


@pytest.fixture
def running(ipa: Cli) -> Cli:
    """The pipeline was created for the small rate, and is ready."""
    assert ipa("apply", "video", "--rate", SMALL)[0] == 0
    ipa.kube.writes.clear()
    return ipa


def test_apply_creates_what_is_not_there_and_waits_until_it_is_ready(ipa: Cli) -> None:
    code, out, _ = ipa("status", "digits")
    assert code == 5 and "`ipa apply` creates it" in out
    # Its file says that it is only planned.
    code, out, _ = ipa("status", "video")
    assert code == 0 and "its images and the weights of its models" in out
    code, out, err = ipa("apply", "video", "--rate", SMALL, "--reason", "first")
    assert code == 0
    assert "apply.requested: requested by kim: first: created" in out
    assert "not there yet" in err
    [decision] = ipa.store.decisions("video")
    assert decision.action is Action.APPLY and decision.previous == ()
    code, out, _ = ipa("status", "video")
    assert code == 0
    assert "1/1" in out and "mode " not in out


def test_status_of_all_and_by_settings(running: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPA_KUBECONFIG", running.at.partition(":")[2])
    running.at = "kubernetes"
    code, out, _ = running("status", "-o", "json")
    assert code == 5  # the other pipelines are not there
    healthy = {each["pipeline"]: each["healthy"] for each in json.loads(out)}
    assert healthy["video"] and healthy["nlp"] and not healthy["digits"]


def test_a_pipeline_without_a_section_is_told_so(
    ipa: Cli, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load((root / "pipelines" / "digits" / "pipeline.yaml").read_text())
    del given["seldon"]
    path = tmp_path / "pipelines" / "digits" / "pipeline.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(given))
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(path.parent.parent))
    code, _, err = ipa("status", "digits")
    assert (code, "no `seldon:` section" in err) == (65, True), err
    # Of all, those that may be there.
    assert ipa("status", "-o", "json")[1].strip() == "[]"


def test_diff_and_apply_change_it_by_one_recorded_patch(running: Cli) -> None:
    before = running.stages()
    assert running("diff", "video", "--rate", SMALL, "--detailed-exitcode")[0] == 0
    assert running("diff", "video", "--rate", LARGE, "--detailed-exitcode")[0] == 2
    assert running.kube.writes == []
    recorded: list[int] = []
    running.kube.before = lambda request: (
        recorded.append(len(running.store.decisions("video"))) if request.verb == "patch" else None
    )
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 0
    assert [request.verb for request in running.kube.writes] == ["patch"]
    assert recorded == [2, 2]  # before the dry run, and before the write
    assert "hold.in_progress" in err
    assert running.stages() != before
    assert running.reasons() == [ReasonCode.REQUESTED, ReasonCode.REQUESTED]
    assert running("apply", "video", "--rate", LARGE)[0] == 0
    assert len(running.kube.writes) == 1


def test_history_and_rollback_read_the_store(running: Cli) -> None:
    before = running.stages()
    running("apply", "video", "--rate", LARGE)
    code, out, _ = running("history", "video", "--limit", "1", "-o", "json")
    page = json.loads(out)
    assert code == 0 and page["next_before"] == page["decisions"][0]["decision_id"]
    assert running("rollback", "video", "--reason", "slow")[0] == 0
    assert running.stages() == before
    assert running.store.decisions("video")[0].detail.startswith("rollback by kim: slow: ")
    assert running("history", "video", "--verify")[1].startswith("4 decisions of video")
    assert running("rollback", "video", "--to", page["decisions"][0]["decision_id"])[0] == 0
    assert running.stages() != before


def test_rollback_without_a_past_is_a_conflict(running: Cli) -> None:
    code, _, err = running("rollback", "video")
    assert code == 4 and "has no change left to take back" in err


@pytest.mark.parametrize(("trouble", "code"), [(Trouble.CRASH, 5), (Trouble.NEVER_READY, 6)])
def test_a_change_that_does_not_get_ready_is_taken_back(running: Cli, trouble: Trouble, code: int) -> None:
    before = running.stages()
    old = {pod["metadata"]["name"]: pod["spec"] for pod in running.kube.store.everything("pods")}
    running.kube.cluster.trouble_of = lambda spec: None if spec in old.values() else trouble
    found, _, err = running("apply", "video", "--rate", LARGE)
    assert found == code, err
    assert "the earlier configuration runs again" in err
    assert running.stages() == before
    assert running.reasons()[:2] == [ReasonCode.ROLLBACK, ReasonCode.REQUESTED]
    assert running("status", "video")[0] == 0


def test_what_was_created_and_does_not_get_ready_is_left(ipa: Cli) -> None:
    ipa.kube.cluster.trouble_of = lambda spec: Trouble.CRASH
    code, _, err = ipa("apply", "video", "--rate", SMALL)
    assert code == 5 and "CrashLoopBackOff" in err and "left as it is" in err
    code, out, _ = ipa("status", "video")
    assert code == 5 and "the rollout failed" in out
    assert ipa("watch", "video", "--until", "settled")[0] == 5


def test_a_lost_answer_is_read_back(running: Cli) -> None:
    running.kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
    assert running("apply", "video", "--rate", LARGE)[0] == 0
    assert len(running.kube.writes) == 1


def test_a_write_that_never_arrived_is_said(running: Cli) -> None:
    before = running.stages()
    running.kube.fault(FaultKind.LOST_BEFORE, verb="patch", is_dry_run=False)
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 1 and "nothing was" in err
    assert running.stages() == before
    assert running.reasons()[0] is ReasonCode.WORKLOAD_UNKNOWN


def test_a_creation_that_never_arrived_is_said_and_kept(ipa: Cli) -> None:
    ipa.kube.fault(FaultKind.LOST_BEFORE, verb="create", is_dry_run=False)
    code, _, err = ipa("apply", "video", "--rate", SMALL)
    assert code == 1 and "nothing was written" in err
    assert ipa.reasons() == [ReasonCode.WORKLOAD_UNKNOWN, ReasonCode.REQUESTED]


def test_without_a_record_nothing_is_written(running: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipa.model.errors import UnavailableError

    def full(*_: object) -> None:
        raise UnavailableError("the disk is full")

    monkeypatch.setattr(Store, "record", full)
    code, out, _ = running("apply", "video", "--rate", LARGE)
    assert code == 1 and "hold.audit_failed" in out and "the disk is full" in out
    assert running.kube.writes == []


def test_another_hand_while_it_rolls_is_left_alone(running: Cli) -> None:
    def rescale(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 7

    running.clock.meanwhile = lambda: running.edit(rescale)
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 4 and "another writer" in err
    assert running.stages()[0]["replicas"] == 7
    assert len(running.kube.writes) == 1


def test_a_change_of_another_hand_while_it_was_planned_is_a_conflict(
    running: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipa.files.plans import plan_in

    def slowly(plan: Any, name: str) -> Any:
        running.edit(lambda sdep: sdep["spec"]["predictors"][0].update(replicas=2))
        return plan_in(plan, name)

    monkeypatch.setattr("ipa.files.plans.plan_in", slowly)
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 4 and "when the change was decided" in err
    assert running.kube.writes == [] and len(running.reasons()) == 1


def test_what_is_no_plan_of_ours_is_shown_and_not_written(running: Cli) -> None:
    def foreign(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["image"] = "theirs:1"

    running.edit(foreign)
    code, out, _ = running("status", "video")
    assert code == 5 and "runs none of its variants" in out
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 4 and "Restore it" in err
    assert running.kube.writes == []


def test_what_another_install_owns_is_shown_and_not_written_until_it_is_released(
    running: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPA_INSTALL", "green")
    code, out, _ = running("status", "video")
    assert code == 5 and "belongs to install 'ipa'; this is install 'green'" in out
    code, _, err = running("apply", "video", "--rate", LARGE)
    assert code == 4 and "install 'ipa'" in err
    code, _, err = running("release", "video")
    assert code == 4 and "install 'ipa'" in err
    assert running.kube.writes == []
    monkeypatch.setenv("IPA_INSTALL", "ipa")
    assert running("release", "video")[:2] == (0, "install 'ipa' gave up video\n")
    assert running("release", "video")[:2] == (0, "no install owns video\n")
    monkeypatch.setenv("IPA_INSTALL", "green")
    assert running("apply", "video", "--rate", LARGE)[0] == 0
    assert running.sdep()["metadata"]["annotations"]["ipa-serving/install"] == "green"


def test_where_a_gitops_tool_writes_the_cluster_apply_does_not(
    running: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPA_ACTUATION", "gitops")
    for words in (["apply", "video", "--rate", SMALL], ["rollback", "video"]):
        code, _, err = running(*words)
        assert code == 64 and "FILE.yaml" in err
    assert running("status", "video")[0] == 0
    assert running.kube.writes == []


def test_a_paused_pipeline_is_left_alone(running: Cli) -> None:
    running.store.set_control(
        "video", PipelineControl(paused=True, paused_reason="release"), Attribution(ControlAction.MODE)
    )
    code, out, _ = running("apply", "video", "--rate", LARGE)
    assert code == 3 and "hold.paused" in out and "release" in out
    assert running.kube.writes == []


def test_a_change_that_hangs_can_be_gone_back_from_and_not_be_built_upon(running: Cli) -> None:
    before = running.stages()
    running.kube.cluster.trouble_of = lambda spec: Trouble.UNSCHEDULABLE

    def interrupt() -> None:
        raise KeyboardInterrupt

    running.clock.meanwhile = interrupt
    assert running("apply", "video", "--rate", LARGE)[0] == 130
    running.kube.tick(2)
    code, out, _ = running("apply", "video", "--rate", SMALL)
    assert code == 4 and "hold.in_progress" in out
    running.kube.cluster.trouble_of = lambda spec: None
    assert running("rollback", "video")[0] == 0
    assert running.stages() == before


def test_watch_ends_once_it_has_settled(running: Cli) -> None:
    more = running.stages()[1]["replicas"] + 3
    running.edit(lambda sdep: sdep["spec"]["predictors"][0]["componentSpecs"][1].update(replicas=more))
    code, out, _ = running("watch", "video", "--until", "settled", "--timeout", "60s")
    assert code == 0
    assert f"{more - 3}/{more}" in out and f"{more}/{more}" in out
    running.kube.cluster.trouble_of = lambda spec: Trouble.UNSCHEDULABLE
    running.edit(lambda sdep: sdep["spec"]["predictors"][0]["componentSpecs"][0].update(replicas=9))
    code, _, err = running("watch", "video", "--until", "settled", "--timeout", "10s")
    assert code == 6 and "10 s" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["diff", "video"], 64, "--rate is needed"),
        (["apply", "video"], 64, "--rate is needed"),
        (["diff", "video", "--rate", "-1"], 64, "above 0"),
        (["diff", "video", "--rate", "1e6"], 3, "Feasible with"),
        (["pause", "video"], 64, "needs a service"),
        (["resume", "video"], 64, "needs a service"),
        (["status", "nope"], 1, "There are:"),
        (["history", "video", "--before", "nope"], 1, "'nope'"),
    ],
)
def test_what_makes_no_sense_is_said(ipa: Cli, words: list[str], code: int, said: str) -> None:
    found, _, err = ipa(*words)
    assert (found, said in err) == (code, True), err
    assert ipa.kube.writes == []


def test_a_cluster_that_does_not_answer(ipa: Cli, tmp_path: Path) -> None:
    ipa.kube.fault(FaultKind.STATUS, status=403, times=2)
    assert ipa("status", "video")[0] == 77
    assert ipa("apply", "video", "--rate", SMALL)[0] == 77
    ipa.at = f"kubernetes:{tmp_path / 'nope'}"
    assert ipa("status", "video")[0] == 78


def test_decisions_of_the_store_are_taken_again_without_the_service(running: Cli, root: Path) -> None:
    """Those of its loop with the files that are here; what a hand did is no tick's."""
    pipeline = at_cluster(find_pipeline("video", root / "pipelines"))
    for profile in load_profiles(root / "profiles", "video").values():
        running.store.save_profile(profile)
    profiles = running.store.profiles("video")
    rates = (5.0,) * 40 + (18.0,) * 40
    setup = SimSetup(pipeline, profiles, rates, cluster=KUBERNETES, keep_inputs=True)
    for decision in simulate(setup).decisions:
        running.store.record(replace(decision, decision_id=f"{decision.decision_id}-of-the-loop"))
    code, out, _ = running("replay", "video", "-o", "json")
    found = [(each["decision"]["decision_id"], each["replayed"]["outcome"]) for each in json.loads(out)]
    assert [outcome for name, outcome in found if name.endswith("-of-the-loop")] == ["same"] * 8
    assert [outcome for name, outcome in found if not name.endswith("-of-the-loop")] == ["nothing"]
    assert code == 0
    newest = found[0][0]
    applied = (each["decision"] for each in json.loads(out) if each["decision"]["action"] == "apply")
    assert running("replay", "video", next(applied)["decision_id"], "--policy", "rim")[0] == 2
    # Profiles that were measured anew since.
    running.store.save_profile(replace(next(iter(profiles.values())), hardware="another"))
    code, out, _ = running("replay", "video", newest)
    assert code == 4 and "the profiles were measured again since" in out


def test_a_file_has_no_decisions_to_take_again(root: Path, ipa: Cli, tmp_path: Path) -> None:
    manifest = tmp_path / "video.yaml"
    manifest.write_text((root / "pipelines/video/seldondeployment.yaml").read_text())
    ipa.at = str(manifest)
    for words in (("replay", "video"), ("replay", "video", "video-1-x")):
        code, _, err = ipa(*words)
        assert code == 64 and "keeps no history" in err
