"""Stories of namespaces that refuse pods: a ResourceQuota, a LimitRange, restricted PodSecurity.

On the fake API server, and on the cluster that IPA_TEST_KUBECONFIG names: its user may write these objects
and the labels of the namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.decision import Action, Change, ReasonCode
from ipa.model.errors import InputError
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import Shape, with_seldon
from tests.contract.story_harness import Story, applied, changed
from tests.contract.story_pipeline import SMALLEST, keep, ours
from tests.contract.test_cluster_stories import MARKS, STORIES
from tests.fakes.kube.samples import create

# Each change restarts the orchestrator, whose new pod needs room beside the old one.
ORCHESTRATOR_CORES = 0.5


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in STORIES])
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Story]:
    made = STORIES[request.param](tmp_path)
    yield made
    made.close()


def test_a_quota_is_planned_around(story: Story) -> None:
    """Its refusal is taken back, never held for good, and the refused plan is not written again."""
    story.deploy(SMALLEST)
    service = story.serve(ours(story.pipeline))
    service.until(lambda decision: decision.reason is ReasonCode.NO_CHANGE, "the plan for the low load runs")
    story.limit_cores(ORCHESTRATOR_CORES + 0.2)
    story.rate_rps = 40.0
    decisions = service.until(lambda decision: decision.reason is ReasonCode.ROLLBACK, "it is taken back")
    assert "exceeded quota" in decisions[-1].detail
    refused = decisions[-1].previous
    later = service.until_settled()
    later += [service.tick() for _ in range(5)]
    # What is left to do within the room there is.
    later += service.until_settled()
    assert refused not in [decision.configs for decision in applied(later)]
    assert ReasonCode.ROLLBACK_FAILED not in {decision.reason for decision in later}
    assert story.state().settled


def test_a_limit_range_refuses_a_replica_and_not_the_next_change(story: Story) -> None:
    """Containers above the maximum are refused: that change is taken back, another one goes through."""
    story.deploy(SMALLEST)
    service = story.serve(keep())
    service.until_settled()
    story.limit_containers(0.6)
    assert service.ask(changed(SMALLEST, "read", cores=0.7)).action is Action.APPLY
    decisions = service.until(lambda decision: decision.reason is ReasonCode.ROLLBACK, "it is taken back")
    assert "maximum cpu usage per Container" in decisions[-1].detail
    service.until_settled(SMALLEST)
    wanted = changed(SMALLEST, "read", replicas=2)
    assert service.ask(wanted).action is Action.APPLY
    assert not applied(service.until_settled(wanted))


def test_replicas_and_cores_at_once_ask_for_no_more_than_the_larger_end(story: Story) -> None:
    """From 5 × 0.1 to 1 × 0.8 cores within half as much again, in one write: not by way of 5 × 0.8."""
    before = changed(SMALLEST, "read", replicas=5)
    story.deploy(before)
    service = story.serve(keep())
    service.until_settled()
    # Of 1.2 cores 0.5 are in use.
    story.limit_cores(ORCHESTRATOR_CORES + 0.7)
    generation = story.generation()
    wanted = changed(SMALLEST, "read", replicas=1, cores=0.8)
    assert service.ask(wanted).configs == wanted
    assert not applied(service.until_settled(wanted))
    assert story.generation() == generation + 1


def test_a_scale_down_of_ours_is_nobody_elses(story: Story) -> None:
    """The tick that finds it ready goes on, and no later one speaks of a change by others."""
    story.deploy(changed(SMALLEST, "detect", replicas=3))
    service = story.serve(keep())
    service.until_settled()
    for replicas in (2, 1):
        wanted = changed(SMALLEST, "detect", replicas=replicas)
        assert service.ask(wanted).action is Action.APPLY
        decisions = [*service.until_settled(wanted), *(service.tick() for _ in range(3))]
        assert not [each.detail for each in decisions if "did not make" in each.detail]


def test_restricted_pod_security_refuses_single_before_the_write_and_runs_split(story: Story) -> None:
    """Seldon's orchestrator never runs there; the parts of shape split all do."""
    story.restrict()
    revision = create(story.client, story.pipeline, SMALLEST)
    more = changed(SMALLEST, "detect", replicas=3)
    with pytest.raises(InputError, match=r"restricted PodSecurity.*shape: split"):
        story.workload.write(
            story.pipeline, Change("story", story.pipeline.name, revision, SMALLEST, more, 60.0)
        )
    assert story.workload.read(story.pipeline).revision == revision
    if not story.pods_are_fake():
        pytest.skip("router and queues need an image of theirs where pods are real")
    split = with_seldon(story.pipeline, shape=Shape.SPLIT, image="ipa:1")
    workload = KubeWorkload(story.client, layout_of)
    revision = create(story.client, split, SMALLEST)
    change = Change("story", split.name, revision, (), SMALLEST, story.settings.rollout_deadline_s)
    story.eventually(
        lambda: workload.rollout(split, change).phase is RolloutPhase.READY, "every part of split is ready"
    )
    state = workload.read(split)
    assert (state.revision, state.settled, state.problem) == (revision, True, "")
