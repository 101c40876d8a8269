"""KubeWorkload under the contract: on the fake API server, and on a cluster of yours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import getitem
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
from ipa.targets.seldon.layouts import parts_of
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape, is_split, seldon_of
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


def split(pipeline: Pipeline, image: str = "registry.example/ipa:1") -> Pipeline:
    """The same pipeline in shape split."""
    target = seldon_of(pipeline) or SeldonTarget(pipeline.name)
    return replace(pipeline, targets={"seldon": replace(target, shape=Shape.SPLIT, image=image)})


# The pipeline made into one with that image of router and queues, by the end of a harness's name.
SHAPES: dict[str, Callable[..., Pipeline]] = {
    "": lambda pipeline, *_: pipeline,
    "-split": split,
    "-deployments": as_deployments,
}


def target_for(pipeline: Pipeline) -> KubernetesTarget:
    """The target whose section the pipeline has."""
    return DEPLOYMENTS if DEPLOYMENTS.placed(pipeline) else SELDON


def replicas_of(pipeline: Pipeline, stage: str) -> tuple[str, tuple[str | int, ...]]:
    """The object that has the stage's replicas, and the keys to what has their number in it."""
    component = ("spec", "predictors", 0, "componentSpecs")
    if DEPLOYMENTS.placed(pipeline):
        return f"{NAME}-{stage}-model", ("spec",)
    if is_split(pipeline):
        (part,) = (it for it in parts_of(pipeline) if (it.role, it.stage) == (PartRole.MODEL, stage))
        return part.name, (*component, 0)
    return target_of(pipeline).name, (*component, [it.name for it in pipeline.stages].index(stage))


class FakeKubeHarness(Settling):
    """On the fake: time is ticks."""

    target: KubernetesTarget

    def __init__(self, folder: Path, pipeline: Pipeline | None = None) -> None:
        self.pipeline = pipeline or contract_pipeline()
        self.target = target_for(self.pipeline)
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.workload: Workload = KubeWorkload(self.client, self.target.layout_of)

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        create(self.client, self.pipeline, configs, target=self.target)

    def let_time_pass(self) -> None:
        self.kube.tick()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        name, keys = replicas_of(self.pipeline, stage)

        def scale(live: dict) -> None:
            reduce(getitem, keys, live)["replicas"] = replicas

        self.kube.edit("default", name, scale, self.target.kind.plural)

    def remove(self) -> None:
        for name in self.target.layout_of(self.pipeline).names:
            self.kube.store.delete(self.target.kind.plural, "default", name)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()


class ClusterHarness(Settling):
    """On the cluster of IPA_TEST_KUBECONFIG: with the CRD and the operator for Seldon; pods may be fake.

    Environment: IPA_TEST_NAMESPACE (default ipa-test, must exist), IPA_TEST_IMAGE (any that starts and
    stays), IPA_TEST_TIMEOUT_S (for one rollout), and in shape split and on Deployments
    IPA_TEST_SPLIT_IMAGE, of router and queues: where pods are real this package is in it, and IPA_TEST_IMAGE
    serves its port.
    """

    # The time between two looks.
    look_s = 1.0

    def __init__(self, kubeconfig: str, pipeline: Pipeline) -> None:
        from kubernetes import client, config

        self.attempts = int(float(os.environ.get("IPA_TEST_TIMEOUT_S", "180")) / self.look_s)
        self.pipeline = pipeline
        self.target: KubernetesTarget = target_for(pipeline)
        self.layout = self.target.layout_of(pipeline)
        self.client = KubeClient.from_kubeconfig(kubeconfig, TIMEOUT_S)
        self.workload: Workload = KubeWorkload(self.client, self.target.layout_of)
        configuration = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        self._api = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(self._api), client.CoreV1Api(self._api)
        kind = self.layout.kind
        self._place = (kind.group, kind.version, self.layout.namespace, kind.plural)
        self._pause = threading.Event()
        self.remove()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        create(self.client, self.pipeline, configs, target=self.target)

    def let_time_pass(self) -> None:
        self._pause.wait(self.look_s)

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        name, keys = replicas_of(self.pipeline, stage)
        path = "/".join(map(str, ("", *keys, "replicas")))
        patch = [{"op": "replace", "path": path, "value": replicas}]
        self._custom.patch_namespaced_custom_object(
            *self._place, name, patch, _content_type="application/json-patch+json"
        )

    def remove(self) -> None:
        children = []
        for name in self.layout.names:
            with suppress(NotFoundError):
                live = self.client.get(self.layout.kind, self.layout.namespace, name)
                made, _ = self.client.list_all(DEPLOYMENT, self.layout.namespace)
                own = live["metadata"]["uid"]
                children += [
                    each["metadata"]["name"]
                    for each in made
                    if any(it["uid"] == own for it in each["metadata"].get("ownerReferences") or ())
                ]
                self._custom.delete_namespaced_custom_object(*self._place, name)
                if self.target is DEPLOYMENTS:
                    self._core.delete_namespaced_service(name, self.layout.namespace)
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


def cluster_pipeline(shape: str) -> Pipeline:
    """The contract's pipeline in one of SHAPES as the environment has it."""
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    made = contract_pipeline(os.environ.get("IPA_TEST_NAMESPACE", "ipa-test"), runs_of(image))
    return SHAPES[shape](made, os.environ.get("IPA_TEST_SPLIT_IMAGE", image))
