"""KubeWorkload under the contract: on the fake API server, and on a cluster of yours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import DEPLOYMENT
from ipa.control.ports import Workload
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.kubernetes.split import PartRole
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of, parts_of
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, target_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape, is_split, seldon_of, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.contract.workload_harness import Settling
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import as_deployments, create

TIMEOUT_S = 10.0


NAME = "ipa-contract"
# What a variant runs, by its name: FIRST-s, FIRST-l, SECOND-s and SECOND-l of the stages FIRST and SECOND.
RunOf = Callable[[str], SeldonRun]


def runs_of(image: str = "registry.example/model:1") -> RunOf:
    """Variants that differ by env alone, so that any image serves."""
    return lambda name: SeldonRun(image=image, env={"MODEL_VARIANT": name})


def contract_pipeline(namespace: str = "default", run_of: RunOf = runs_of()) -> Pipeline:  # noqa: B008
    """Two stages of two variants."""

    def variant(name: str) -> Variant:
        return Variant(name, targets={"seldon": run_of(name)})

    stages = chain(
        [Stage(name, (variant(f"{name}-s"), variant(f"{name}-l"))) for name in ("first", "second")]
    )
    return Pipeline(
        NAME,
        stages,
        Sla(1.0),
        {"default": Objective()},
        targets={"seldon": SeldonTarget(NAME, namespace)},
    )


def split(pipeline: Pipeline) -> Pipeline:
    """The same pipeline in shape split."""
    target = seldon_of(pipeline) or SeldonTarget(pipeline.name)
    return replace(
        pipeline, targets={"seldon": replace(target, shape=Shape.SPLIT, image="registry.example/ipa:1")}
    )


def replicas_of(pipeline: Pipeline, stage: str) -> tuple[str, int]:
    """The SeldonDeployment that has the stage's replicas, and the index of their componentSpec in it."""
    if is_split(pipeline):
        (part,) = (it for it in parts_of(pipeline) if (it.role, it.stage) == (PartRole.MODEL, stage))
        return part.name, 0
    return target_of(pipeline).name, [it.name for it in pipeline.stages].index(stage)


class FakeKubeHarness(Settling):
    """On the fake: time is ticks."""

    target: KubernetesTarget = SELDON

    def __init__(self, folder: Path, pipeline: Pipeline | None = None) -> None:
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.workload: Workload = KubeWorkload(self.client, self.target.layout_of)
        self.pipeline = pipeline or contract_pipeline()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        create(self.client, self.pipeline, configs, target=self.target)

    def let_time_pass(self) -> None:
        self.kube.tick()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        name, index = replicas_of(self.pipeline, stage)

        def scale(sdep: dict) -> None:
            sdep["spec"]["predictors"][0]["componentSpecs"][index]["replicas"] = replicas

        self.kube.edit("default", name, scale)

    def remove(self) -> None:
        for name in self.target.layout_of(self.pipeline).names:
            self.kube.store.delete(self.target.kind.plural, "default", name)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()


class DeploymentsHarness(FakeKubeHarness):
    """Plain Deployments on the fake."""

    target = DEPLOYMENTS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, as_deployments(contract_pipeline()))

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        def scale(deployment: dict) -> None:
            deployment["spec"]["replicas"] = replicas

        self.kube.edit("default", f"{NAME}-{stage}-model", scale, "deployments")


class ClusterHarness(Settling):
    """On the cluster of IPA_TEST_KUBECONFIG: it has the CRD and the operator; its pods may be fake.

    Environment: IPA_TEST_NAMESPACE (default ipa-test, must exist), IPA_TEST_IMAGE (any that starts and
    stays), IPA_TEST_TIMEOUT_S (for one rollout), and in shape split IPA_TEST_SPLIT_IMAGE, of router and
    queues: where pods are real this package is in it, and IPA_TEST_IMAGE serves its port.
    """

    # The time between two looks.
    look_s = 1.0

    def __init__(self, kubeconfig: str, pipeline: Pipeline) -> None:
        from kubernetes import client, config

        self.attempts = int(float(os.environ.get("IPA_TEST_TIMEOUT_S", "180")) / self.look_s)
        self.pipeline = pipeline
        self.layout = layout_of(pipeline)
        self.client = KubeClient.from_kubeconfig(kubeconfig, TIMEOUT_S)
        self.workload: Workload = KubeWorkload(self.client, layout_of)
        configuration = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        self._api = client.ApiClient(configuration)
        self._custom = client.CustomObjectsApi(self._api)
        self._place = ("machinelearning.seldon.io", "v1", self.layout.namespace, "seldondeployments")
        self._pause = threading.Event()
        self.remove()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        create(self.client, self.pipeline, configs)

    def let_time_pass(self) -> None:
        self._pause.wait(self.look_s)

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        name, index = replicas_of(self.pipeline, stage)
        path = f"/spec/predictors/0/componentSpecs/{index}/replicas"
        patch = [{"op": "replace", "path": path, "value": replicas}]
        self._custom.patch_namespaced_custom_object(
            *self._place, name, patch, _content_type="application/json-patch+json"
        )

    def remove(self) -> None:
        children = []
        for name in self.layout.names:
            with suppress(NotFoundError):
                live = self.client.get(SELDON_DEPLOYMENT, self.layout.namespace, name)
                made, _ = self.client.list_all(DEPLOYMENT, self.layout.namespace)
                own = live["metadata"]["uid"]
                children += [
                    each["metadata"]["name"]
                    for each in made
                    if any(it["uid"] == own for it in each["metadata"].get("ownerReferences") or ())
                ]
                self._custom.delete_namespaced_custom_object(*self._place, name)
        for _ in range(self.attempts):
            if not any(self.client.get_deployment(self.layout.namespace, name) for name in children):
                return
            self.let_time_pass()
        raise AssertionError("the children were not removed")

    def close(self) -> None:
        self.remove()
        self.client.close()
        self._api.close()


def kubeconfig_of_cluster() -> str:
    kubeconfig = os.environ.get("IPA_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip("needs a cluster with the SeldonDeployment CRD; set IPA_TEST_KUBECONFIG")
    return kubeconfig


def cluster_pipeline() -> Pipeline:
    """The contract's pipeline as the environment has it."""
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    return contract_pipeline(os.environ.get("IPA_TEST_NAMESPACE", "ipa-test"), runs_of(image))


def cluster_split_pipeline() -> Pipeline:
    """The same in shape split."""
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    return with_seldon(split(cluster_pipeline()), image=os.environ.get("IPA_TEST_SPLIT_IMAGE", image))
