"""The Workload port's contract: every adapter passes it, on every server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, InputError, NotFoundError
from ipa.model.parts import in_order, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from tests.contract.gitops_harness import GitOpsHarness
from tests.contract.kube_harness import (
    SHAPES,
    ClusterHarness,
    FakeKubeHarness,
    cluster_pipeline,
    contract_pipeline,
    kubeconfig_of_cluster,
)
from tests.contract.local_harness import MARKS as ON_THIS_MACHINE
from tests.contract.local_harness import LocalHarness
from tests.contract.node_harness import MARKS as ON_A_NODE
from tests.contract.node_harness import NodeHarness, skip_unless_chosen
from tests.contract.toy_harness import ToyHarness
from tests.contract.workload_harness import WorkloadHarness

Configs = tuple[StageConfig, ...]


def on_fake(shape: str, folder: Path) -> WorkloadHarness:
    return FakeKubeHarness(folder, SHAPES[shape](contract_pipeline()))


HARNESSES: dict[str, Callable[[Path], WorkloadHarness]] = {
    "gitops-git": GitOpsHarness,
    "toy": ToyHarness,
    "local": LocalHarness,
    **{f"kube-fake{shape}": partial(on_fake, shape) for shape in SHAPES},
}
# By name the shape.
CLUSTERS, NODES = ({f"{where}{shape}": shape for shape in SHAPES} for where in ("kube-cluster", "node"))
ON_A_CLUSTER = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("cluster")]
MARKS = {"local": ON_THIS_MACHINE, **dict.fromkeys(CLUSTERS, ON_A_CLUSTER), **dict.fromkeys(NODES, ON_A_NODE)}


@pytest.fixture(
    params=[pytest.param(name, marks=MARKS.get(name, [])) for name in (*HARNESSES, *CLUSTERS, *NODES)]
)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WorkloadHarness]:
    made: WorkloadHarness
    if request.param in NODES:
        skip_unless_chosen(request.node.originalname)
        made = NodeHarness(request.getfixturevalue("node"), NODES[request.param])
    elif request.param in CLUSTERS:
        made = ClusterHarness(kubeconfig_of_cluster(), cluster_pipeline(CLUSTERS[request.param]))
    else:
        made = HARNESSES[request.param](tmp_path)
    yield made
    made.close()


def first_configs(pipeline: Pipeline) -> Configs:
    return tuple(StageConfig(stage.name, stage.variants[0].name, 1, 0.25, 1) for stage in pipeline.stages)


def scaled(configs: Configs, replicas: int) -> Configs:
    return (replace(configs[0], replicas=replicas), *configs[1:])


def change_to(harness: WorkloadHarness, configs: Configs, *, is_rollback: bool = False) -> Change:
    state = harness.workload.read(harness.pipeline)
    previous = tuple(stage.config for stage in state.stages)
    return Change("d-1", harness.pipeline.name, state.revision, previous, configs, 300.0, is_rollback)


def running(harness: WorkloadHarness) -> Configs:
    return tuple(stage.config for stage in harness.workload.read(harness.pipeline).stages)


def test_nothing_runs_before_the_start(harness: WorkloadHarness) -> None:
    with pytest.raises(NotFoundError):
        harness.workload.read(harness.pipeline)


def test_what_was_started_reads_back_and_is_ready(harness: WorkloadHarness) -> None:
    configs = scaled(first_configs(harness.pipeline), 2)
    harness.start(configs)
    state = harness.workload.read(harness.pipeline)
    assert tuple(stage.config for stage in state.stages) == configs
    assert [stage.ready_replicas for stage in state.stages] == [config.replicas for config in configs]
    assert state.settled
    assert state.revision


def test_reading_twice_finds_the_same_revision(harness: WorkloadHarness) -> None:
    harness.start(first_configs(harness.pipeline))
    states = [harness.workload.read(harness.pipeline) for _ in range(2)]
    assert states[0].revision == states[1].revision


def test_scaling_up_and_down_again(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    for replicas in (3, 1):
        change = change_to(harness, scaled(configs, replicas))
        assert harness.workload.write(harness.pipeline, change) != change.revision
        assert harness.settle(change).phase is RolloutPhase.READY
        state = harness.workload.read(harness.pipeline)
        assert state.settled
        assert state.stages[0].config.replicas == state.stages[0].ready_replicas == replicas


def test_variant_batch_and_cores_of_every_stage_change_at_once(harness: WorkloadHarness) -> None:
    harness.start(first_configs(harness.pipeline))
    wanted = tuple(
        StageConfig(stage.name, stage.variants[-1].name, 4, 0.5, 1) for stage in harness.pipeline.stages
    )
    change = change_to(harness, wanted)
    harness.workload.write(harness.pipeline, change)
    assert running(harness) == wanted
    assert harness.settle(change).phase is RolloutPhase.READY
    assert harness.workload.read(harness.pipeline).settled
    assert running(harness) == wanted


def test_a_set_is_written_read_and_settled_or_refused_as_a_whole(harness: WorkloadHarness) -> None:
    """A second configuration comes without requests, gets its share, and stays alone."""
    small = first_configs(harness.pipeline)
    large = tuple(
        StageConfig(stage.name, stage.variants[-1].name, 1, 0.25, 1) for stage in harness.pipeline.stages
    )
    harness.start(small)
    steps = [
        in_order([small, with_share(large, 0)]),
        in_order([with_share(small, 30), with_share(large, 70)]),
        large,
    ]
    if harness.target.serving(harness.pipeline).most_parts == 1:
        change = change_to(harness, steps[1])
        with pytest.raises(InputError):
            harness.workload.write(harness.pipeline, change)
        assert running(harness) == small
        return
    for wanted in steps:
        change = change_to(harness, wanted)
        harness.workload.write(harness.pipeline, change)
        assert running(harness) == wanted
        assert harness.settle(change).phase is RolloutPhase.READY
        state = harness.workload.read(harness.pipeline)
        assert state.settled and [stage.ready_replicas for stage in state.stages] == [1] * len(wanted)
    # One alone goes on in the predictor that it has.
    change = change_to(harness, scaled(large, 2))
    harness.workload.write(harness.pipeline, change)
    assert harness.settle(change).phase is RolloutPhase.READY
    assert running(harness) == scaled(large, 2)


def test_writing_what_runs_already_changes_nothing(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    change = change_to(harness, configs)
    harness.workload.write(harness.pipeline, change)
    state = harness.workload.read(harness.pipeline)
    assert state.settled
    assert running(harness) == configs
    assert harness.workload.rollout(harness.pipeline, change).phase is RolloutPhase.READY


def test_a_change_decided_on_an_older_state_is_refused(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    stale = change_to(harness, scaled(configs, 3))
    newer = change_to(harness, scaled(configs, 2))
    harness.workload.write(harness.pipeline, newer)
    with pytest.raises(ConflictError):
        harness.workload.write(harness.pipeline, stale)
    assert running(harness) == newer.configs


def test_a_change_after_another_hand_is_refused_and_the_hand_is_seen(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    change = change_to(harness, scaled(configs, 3))
    harness.scale_by_another_hand(configs[0].stage, 2)
    with pytest.raises(ConflictError):
        harness.workload.write(harness.pipeline, change)
    assert running(harness) == scaled(configs, 2)


def test_a_change_that_another_hand_replaced_is_not_waited_for(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    change = change_to(harness, scaled(configs, 3))
    harness.workload.write(harness.pipeline, change)
    harness.scale_by_another_hand(configs[0].stage, 2)
    assert harness.workload.rollout(harness.pipeline, change).phase is not RolloutPhase.PROGRESSING


def test_a_change_is_taken_back_while_it_rolls(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    stage = harness.pipeline.stages[0]
    switched = (replace(configs[0], variant=stage.variants[-1].name, replicas=2), *configs[1:])
    harness.workload.write(harness.pipeline, change_to(harness, switched))
    back = change_to(harness, configs, is_rollback=True)
    assert back.previous == switched
    harness.workload.write(harness.pipeline, back)
    assert harness.settle(back).phase is RolloutPhase.READY
    state = harness.workload.read(harness.pipeline)
    assert state.settled
    assert running(harness) == configs


def test_what_was_removed_is_not_found(harness: WorkloadHarness) -> None:
    configs = first_configs(harness.pipeline)
    harness.start(configs)
    change = change_to(harness, scaled(configs, 2))
    harness.remove()
    for act in (harness.workload.write, harness.workload.rollout):
        with pytest.raises(NotFoundError):
            act(harness.pipeline, change)
    with pytest.raises(NotFoundError):
        harness.workload.read(harness.pipeline)
