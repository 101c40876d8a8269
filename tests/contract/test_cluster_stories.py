"""Whole stories with the real control loop: on the fake API server, on a node, and on a cluster of yours.

`make test-cluster` runs them on the cluster that IPA_TEST_KUBECONFIG names. Nothing here depends on
containers that serve, only on what the API server, the operator and the controllers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.decision import Action, Change, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import Shape, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.contract.kube_harness import kubeconfig_of_cluster
from tests.contract.node_harness import MARKS as ON_A_NODE
from tests.contract.node_harness import NodeStory, skip_unless_chosen
from tests.contract.story_harness import (
    TOO_MANY_CORES,
    ClusterStory,
    DeploymentsStory,
    FakeStory,
    Story,
    applied,
    changed,
)
from tests.contract.story_pipeline import SMALLEST, keep, ours, profiled
from tests.fakes.kube.samples import create

STORIES: dict[str, Callable[[Path], Story]] = {
    "kube-fake": FakeStory,
    "deployments-fake": DeploymentsStory,
    "kube-cluster": lambda _: ClusterStory(kubeconfig_of_cluster()),
}
ON_A_CLUSTER = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.xdist_group("cluster")]
MARKS = {"kube-cluster": ON_A_CLUSTER, "node": ON_A_NODE}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in (*STORIES, "node")])
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    if request.param == "node":
        skip_unless_chosen(request.node.originalname)
        made: Story = NodeStory(request.getfixturevalue("node"))
    else:
        made = STORIES[request.param](tmp_path)
    yield made
    made.close()


def test_first_deploy(story: Story) -> None:
    """The pipeline is created as small as it gets; the first plan takes it over and gets ready."""
    story.deploy(SMALLEST)
    before = story.generation()
    service = story.serve(ours(story.pipeline))
    decisions = service.until(lambda decision: decision.action is Action.APPLY, "the first plan")
    assert decisions[-1].reason is ReasonCode.FIRST_PLAN
    decisions += service.until_settled()
    assert story.running() == applied(decisions)[-1].configs != SMALLEST
    # One write a decision, and none beside.
    assert story.generation() - before == len(applied(decisions))
    settled = story.generation()
    later = [service.tick() for _ in range(3)]
    assert not applied(later)
    assert story.generation() == settled


def test_scale_up(story: Story) -> None:
    """The load grows fivefold; what runs in the end carries it, and is ready."""
    story.deploy(SMALLEST)
    service = story.serve(ours(story.pipeline))
    service.until(lambda decision: decision.reason is ReasonCode.NO_CHANGE, "the plan for the low load runs")
    before, generation = story.running(), story.generation()
    story.rate_rps = 25.0
    low = profiled().predict(before, 25.0)
    assert low is not None and not low.carries
    quiet = (ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE)
    decisions = service.until(lambda decision: decision.reason in quiet, "the plan for the high load runs")
    prediction = profiled().predict(story.running(), 25.0)
    assert prediction is not None and prediction.carries
    assert decisions[0].action is Action.APPLY
    assert story.generation() - generation == len(applied(decisions))


def test_switch_variant(story: Story) -> None:
    """A new variant of one stage: its pods are made anew, those of the other stay."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    detect, read, generation = story.pods("detect"), story.pods("read"), story.generation()
    wanted = changed(SMALLEST, "read", variant="big")
    decision = service.ask(wanted)
    assert decision.action is Action.APPLY
    assert not applied(service.until_settled(wanted))
    story.eventually(lambda: not (read & story.pods("read")), "the old pods are gone")
    assert story.pods("detect") == detect
    assert story.generation() == generation + 1


def test_batch_only(story: Story) -> None:
    """A larger batch changes the one value it is in, and rolls that stage alone."""
    if story.target is not SELDON:
        pytest.skip("the batch size is another object's, whose write the Workload's contract has")
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    before, detect, read = story.object()["spec"], story.pods("detect"), story.pods("read")
    wanted = changed(SMALLEST, "detect", batch_size=4)
    assert service.ask(wanted).action is Action.APPLY
    service.until_settled(wanted)
    after = story.object()["spec"]
    assert after != before
    for spec in (before, after):
        env = story.component(spec, "detect")["spec"]["containers"][0]["env"]
        env[:] = [entry for entry in env if not entry["name"].startswith("MLSERVER_MODEL_MAX_BATCH_SIZE")]
    assert after == before
    story.eventually(lambda: not (detect & story.pods("detect")), "the old pods are gone")
    assert story.pods("read") == read


def test_replica_only(story: Story) -> None:
    """More replicas: nothing but the number changes, and no pod is started anew."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    before, detect, read = deepcopy(story.object()["spec"]), story.pods("detect"), story.pods("read")
    wanted = changed(SMALLEST, "detect", replicas=3)
    assert service.ask(wanted).action is Action.APPLY
    service.until_settled(wanted)
    after = story.object()["spec"]
    assert story.component(after, "detect")["replicas"] == 3
    story.component(after, "detect")["replicas"] = story.component(before, "detect")["replicas"]
    assert after == before
    assert detect < story.pods("detect")
    assert len(story.pods("detect")) == 3
    assert story.pods("read") == read


def test_rollback_on_crash_loop(story: Story) -> None:
    """A variant whose pods never start is taken back, and left alone for a while."""
    story.make_pods_crash()
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    read, generation = story.pods("read"), story.generation()
    broken = changed(SMALLEST, "read", variant="broken")
    assert service.ask(broken).action is Action.APPLY
    decisions = service.until(lambda decision: decision.reason is ReasonCode.ROLLBACK, "it is taken back")
    assert decisions[-1].configs == SMALLEST
    # The pods that served did so all the while.
    assert read <= story.pods("read") or not story.old_pods_stay
    assert not applied(service.until_settled(SMALLEST))
    assert story.generation() == generation + 2


def test_pending(story: Story) -> None:
    """Pods that no node has room for are named at once, and taken back at the deadline."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    generation = story.generation()
    assert service.ask(changed(SMALLEST, "read", cores=TOO_MANY_CORES)).action is Action.APPLY
    early = service.until(lambda decision: "Unschedulable" in decision.detail, "the pod is named")
    assert not applied(early)
    assert len(early) * story.settings.tick_s < story.settings.rollout_deadline_s / 2
    decisions = service.until(lambda decision: decision.action is Action.APPLY, "it is taken back")
    assert decisions[-1].reason is ReasonCode.ROLLBACK
    service.until_settled(SMALLEST)
    assert story.generation() == generation + 2


def test_hand_edit(story: Story) -> None:
    """Another hand changes the replicas: that is said and not undone; where it goes on, we stop."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    for replicas in (2, 3, 4):
        story.scale_by_another_hand("detect", replicas)
        generation = story.generation()
        decision = service.tick()
        assert decision.reason is ReasonCode.DRIFT
        assert "someone else" in decision.detail
        assert not applied(service.until_settled(changed(SMALLEST, "detect", replicas=replicas)))
        assert story.generation() == generation
    # That was the third time: a person is asked for, and nothing is written, whatever the load.
    story.rate_rps = 25.0
    assert {service.tick().reason for _ in range(3)} == {ReasonCode.DRIFT}


@pytest.mark.parametrize("again", ["as before", "otherwise"])
def test_delete_and_re_create(story: Story, again: str) -> None:
    """The object is made anew while a change rolls: the change ends there, the new object is not touched."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    old = story.object()["metadata"]["uid"]
    assert service.ask(changed(SMALLEST, "detect", replicas=3)).action is Action.APPLY
    # Where pods are ready at once the change may be done by now.
    assert service.tick().reason in (ReasonCode.IN_PROGRESS, ReasonCode.NO_CHANGE)
    story.delete_by_another_hand()
    story.eventually(lambda: not story.pods("detect"), "the children are gone")
    anew = SMALLEST if again == "as before" else changed(SMALLEST, "read", replicas=2)
    story.create_by_another_hand(anew)
    created = story.object()
    assert created["metadata"]["uid"] != old
    decisions = service.until(lambda decision: decision.reason is ReasonCode.NO_CHANGE, "it goes on afresh")
    assert not applied(decisions)
    assert ReasonCode.QUARANTINED not in {decision.reason for decision in decisions}
    assert story.object()["spec"] == created["spec"]
    # The new object is ours to change: the next wish is carried out on it.
    wanted = changed(anew, "detect", batch_size=2)
    assert service.ask(wanted).action is Action.APPLY
    service.until_settled(wanted)


def test_leader_hand_over(story: Story) -> None:
    """One of two replicas writes. Where it dies the other goes on with its change; it wakes to no power."""
    story.deploy(SMALLEST)
    leaders = [story.take_part(name) for name in ("one", "two")]
    one, two = (
        service.serve(keep(), leadership=leadership, run_id=name)
        for service, leadership, name in zip((story, story), leaders, ("one", "two"), strict=True)
    )
    story.eventually(leaders[0].leading, "the first leads")
    one.until_settled()
    generation = story.generation()
    assert one.ask(changed(SMALLEST, "read", variant="big")).action is Action.APPLY
    standby = [two.tick() for _ in range(2)]
    assert {decision.reason for decision in standby} == {ReasonCode.NOT_LEADER}
    refused = two.ask(changed(SMALLEST, "read", replicas=3))
    assert refused.reason is ReasonCode.NOT_LEADER
    assert "one" in leaders[1].standing().words
    # The first is gone without a word, in the middle of its change.
    story.electing.remove(leaders[0])
    decisions = two.until(lambda decision: decision.reason is not ReasonCode.NOT_LEADER, "the other leads")
    assert leaders[1].leading() and not leaders[0].leading()
    decisions += two.until_settled(changed(SMALLEST, "read", variant="big"))
    assert not applied(decisions)
    assert story.generation() == generation + 1
    # It wakes, and neither decides nor writes.
    late = one.ask(changed(SMALLEST, "read", replicas=3))
    assert late.reason is ReasonCode.NOT_LEADER
    assert story.generation() == generation + 1
    # In order: the leader gives the lease back, and the other has it at once.
    story.electing[:] = [leaders[0]]
    leaders[1].close()
    story.eventually(leaders[0].leading, "the first leads again")
    wanted = changed(SMALLEST, "read", variant="big", replicas=2)
    assert one.ask(wanted).action is Action.APPLY
    one.until_settled(wanted)
    assert story.generation() == generation + 2


def test_writes_nothing_in_advisory_mode(story: Story) -> None:
    """The intended change is printed, and the cluster stays as it is."""
    story.deploy(SMALLEST)
    story.store.default = type(story.store.default)(mode=Mode.ADVISORY)
    service = story.serve(ours(story.pipeline))
    story.rate_rps = 25.0
    before = story.object()
    decisions = [service.tick() for _ in range(4)]
    assert {decision.reason for decision in decisions} == {ReasonCode.ADVISORY}
    assert story.object()["spec"] == before["spec"]


# Each change restarts the orchestrator, whose new pod needs room beside the old one.
ORCHESTRATOR_CORES = 0.5


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in STORIES])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    made = STORIES[request.param](tmp_path)
    yield made
    made.close()


def test_a_quota_is_planned_around(limited: Story) -> None:
    """Its refusal is taken back, never held for good, and the refused plan is not written again."""
    limited.deploy(SMALLEST)
    service = limited.serve(ours(limited.pipeline))
    service.until(lambda decision: decision.reason is ReasonCode.NO_CHANGE, "the plan for the low load runs")
    limited.limit_cores(ORCHESTRATOR_CORES + 0.2)
    limited.rate_rps = 40.0
    decisions = service.until(lambda decision: decision.reason is ReasonCode.ROLLBACK, "it is taken back")
    assert "exceeded quota" in decisions[-1].detail
    refused = decisions[-1].previous
    later = service.until_settled()
    later += [service.tick() for _ in range(5)]
    # What is left to do within the room there is.
    later += service.until_settled()
    assert refused not in [decision.configs for decision in applied(later)]
    assert ReasonCode.ROLLBACK_FAILED not in {decision.reason for decision in later}
    assert limited.state().settled


def test_a_limit_range_refuses_a_replica_and_not_the_next_change(limited: Story) -> None:
    """Containers above the maximum are refused: that change is taken back, another one goes through."""
    limited.deploy(SMALLEST)
    service = limited.serve(keep())
    service.until_settled()
    limited.limit_containers(0.6)
    assert service.ask(changed(SMALLEST, "read", cores=0.7)).action is Action.APPLY
    decisions = service.until(lambda decision: decision.reason is ReasonCode.ROLLBACK, "it is taken back")
    assert "maximum cpu usage per Container" in decisions[-1].detail
    service.until_settled(SMALLEST)
    wanted = changed(SMALLEST, "read", replicas=2)
    assert service.ask(wanted).action is Action.APPLY
    assert not applied(service.until_settled(wanted))


def test_replicas_and_cores_at_once_ask_for_no_more_than_the_larger_end(limited: Story) -> None:
    """From 5 × 0.1 to 1 × 0.8 cores within half as much again, in one write: not by way of 5 × 0.8."""
    before = changed(SMALLEST, "read", replicas=5)
    limited.deploy(before)
    service = limited.serve(keep())
    service.until_settled()
    # Of 1.2 cores 0.5 are in use.
    limited.limit_cores(ORCHESTRATOR_CORES + 0.7)
    generation = limited.generation()
    wanted = changed(SMALLEST, "read", replicas=1, cores=0.8)
    assert service.ask(wanted).configs == wanted
    assert not applied(service.until_settled(wanted))
    assert limited.generation() == generation + 1


def test_a_scale_down_of_ours_is_nobody_elses(limited: Story) -> None:
    """The tick that finds it ready goes on, and no later one speaks of a change by others."""
    limited.deploy(changed(SMALLEST, "detect", replicas=3))
    service = limited.serve(keep())
    service.until_settled()
    for replicas in (2, 1):
        wanted = changed(SMALLEST, "detect", replicas=replicas)
        assert service.ask(wanted).action is Action.APPLY
        decisions = [*service.until_settled(wanted), *(service.tick() for _ in range(3))]
        assert not [each.detail for each in decisions if "did not make" in each.detail]


def test_restricted_pod_security_refuses_single_before_the_write_and_runs_split(limited: Story) -> None:
    """Seldon's orchestrator never runs there; the parts of shape split, and plain Deployments, all do."""
    limited.restrict()
    if limited.target is not SELDON:
        limited.deploy(SMALLEST)
        return
    revision = create(limited.client, limited.pipeline, SMALLEST)
    more = changed(SMALLEST, "detect", replicas=3)
    with pytest.raises(InputError, match=r"restricted PodSecurity.*shape: split"):
        limited.workload.write(
            limited.pipeline, Change("story", limited.pipeline.name, revision, SMALLEST, more, 60.0)
        )
    assert limited.workload.read(limited.pipeline).revision == revision
    if not limited.pods_are_fake():
        pytest.skip("router and queues need an image of theirs where pods are real")
    split = with_seldon(limited.pipeline, shape=Shape.SPLIT, image="ipa:1")
    workload = KubeWorkload(limited.client, layout_of)
    revision = create(limited.client, split, SMALLEST)
    change = Change("story", split.name, revision, (), SMALLEST, limited.settings.rollout_deadline_s)
    limited.eventually(
        lambda: workload.rollout(split, change).phase is RolloutPhase.READY, "every part of split is ready"
    )
    state = workload.read(split)
    assert (state.revision, state.settled, state.problem) == (revision, True, "")
