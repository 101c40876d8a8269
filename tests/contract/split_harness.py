"""KubeWorkload under the contract: on the fake API server, and on a cluster of yours."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import Workload
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, target_of
from ipa.targets.seldon.section import SeldonTarget, Shape, seldon_of, with_seldon
from ipa.targets.seldon.split import PartRole, parts_of
from tests.contract.kube_harness import TIMEOUT_S, contract_pipeline, runs_of
from tests.contract.workload_harness import Settling
from tests.fakes.kube import FakeKube


def split(pipeline: Pipeline) -> Pipeline:
    """The same pipeline in shape split."""
    target = seldon_of(pipeline) or SeldonTarget(pipeline.name)
    return replace(
        pipeline, targets={"seldon": replace(target, shape=Shape.SPLIT, image="registry.example/ipa:1")}
    )


def model_of(pipeline: Pipeline, stage: str) -> str:
    """The name of the SeldonDeployment of the stage's model."""
    return next(
        part.name for part in parts_of(pipeline) if (part.role, part.stage) == (PartRole.MODEL, stage)
    )


class FakeSplitHarness(Settling):
    """On the fake: time is ticks."""

    def __init__(self, folder: Path) -> None:
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.split = KubeWorkload(self.client, layout_of)
        self.workload: Workload = self.split
        self.pipeline = split(contract_pipeline())

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        self.split.create(self.pipeline, configs)

    def let_time_pass(self) -> None:
        self.kube.tick()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        def scale(sdep: dict) -> None:
            sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = replicas

        self.kube.edit("default", model_of(self.pipeline, stage), scale)

    def remove(self) -> None:
        with self.kube.store.lock:
            for part in parts_of(self.pipeline):
                self.kube.store.delete("seldondeployments", "default", part.name)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()


class ClusterSplitHarness(Settling):
    """On the cluster of IPA_TEST_KUBECONFIG, with the environment of ClusterHarness.

    IPA_TEST_SPLIT_IMAGE is the image of router and queues; where pods are real this package is in it, and
    IPA_TEST_IMAGE serves its port. Where they are fake any will do.
    """

    # The time between two looks.
    look_s = 1.0

    def __init__(self, kubeconfig: str, pipeline: Pipeline | None = None) -> None:
        from kubernetes import client, config

        self.attempts = int(float(os.environ.get("IPA_TEST_TIMEOUT_S", "180")) / self.look_s)
        self.pipeline = pipeline or _cluster_pipeline()
        self.namespace = target_of(self.pipeline).namespace
        self.client = KubeClient.from_kubeconfig(kubeconfig, TIMEOUT_S)
        self.split = KubeWorkload(self.client, layout_of)
        self.workload: Workload = self.split
        configuration = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        self._api = client.ApiClient(configuration)
        self._custom = client.CustomObjectsApi(self._api)
        self._place = ("machinelearning.seldon.io", "v1", self.namespace, "seldondeployments")
        self._pause = threading.Event()
        self.remove()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        self.split.create(self.pipeline, configs)

    def let_time_pass(self) -> None:
        self._pause.wait(self.look_s)

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        path = "/spec/predictors/0/componentSpecs/0/replicas"
        patch = [{"op": "replace", "path": path, "value": replicas}]
        self._custom.patch_namespaced_custom_object(
            *self._place, model_of(self.pipeline, stage), patch, _content_type="application/json-patch+json"
        )

    def remove(self) -> None:
        there = [part.name for part in parts_of(self.pipeline) if self._is_there(part.name)]
        for name in there:
            self._custom.delete_namespaced_custom_object(*self._place, name)
        for _ in range(self.attempts):
            if not any(self._has_children(name) for name in there):
                return
            self.let_time_pass()
        raise AssertionError("the children were not removed")

    def close(self) -> None:
        self.remove()
        self.client.close()
        self._api.close()

    def _is_there(self, name: str) -> bool:
        try:
            self.client.get(SELDON_DEPLOYMENT, self.namespace, name)
        except NotFoundError:
            return False
        return True

    def _has_children(self, name: str) -> bool:
        target = seldon_of(self.pipeline)
        assert target is not None
        containers = ("router", "queue", *(stage.container or stage.name for stage in self.pipeline.stages))
        names = [f"{name}-{target.predictor}-0-{container}" for container in containers]
        return any(self.client.get_deployment(self.namespace, each) for each in names)


def _cluster_pipeline() -> Pipeline:
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    namespace = os.environ.get("IPA_TEST_NAMESPACE", "ipa-test")
    made = split(contract_pipeline(namespace, runs_of(image)))
    return with_seldon(made, image=os.environ.get("IPA_TEST_SPLIT_IMAGE", image))
