"""A workload on a fake cluster, where the sample pipeline runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import Rollout
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import create, sample_configs, sample_pipeline


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as made:
        yield made


@pytest.fixture
def client(kube: FakeKube, tmp_path: Path) -> Iterator[KubeClient]:
    made = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0, clock=VirtualClock())
    yield made
    made.close()


@pytest.fixture
def workload(kube: FakeKube, client: KubeClient) -> KubeWorkload:
    """The sample pipeline, ready on the fake cluster."""
    made = KubeWorkload(client, SELDON.layout_of)
    create(client, sample_pipeline(), sample_configs())
    kube.tick(10)
    return made


Configs = tuple[StageConfig, ...]


class World:
    """A workload on the fake, a pipeline of the sample's stages created there and ready."""

    def __init__(
        self, kube: FakeKube, client: KubeClient, pipeline: Pipeline, target: KubernetesTarget = SELDON
    ) -> None:
        self.kube, self.pipeline, self.workload = kube, pipeline, KubeWorkload(client, target.layout_of)
        create(client, pipeline, sample_configs(), target=target)
        kube.tick(8)
        kube.writes.clear()
        kube.requests.clear()

    def change(self, *configs: StageConfig) -> Change:
        """The change of these stages to these, as the workload is read now."""
        state = self.workload.read(self.pipeline)
        previous = tuple(stage.config for stage in state.stages)
        by_stage = {config.stage: config for config in configs}
        wanted = tuple(by_stage.get(config.stage, config) for config in previous)
        return Change("d-1", "sample", state.revision, previous, wanted, 300.0)

    def write(self, *configs: StageConfig) -> Change:
        change = self.change(*configs)
        self.workload.write(self.pipeline, change)
        return change

    def watch(self, change: Change, ticks: int) -> list[Rollout]:
        rollouts = []
        for _ in range(ticks):
            rollouts.append(self.workload.rollout(self.pipeline, change))
            self.kube.tick()
        return rollouts

    def running(self) -> Configs:
        return tuple(stage.config for stage in self.workload.read(self.pipeline).stages)

    def written(self) -> list[str]:
        return [request.name for request in self.kube.writes]


@pytest.fixture
def world(kube: FakeKube, client: KubeClient, request: pytest.FixtureRequest) -> World:
    """Of the module's PIPELINE."""
    return World(kube, client, request.module.PIPELINE)
