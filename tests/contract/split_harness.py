"""SplitWorkload under the contract, on the fake API server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.split import Role, parts_of
from ipa.adapters.kube.splitworkload import SplitWorkload
from ipa.control.ports import Rollout, RolloutPhase, Workload
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline, SeldonTarget, Shape
from ipa.model.plan import StageConfig
from tests.contract.kube_harness import TICKS, TIMEOUT_S, contract_pipeline
from tests.fakes.kube import FakeKube


def split(pipeline: Pipeline) -> Pipeline:
    """The same pipeline in shape split."""
    target = pipeline.seldon or SeldonTarget(pipeline.name)
    return replace(pipeline, seldon=replace(target, shape=Shape.SPLIT, image="registry.example/ipa:1"))


class FakeSplitHarness:
    """On the fake: time is ticks."""

    def __init__(self, folder: Path) -> None:
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.split = SplitWorkload(self.client)
        self.workload: Workload = self.split
        self.pipeline = split(contract_pipeline())

    def start(self, configs: Sequence[StageConfig]) -> None:
        self.split.create(self.pipeline, configs)
        for _ in range(TICKS):
            self.kube.tick()
            if self.workload.read(self.pipeline).settled:
                return
        raise AssertionError("the first deploy did not settle")

    def settle(self, change: Change) -> Rollout:
        for _ in range(TICKS):
            rollout = self.workload.rollout(self.pipeline, change)
            if rollout.phase is not RolloutPhase.PROGRESSING:
                break
            self.kube.tick()
        return rollout

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        model = next(
            part for part in parts_of(self.pipeline) if (part.role, part.stage) == (Role.MODEL, stage)
        )

        def scale(sdep: dict) -> None:
            sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = replicas

        self.kube.edit("default", model.name, scale)

    def remove(self) -> None:
        with self.kube.store.lock:
            for part in parts_of(self.pipeline):
                self.kube.store.delete("seldondeployments", "default", part.name)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()
