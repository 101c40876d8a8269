"""The needs of the stories: a control loop over KubeWorkload, a load, and a cluster whose time passes.

Two clusters: the fake API server, where time is ticks, and the one that IPA_TEST_KUBECONFIG names, where it
is seconds. Environment of the latter: IPA_TEST_NAMESPACE (default ipa-test, must exist), IPA_TEST_IMAGE (any
that starts and stays), IPA_TEST_CRASH_IMAGE (any that does not, by default one that cannot be pulled),
IPA_TEST_TIMEOUT_S (for one rollout).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.control.election import LeaseTimes
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import ChangeRequest
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import AlwaysLeading, Clock, Leadership, PipelineControl, WorkloadState
from ipa.model.decision import Action, Decision, Mode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.policies.base import Policy
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.target import SELDON
from tests.contract.story_crasher import Crasher
from tests.contract.story_pipeline import NAME, STAGES, Configs, pipeline, profiled, runs_of
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.cluster import POD_SECURITY, cores_of
from tests.fakes.kube.samples import as_deployments, create
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import loop_over

Json = dict[str, Any]

CALL_S = 10.0
FAKE_CORES = 100.0
# client-go's.
TIMES = LeaseTimes()
# A replica reads, writes and looks at what it wrote within one tick.
STEPS = 10
# More than any node has.
TOO_MANY_CORES = 5000.0


@dataclass
class Service:
    """One replica of the service: a loop with its own identity over the cluster of the story."""

    story: Story
    loop: ControlLoop

    def tick(self) -> Decision:
        """One tick of the loop, then the cluster has a tick of its own."""
        decision = self.loop.tick_once()
        self.story.pass_time()
        return decision

    def ask(self, configs: Configs) -> Decision:
        """A change that a person asks for."""
        decision = self.loop.tick_once(ChangeRequest(configs, "asked for by the story"))
        self.story.pass_time()
        return decision

    def until(self, holds: Callable[[Decision], bool], what: str) -> list[Decision]:
        """The decisions of the ticks up to the first that holds, this one included."""
        decisions: list[Decision] = []
        for _ in range(self.story.patience_ticks):
            decisions.append(self.tick())
            if holds(decisions[-1]):
                return decisions
        last = f"{decisions[-1].reason.value}: {decisions[-1].detail}"
        raise AssertionError(f"{what}: not within {len(decisions)} ticks; the last was {last}")

    def until_settled(self, configs: Configs | None = None) -> list[Decision]:
        """The decisions up to the tick that finds everything ready (with that configuration) and holds."""

        def holds(decision: Decision) -> bool:
            state = self.story.state()
            wanted = configs is None or running(state) == configs
            return decision.action is Action.HOLD and state.settled and wanted

        return self.until(holds, "settled")


class Story:
    """A cluster with the pipeline, and the hands to disturb it; all goes over the API server's HTTP."""

    clock: Clock
    settings: GuardSettings
    patience_ticks: int
    target: KubernetesTarget = SELDON
    # Whether a pod that crashes was never ready, so that no old one goes for it. Fake pods are for a moment.
    old_pods_stay = True

    def __init__(self, kubeconfig: str, made: Pipeline) -> None:
        from kubernetes import client, config

        self.pipeline, self.rate_rps = made, 5.0
        self.electing: list[LeaseLeadership] = []
        self.namespace = made.namespace
        self.client = KubeClient.from_kubeconfig(kubeconfig, CALL_S)
        self.workload = KubeWorkload(self.client, self.target.layout_of)
        self.store = FakeStore(PipelineControl(mode=Mode.ACTIVE))
        configuration = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        # Another hand than the service's: what people and GitOps tools do.
        self._hand = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(self._hand), client.CoreV1Api(self._hand)
        self._leases = client.CoordinationV1Api(self._hand)
        self._place = ("machinelearning.seldon.io", "v1", self.namespace, "seldondeployments")

    def pass_time(self) -> None:
        """Let the cluster have one tick, and every replica that takes part its say in the election."""
        self._tick_cluster()
        for leadership in self.electing:
            for _ in range(STEPS):
                if leadership.step() > 0:
                    break

    def take_part(self, identity: str) -> LeaseLeadership:
        """The part of a replica of that name in the election; it lapses where `electing` has it no more."""
        leadership = LeaseLeadership(
            self.client,
            ObjectRef(kinds.LEASE, self.namespace, NAME),
            identity,
            TIMES,
            now_s=self.clock.monotonic_s,
        )
        self.electing.append(leadership)
        return leadership

    def _tick_cluster(self) -> None:
        raise NotImplementedError

    def make_pods_crash(self) -> None:
        """See to it that pods of the variant `broken` do not get ready, or skip the story saying why."""
        raise NotImplementedError

    def limit_cores(self, free_cores: float) -> None:
        """Give the namespace a ResourceQuota with so many cores beside those that its pods request."""
        raise NotImplementedError

    def limit_containers(self, most_cores: float) -> None:
        """Give the namespace a LimitRange with that maximum for each container."""
        raise NotImplementedError

    def restrict(self) -> None:
        """Let the namespace enforce restricted PodSecurity."""
        raise NotImplementedError

    def serve(self, policy: Policy, *, leadership: Leadership | None = None, run_id: str = "one") -> Service:
        """A replica of the service over this cluster; all share one record."""
        metrics = FakeMetrics(self.clock, lambda t_s: self.rate_rps)  # type: ignore[arg-type]
        leads = leadership or AlwaysLeading()
        world = LoopPorts(self.clock, metrics, self.workload, self.store, self.store, leadership=leads)
        how = {"predict": profiled().predict, "run_id": run_id}
        return Service(self, loop_over(self.pipeline, world, policy, self.settings, **how))

    def deploy(self, configs: Configs) -> None:
        """Run the pipeline so; return when everything is ready."""
        create(self.client, self.pipeline, configs, target=self.target)
        self.eventually(lambda: self.state().settled, "the first deploy settles")

    def eventually(self, holds: Callable[[], Any], what: str) -> Any:
        """The result once it holds; time passes in the cluster meanwhile."""
        for _ in range(self.patience_ticks):
            result = holds()
            if result:
                return result
            self.pass_time()
        raise AssertionError(f"{what}: not within {self.patience_ticks} ticks")

    def state(self) -> WorkloadState:
        return self.workload.read(self.pipeline)

    def running(self) -> Configs:
        return running(self.state())

    def object(self) -> Json:
        return self.client.get(SELDON_DEPLOYMENT, self.namespace, NAME)

    def generation(self) -> int:
        """The number of writes of its spec."""
        return int(self.object()["metadata"]["generation"])

    def pods(self, stage: str) -> frozenset[str]:
        """The pods of a stage that are there and not ending, by uid."""
        pods, _ = self.client.list_all(kinds.POD, self.namespace, {"seldon-deployment-id": NAME})
        return frozenset(
            pod["metadata"]["uid"]
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
            and any(container["name"] == stage for container in pod["spec"]["containers"])
        )

    def component(self, spec: Json, stage: str) -> Json:
        """The part of the spec that has the stage's replicas."""
        part: Json = spec["predictors"][0]["componentSpecs"][STAGES.index(stage)]
        return part

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        """Read, change and put the SeldonDeployment, as `kubectl edit` does."""
        from kubernetes.client import ApiException

        for _ in range(STEPS):
            live = self._custom.get_namespaced_custom_object(*self._place, NAME)
            self.component(live["spec"], stage)["replicas"] = replicas
            try:
                self._custom.replace_namespaced_custom_object(*self._place, NAME, live)
                return
            except ApiException as error:
                # The operator may have written a status meanwhile.
                if error.status != 409:
                    raise
        raise AssertionError("the SeldonDeployment changes too often to be edited")

    def delete_by_another_hand(self, name: str = NAME) -> None:
        self._custom.delete_namespaced_custom_object(*self._place, name)

    def pods_are_fake(self) -> bool:
        """True if no kubelet starts the containers (kwok); such pods are ready whatever their image is."""
        raise NotImplementedError

    def create_by_another_hand(self, configs: Sequence[StageConfig]) -> None:
        """Make it anew, as a GitOps tool does from its manifest."""
        body = render(self.pipeline, configs)
        self._custom.create_namespaced_custom_object(*self._place, body)

    def close(self) -> None:
        self.client.close()
        self._hand.close()


class FakeStory(Story):
    def __init__(self, folder: Path) -> None:
        self.kube = FakeKube(capacity_cores=FAKE_CORES)
        self.kube.__enter__()
        super().__init__(
            str(self.kube.kubeconfig(folder)), pipeline("default", runs_of("model:1", "broken:1"))
        )
        self.clock = VirtualClock()
        self.settings = GuardSettings(tick_s=5.0, rollout_deadline_s=100.0, quarantine_s=600.0)
        self.patience_ticks = 60

    def _tick_cluster(self) -> None:
        self.kube.tick()
        self.clock.wait(self.settings.tick_s)

    def make_pods_crash(self) -> None:
        def trouble(pod: Json) -> Trouble | None:
            broken = any(container.get("image") == "broken:1" for container in pod["containers"])
            return Trouble.IMAGE if broken else None

        self.kube.cluster.trouble_of = trouble

    def pods_are_fake(self) -> bool:
        return True

    def limit_cores(self, free_cores: float) -> None:
        pods = self.kube.store.everything("pods")
        self.kube.cluster.quota_cores = sum(cores_of(pod["spec"]) for pod in pods) + free_cores

    def limit_containers(self, most_cores: float) -> None:
        def refused(pod: Json) -> str:
            most = max(cores_of({"containers": [one]}) for one in pod["containers"])
            return f"maximum cpu usage per Container is {most_cores:g}" if most > most_cores else ""

        self.kube.cluster.refusal_of = refused

    def restrict(self) -> None:
        labels = {POD_SECURITY: "restricted"}
        body = {"kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        self.kube.store.create("namespaces", "", body)

    def close(self) -> None:
        super().close()
        self.kube.__exit__()


class DeploymentsStory(FakeStory):
    """On plain Deployments. Its object is all of them, by name."""

    target = DEPLOYMENTS

    def __init__(self, folder: Path) -> None:
        # The ticks in which something was written: a decision writes one object or several.
        self._written: set[int] = set()
        super().__init__(folder)
        self.pipeline = as_deployments(self.pipeline)
        self.kube.before = self._note

    def _note(self, request: Request) -> None:
        if request.verb == "patch" and not request.is_dry_run:
            self._written.add(self.kube.cluster.now)

    def object(self) -> Json:
        names = self.target.layout_of(self.pipeline).names
        parts = {name: self.client.get(kinds.DEPLOYMENT, self.namespace, name) for name in names}
        uids = [part["metadata"]["uid"] for part in parts.values()]
        return {"metadata": {"uid": uids}, "spec": {name: part["spec"] for name, part in parts.items()}}

    def generation(self) -> int:
        return len(self._written)

    def pods(self, stage: str) -> frozenset[str]:
        pods, _ = self.client.list_all(kinds.POD, self.namespace, {"app": f"{NAME}-{stage}-model"})
        return frozenset(pod["metadata"]["uid"] for pod in pods)

    def component(self, spec: Json, stage: str) -> Json:
        part: Json = spec[f"{NAME}-{stage}-model"]
        return part

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        change = partial(dict.update, replicas=replicas)
        name = f"{NAME}-{stage}-model"
        self.kube.edit(self.namespace, name, lambda live: change(live["spec"]), "deployments")

    def delete_by_another_hand(self, name: str = "") -> None:
        for each in self.target.layout_of(self.pipeline).names:
            self.kube.store.delete("deployments", self.namespace, each)

    def create_by_another_hand(self, configs: Sequence[StageConfig]) -> None:
        for body in self.target.render(self.pipeline, configs):
            if body["kind"] == "Deployment":
                self.kube.store.create("deployments", self.namespace, body)


class ClusterStory(Story):
    """On the cluster of IPA_TEST_KUBECONFIG: it has the CRD and the operator; its pods may be fake."""

    def __init__(
        self, kubeconfig: str, made: Pipeline | None = None, *, tick_s: float = 1.0, timeout_s: float = 0.0
    ) -> None:
        self.crash_image = os.environ.get("IPA_TEST_CRASH_IMAGE", "registry.invalid/ipa/none:1")
        super().__init__(kubeconfig, made or _cluster_pipeline(self.crash_image))
        timeout_s = timeout_s or float(os.environ.get("IPA_TEST_TIMEOUT_S", "180"))
        self.clock, self._pause = SystemClock(), threading.Event()
        self._crasher: Crasher | None = None
        self.settings = GuardSettings(tick_s=tick_s, rollout_deadline_s=timeout_s, quarantine_s=3600.0)
        # A story has time for a rollout, and for its being taken back or over.
        self.patience_ticks = int((2 * timeout_s + TIMES.lease_s) / tick_s)
        self._clear()

    def _tick_cluster(self) -> None:
        if self._crasher is not None and self._crasher.refused:
            pytest.skip(f"the pods are fake and their status cannot be set: HTTP {self._crasher.refused}")
        self._pause.wait(self.settings.tick_s)

    def make_pods_crash(self) -> None:
        # Where pods are real the image itself sees to it.
        if self.pods_are_fake():
            self.old_pods_stay = False
            self._crasher = Crasher(
                self._hand, self.namespace, f"seldon-deployment-id={NAME}", self.crash_image
            )

    def limit_cores(self, free_cores: float) -> None:
        pods, _ = self.client.list_all(kinds.POD, self.namespace)
        hard = {"requests.cpu": f"{sum(cores_of(pod['spec']) for pod in pods) + free_cores:g}"}
        body = {"metadata": {"name": NAME}, "spec": {"hard": hard}}
        self._core.create_namespaced_resource_quota(self.namespace, body)

    def limit_containers(self, most_cores: float) -> None:
        limits = [{"type": "Container", "max": {"cpu": f"{most_cores:g}"}}]
        body = {"metadata": {"name": NAME}, "spec": {"limits": limits}}
        self._core.create_namespaced_limit_range(self.namespace, body)

    def restrict(self) -> None:
        self._label("restricted")

    def _unrestrict(self) -> None:
        labels = self._core.read_namespace(self.namespace).metadata.labels or {}
        if labels.get(POD_SECURITY) == "restricted":
            self._label(None)

    def _label(self, level: str | None) -> None:
        """Set, or remove, what PodSecurity the namespace enforces."""
        self._core.patch_namespace(self.namespace, {"metadata": {"labels": {POD_SECURITY: level}}})

    def close(self) -> None:
        if self._crasher is not None:
            self._crasher.close()
        self._clear()
        super().close()

    def pods_are_fake(self) -> bool:
        from kubernetes.client import ApiException

        try:
            nodes = [node.metadata for node in self._core.list_node().items]
        except ApiException as error:
            if error.status == 403:
                pytest.skip("whether the pods are fake cannot be seen: no right to list nodes")
            raise
        return any("kwok.x-k8s.io/node" in (node.annotations or {}) for node in nodes)

    def _clear(self) -> None:
        from kubernetes.client import ApiException

        objects, _ = self.client.list_all(SELDON_DEPLOYMENT, self.namespace)
        names = [name for it in objects if (name := it["metadata"]["name"]).startswith(NAME)]
        for delete in (
            *(partial(self.delete_by_another_hand, name) for name in names),
            lambda: self._leases.delete_namespaced_lease(NAME, self.namespace),
            lambda: self._core.delete_namespaced_resource_quota(NAME, self.namespace),
            lambda: self._core.delete_namespaced_limit_range(NAME, self.namespace),
            self._unrestrict,
        ):
            try:
                delete()
            except ApiException as error:
                if error.status != 404:
                    raise
        labels = {"seldon-deployment-id": NAME}
        for _ in range(self.patience_ticks):
            if not self.client.list_all(kinds.POD, self.namespace, labels)[0]:
                return
            self._pause.wait(self.settings.tick_s)
        raise AssertionError("pods of an earlier story are still there")


def _cluster_pipeline(crash_image: str) -> Pipeline:
    image = os.environ.get("IPA_TEST_IMAGE", "registry.k8s.io/pause:3.10")
    return pipeline(os.environ.get("IPA_TEST_NAMESPACE", "ipa-test"), runs_of(image, crash_image))


def running(state: WorkloadState) -> Configs:
    return tuple(stage.config for stage in state.stages)


def changed(configs: Configs, stage: str, **fields: Any) -> Configs:
    """The configurations with those fields of one stage changed."""
    return tuple(replace(one, **fields) if one.stage == stage else one for one in configs)


def applied(decisions: Sequence[Decision]) -> list[Decision]:
    """Those that changed the cluster."""
    return [decision for decision in decisions if decision.action is Action.APPLY]
