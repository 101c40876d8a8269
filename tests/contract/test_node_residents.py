"""Resident variants in shape split, on the node: the queue's pod changes, and no pod of the stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments.fidelity.case import bodies_of
from ipa.adapters.kube.client import KubeClient
from ipa.files import load_pipeline
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of, parts_of
from ipa.targets.seldon.section import Shape, with_seldon
from tests.contract.node_harness import MARKS, SharedNode
from tests.fakes.kube.samples import create
from tests.fakes.waiting import until

pytestmark = MARKS

CONFIGS = (StageConfig("locate", "ridge", 1, 0.25, 1), StageConfig("classify", "tree", 2, 0.25, 1))
READY_S = 300.0
MODEL, QUEUE = "digits-classify-model-default-0-classify", "digits-classify-queue-default-0-queue"
ROUTER, HEADLESS = "digits-router-default.default", "digits-classify-model-default.default"


@pytest.fixture
def world(root: Path, node: SharedNode) -> Iterator[tuple[Pipeline, KubeWorkload]]:
    """Digits with resident variants, two of the second stage's in each pod, ready on the node."""
    made = load_pipeline(root / "pipelines/digits/pipeline.yaml")
    made = with_seldon(made, shape=Shape.SPLIT, image="ipa/dataplane:1", ignores=())
    first, second = made.stages
    made = replace(made, stages=(first, replace(second, resident=2)))
    client = KubeClient.from_kubeconfig(node.kubeconfig, 10.0)
    workload = KubeWorkload(client, layout_of)
    create(client, made, CONFIGS)
    until(lambda: workload.read(made).settled, within_s=READY_S)
    yield made, workload
    with node.kube.store.lock:
        for part in parts_of(made):
            node.kube.store.delete("seldondeployments", "default", part.name)
    until(lambda: not (node.node.all_pods(MODEL) or node.node.all_pods(QUEUE)), within_s=READY_S)
    client.close()


def change(world: tuple[Pipeline, KubeWorkload], **changes: Any) -> None:
    """Change the second stage, and wait until all of it runs."""
    pipeline, workload = world
    state = workload.read(pipeline)
    before = tuple(it.config for it in state.stages)
    wanted = (before[0], replace(before[1], **changes))
    asked = Change("d-1", pipeline.name, state.revision, before, wanted, 300.0)
    asked = replace(asked, revision=workload.write(pipeline, asked))
    until(lambda: workload.rollout(pipeline, asked).phase.value == "ready", within_s=READY_S)
    until(lambda: workload.read(pipeline).settled, within_s=READY_S)
    assert tuple(it.config for it in workload.read(pipeline).stages) == wanted


def addresses(node: SharedNode, service: str) -> list[str]:
    """The addresses of a Service's ready pods."""
    found: list[str] = json.loads(node.node.hosts.read_text()).get(service, {}).get("pods", [])
    return found


def answered(node: SharedNode) -> str:
    """The variant of the second stage that answers a request to the router, by the servers' counters."""
    (pod,) = addresses(node, HEADLESS)
    before = requests_of(pod)
    (router,) = addresses(node, ROUTER)
    url = f"http://{router}:9000/v2/models/digits/infer"
    headers = {"content-type": "application/json"}

    def is_answered() -> bool:
        body = bodies_of("digits")[0]
        answer = httpx.post(url, content=body, headers=headers, trust_env=False, timeout=30.0)
        return answer.is_success and requests_of(pod) != before

    # On a busy machine the first may be late, and is dropped; another pod that ends may answer it.
    until(is_answered, within_s=READY_S)
    after = requests_of(pod)
    (variant,) = (name for name in after if after[name] != before.get(name, 0.0))
    return variant


def requests_of(pod: str) -> dict[str, float]:
    """The requests that each model of the pod has answered, by its variant."""
    text = httpx.get(f"http://{pod}:6000/prometheus", trust_env=False, timeout=5.0).text
    lines = (line for line in text.splitlines() if line.startswith("model_infer_request_success_total{"))
    return {line.split('model="classify--')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_another_resident_variant_restarts_its_queue_and_no_pod_of_the_stage(
    node: SharedNode, world: tuple[Pipeline, KubeWorkload]
) -> None:
    names = [variant.name for variant in world[0].stages[1].variants]
    assert len(names) == 3 and names[0] == "tree"
    (pod,) = (it.name for it in node.node.pods(MODEL))
    assert answered(node) == "tree"
    change(world, variant=names[1], batch_size=1)
    assert [it.name for it in node.node.pods(MODEL)] == [pod]
    assert node.node.pods(MODEL)[0].containers[0].restarts == 0
    assert answered(node) == names[1]
    # It is loaded in other pods alone.
    change(world, variant=names[2])
    assert pod not in {it.name for it in node.node.pods(MODEL)}
    until(lambda: len(addresses(node, HEADLESS)) == 1, within_s=READY_S)
    assert answered(node) == names[2]
