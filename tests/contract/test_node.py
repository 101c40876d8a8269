"""Pods on the node: the orchestrator beside a stage, as Seldon puts it by default, and queues that change."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments.demo_seldon.cluster import entry_url
from experiments.fidelity.case import bodies_of
from ipa.control.ports import RolloutPhase
from ipa.files import load_pipeline
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.seldon.section import with_seldon
from ipa.targets.seldon.target import SELDON
from tests.contract.node_harness import MARKS, NodeHarness, SharedNode
from tests.fakes.kube.cluster import ENGINE
from tests.fakes.kube.node import ENGINE_PORT, NodePod
from tests.fakes.waiting import until

pytestmark = MARKS

CONFIGS = (StageConfig("locate", "ridge", 1, 0.25, 1), StageConfig("classify", "tree", 1, 0.25, 1))
FIRST, SECOND = "digits-default-0-locate", "digits-default-1-classify"
ENTRY, STAGE = "digits-default.default", "digits-default-locate.default"
# A machine that is busy with other tests starts a pod within that.
READY_S = 300.0


@pytest.fixture
def pipeline(root: Path, node: SharedNode) -> Iterator[Pipeline]:
    """Digits with the orchestrator in the pods of its first stage, ready on the node."""
    made = with_seldon(load_pipeline(root / "pipelines/digits/pipeline.yaml"), separate_orchestrator=False)
    for body in SELDON.render(made, CONFIGS):
        node.kube.store.create("seldondeployments", "default", body)
    until(lambda: all(ready_addresses(node, it) for it in (ENTRY, STAGE)), within_s=READY_S)
    yield made
    if node.kube.store.find("seldondeployments", "default"):
        remove(node)
    until(lambda: not (node.node.all_pods(FIRST) or node.node.all_pods(SECOND)), within_s=READY_S)


def ready_addresses(node: SharedNode, service: str) -> list[str]:
    """The addresses that a Service leads to."""
    pods: list[str] = json.loads(node.node.hosts.read_text()).get(service, {}).get("pods", [])
    return pods


def answer(pod: NodePod) -> Any:
    """The digit that the orchestrator in that pod finds on the first canvas."""
    return answer_at(f"http://{pod.address}:{ENGINE_PORT}/v2/models/infer")


def answer_at(url: httpx.URL | str) -> Any:
    """The digit of the first canvas by what serves at that address."""
    headers = {"content-type": "application/json"}
    response = httpx.post(url, content=bodies_of("digits")[0], headers=headers, trust_env=False, timeout=30.0)
    return response.raise_for_status().json()["outputs"][0]["data"]


def statuses(node: SharedNode, pod: NodePod) -> dict[str, bool]:
    """The containers of a pod by the API server, and whether each is ready."""
    containers = node.kube.store.get("pods", "default", pod.name)["status"]["containerStatuses"]
    return {it["name"]: it["ready"] for it in containers}


def remove(node: SharedNode) -> None:
    node.kube.store.delete("seldondeployments", "default", "digits")


def is_running(pid: int) -> bool:
    """True if there is a process of that number."""
    return Path(f"/proc/{pid}").exists()


def test_containers_of_a_pod_are_ready_together_and_restart_each_on_its_own(
    node: SharedNode, pipeline: Pipeline
) -> None:
    (pod,) = node.node.pods(FIRST)
    assert [it.name for it in pod.containers] == ["locate", ENGINE]
    assert {it.name for it in node.node.pods(SECOND)[0].containers} == {"classify"}
    assert ready_addresses(node, ENTRY) == ready_addresses(node, STAGE) == [pod.address]
    first = answer(pod)
    model = pod.container("locate").pid
    node.node.kill(pod, ENGINE)
    until(lambda: not ready_addresses(node, ENTRY), within_s=READY_S)
    # Nobody is led to the stage either: a pod is ready as a whole, or not.
    assert not ready_addresses(node, STAGE)
    until(lambda: statuses(node, pod) == {"locate": True, ENGINE: False}, within_s=READY_S)
    until(lambda: ready_addresses(node, ENTRY) == [pod.address], within_s=READY_S)
    assert pod.container("locate").pid == model and is_running(model)
    assert [pod.container(name).restarts for name in ("locate", ENGINE)] == [0, 1]
    assert answer(pod) == first
    events = [(it.what, it.container) for it in node.node.events if it.pod == pod.name]
    assert events == [("started", ""), ("ready", ""), ("ended", ENGINE), ("restarted", ENGINE), ("ready", "")]


def test_containers_of_a_pod_end_together(node: SharedNode, pipeline: Pipeline) -> None:
    (pod,) = node.node.pods(FIRST)
    pids = [it.pid for it in pod.containers]
    assert all(map(is_running, pids)) and os.getpid() not in pids
    remove(node)
    until(lambda: not any(map(is_running, pids)), within_s=READY_S)
    assert [it.what for it in node.node.events if it.pod == pod.name] == ["started", "ready", "taken"]


def test_a_write_for_the_second_stage_replaces_the_pods_of_the_first(
    node: SharedNode, pipeline: Pipeline
) -> None:
    """The orchestrator is told every number, so all pods that it is in start anew; see the docs."""
    (before,), (second,) = node.node.pods(FIRST), node.node.pods(SECOND)
    (body,) = SELDON.render(pipeline, (CONFIGS[0], replace(CONFIGS[1], replicas=2)))

    def write(sdep: dict[str, Any]) -> None:
        sdep["spec"] = body["spec"]

    node.kube.edit("default", "digits", write)
    until(lambda: len(node.node.pods(SECOND)) == 2, within_s=READY_S)
    until(lambda: before.name not in {it.name for it in node.node.pods(FIRST)}, within_s=READY_S)
    assert second.name in {it.name for it in node.node.pods(SECOND)}
    (after,) = node.node.pods(FIRST)
    assert after.is_ready and answer(after)


@pytest.mark.parametrize("shape", ["-split", "-deployments"])
def test_no_request_is_lost_while_queues_are_replaced(node: SharedNode, shape: str) -> None:
    """A batch size is env of a queue, whose one pod is replaced; the router tries again where it is gone."""
    with closing(NodeHarness(node, shape)) as made:
        small = tuple(StageConfig(stage, f"{stage}-s", 1, 0.25, 1) for stage in ("first", "second"))
        made.start(small)
        url = httpx.URL(entry_url(made.pipeline))
        url = url.copy_with(host=ready_addresses(node, url.host)[0])
        first, old = answer_at(url), {name for name in node.node.names if "-queue" in name}
        revision = made.workload.read(made.pipeline).revision
        wanted = tuple(replace(it, batch_size=4) for it in small)
        change = Change("d-1", made.pipeline.name, revision, small, wanted, READY_S)
        made.workload.write(made.pipeline, change)
        answers = []
        until(lambda: answers.append(answer_at(url)) or not old & node.node.names, within_s=READY_S)
        assert made.workload.rollout(made.pipeline, change).phase is RolloutPhase.READY
        assert len(old) == len(small) and answers == [first] * len(answers)
