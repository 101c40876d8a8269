"""Contract and stories on a node: real MLServers, queues, routers and orchestrators, and real time.

By default a few of the tests run there (`ON_A_NODE`), all of them with IPA_TEST_NODE=all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ipa.targets.seldon.section import SeldonRun
from tests.contract.kube_harness import SHAPES, ClusterHarness, contract_pipeline
from tests.contract.story_harness import ClusterStory
from tests.contract.story_pipeline import pipeline
from tests.fakes.kube import FakeKube
from tests.fakes.kube.node import Node

# Tests that run on the node by default: together they start, scale, change, mix up and take back pods.
ON_A_NODE = {
    "test_scaling_up_and_down_again",
    "test_variant_batch_and_cores_of_every_stage_change_at_once",
    "test_a_change_is_taken_back_while_it_rolls",
    "test_switch_variant",
    "test_replica_only",
    "test_rollback_on_crash_loop",
}
# They share one node, and so a worker.
MARKS = [pytest.mark.live, pytest.mark.xdist_group("node")]
CORES = 100.0
TIMEOUT_S = 30.0
LOOK_S = 0.2


@dataclass(frozen=True)
class SharedNode:
    """A cluster whose pods are processes of this machine, without pipelines."""

    kube: FakeKube
    node: Node
    kubeconfig: str


@contextmanager
def shared_node(folder: Path) -> Iterator[SharedNode]:
    """A node of several tests. Pods that are taken away end at once."""
    runtimes = ("pipelines.digits.runtime",)
    with (
        FakeKube(capacity_cores=CORES) as kube,
        Node(kube.cluster, folder / "pods", runtimes, pre_stop_s=0.0, back_off_s=1.0) as node,
    ):
        yield SharedNode(kube, node, str(kube.kubeconfig(folder)))


def skip_unless_chosen(name: str) -> None:
    """Skip a test of that name, unless it is one of those that run on a node by default, or all do."""
    if name not in ON_A_NODE and os.environ.get("IPA_TEST_NODE") != "all":
        pytest.skip("runs on a node with IPA_TEST_NODE=all")


def model(kind: str, name: str) -> SeldonRun:
    """A model of the digits pipeline; `kind` is Locate or Classify."""
    env = {
        "MLSERVER_MODEL_IMPLEMENTATION": f"pipelines.digits.runtime.{kind}",
        "MLSERVER_MODEL_EXTRA": json.dumps({"model": name}),
    }
    return SeldonRun(image="ipa/digits:0.2.0", env=env)


def contract_model(variant: str) -> SeldonRun:
    """The model of a variant of the contract's pipeline."""
    models = {
        "first-s": ("Locate", "ridge"),
        "first-l": ("Locate", "logistic"),
        "second-s": ("Classify", "tree"),
        "second-l": ("Classify", "logistic"),
    }
    return model(*models[variant])


def story_model(stage: str, variant: str) -> SeldonRun:
    """The model of a variant of the stories' pipeline; `broken` ends at its start."""
    if variant == "broken":
        return model("Nothing", "none")
    if stage == "detect":
        return model("Locate", {"small": "ridge", "big": "logistic"}[variant])
    return model("Classify", {"small": "tree", "big": "logistic"}[variant])


class NodeHarness(ClusterHarness):
    """KubeWorkload on the node."""

    look_s = LOOK_S

    def __init__(self, shared: SharedNode, shape: str) -> None:
        super().__init__(shared.kubeconfig, SHAPES[shape](contract_pipeline(run_of=contract_model)))


class NodeStory(ClusterStory):
    """Stories on the node."""

    def __init__(self, shared: SharedNode) -> None:
        super().__init__(
            shared.kubeconfig, pipeline("default", story_model), tick_s=LOOK_S, timeout_s=TIMEOUT_S
        )
