"""KubeWorkload under the contract: on the fake API server, and on a cluster of yours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import Workload
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, target_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from tests.contract.workload_harness import Settling
from tests.fakes.kube import FakeKube

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


class FakeKubeHarness(Settling):
    """On the fake: time is ticks."""

    def __init__(self, folder: Path) -> None:
        self.kube = FakeKube()
        self.kube.__enter__()
        self.client = KubeClient.from_kubeconfig(str(self.kube.kubeconfig(folder)), TIMEOUT_S)
        self.seldon = KubeWorkload(self.client, layout_of)
        self.workload: Workload = self.seldon
        self.pipeline = contract_pipeline()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        self.seldon.create(self.pipeline, configs)

    def let_time_pass(self) -> None:
        self.kube.tick()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        index = [one.name for one in self.pipeline.stages].index(stage)

        def scale(sdep: dict) -> None:
            sdep["spec"]["predictors"][0]["componentSpecs"][index]["replicas"] = replicas

        self.kube.edit("default", NAME, scale)

    def remove(self) -> None:
        with self.kube.store.lock:
            self.kube.store.delete("seldondeployments", "default", NAME)

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()


class ClusterHarness(Settling):
    """On the cluster of IPA_TEST_KUBECONFIG: it has the CRD and the operator; its pods may be fake.

    Environment: IPA_TEST_NAMESPACE (default ipa-test, must exist), IPA_TEST_IMAGE (any that starts and
    stays), IPA_TEST_TIMEOUT_S (for one rollout).
    """

    # The time between two looks.
    look_s = 1.0

    def __init__(self, kubeconfig: str, pipeline: Pipeline | None = None) -> None:
        from kubernetes import client, config

        self.attempts = int(float(os.environ.get("IPA_TEST_TIMEOUT_S", "180")) / self.look_s)
        self.pipeline = pipeline or _cluster_pipeline()
        self.namespace = target_of(self.pipeline).namespace
        self.client = KubeClient.from_kubeconfig(kubeconfig, TIMEOUT_S)
        self.seldon = KubeWorkload(self.client, layout_of)
        self.workload: Workload = self.seldon
        configuration = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        self._api = client.ApiClient(configuration)
        self._custom = client.CustomObjectsApi(self._api)
        self._place = ("machinelearning.seldon.io", "v1", self.namespace, "seldondeployments", NAME)
        self._pause = threading.Event()
        self._remove_if_there()

    def deploy(self, configs: Sequence[StageConfig]) -> None:
        self.seldon.create(self.pipeline, configs)

    def let_time_pass(self) -> None:
        self._pause.wait(self.look_s)

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        index = [one.name for one in self.pipeline.stages].index(stage)
        path = f"/spec/predictors/0/componentSpecs/{index}/replicas"
        patch = [{"op": "replace", "path": path, "value": replicas}]
        self._custom.patch_namespaced_custom_object(
            *self._place, patch, _content_type="application/json-patch+json"
        )

    def remove(self) -> None:
        self._custom.delete_namespaced_custom_object(*self._place)
        self._wait_until_gone()

    def close(self) -> None:
        self._remove_if_there()
        self.client.close()
        self._api.close()

    def _remove_if_there(self) -> None:
        try:
            self.client.get(SELDON_DEPLOYMENT, self.namespace, NAME)
        except NotFoundError:
            return
        self.remove()

    def _wait_until_gone(self) -> None:
        names = [f"{NAME}-default-{i}-{stage.name}" for i, stage in enumerate(self.pipeline.stages)]
        for _ in range(self.attempts):
            if not any(self.client.get_deployment(self.namespace, name) for name in names):
                return
            self.let_time_pass()
        raise AssertionError("the children were not removed")


def _cluster_pipeline() -> Pipeline:
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    return contract_pipeline(os.environ.get("IPA_TEST_NAMESPACE", "ipa-test"), runs_of(image))
