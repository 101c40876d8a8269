"""The Deployments and Services of a pipeline: router, queues and models (`ipa.targets.kubernetes.split`).

Each part is a Deployment, and a Service of the same name on port 9000; that of a model is headless. What an
operator would add is rendered here: ports, probes, the pause before the end, MLServer's own env.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import DEPLOYMENT
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError
from ipa.model.parts import Configs
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.deployments.section import KEY, deployments_of
from ipa.targets.kubernetes.containers import (
    METRICS_PATH,
    MODEL_NAME,
    ContainerPlace,
    ContainerRun,
    StageRuns,
    bare_container,
    check_variants,
    container_name,
    in_reading_order,
)
from ipa.targets.kubernetes.layout import at, drift_error, enforced_pod_security
from ipa.targets.kubernetes.split import (
    GRACE_S,
    LABEL_PIPELINE,
    PORT,
    Part,
    PartRole,
    SplitLayout,
    parts_of,
)

# The label by which a Deployment and a Service select their pods.
APP = "app"
MANAGED_BY = {"app.kubernetes.io/managed-by": "ipa-serving"}
GRPC_PORT, METRICS_PORT = 9500, 6000
# A model may be busy for a while before it answers a probe: it is not ended for that.
MODEL_PROBE_S = {"periodSeconds": 5, "timeoutSeconds": 5}
# Until endpoints and DNS have forgotten a pod that is to end. The kubelet's own sleep needs Kubernetes 1.30.
PRE_STOP = {"preStop": {"exec": {"command": ["sleep", "10"]}}}


class DeploymentsLayout(SplitLayout):
    """A router, and a queue and a model for each stage: a Deployment and a Service each."""

    kind, target = DEPLOYMENT, KEY

    def __init__(self, pipeline: Pipeline) -> None:
        self._section = deployments_of(pipeline)
        name, namespace = self._section.name, self._section.namespace

        def service_of(name: str) -> str:
            return f"http://{name}.{namespace}:{PORT}"

        parts = parts_of(pipeline, name, KEY, ContainerRun, service_of, "target deployments")
        super().__init__(pipeline, parts, self._section.router_cores, self._section.queue_cores)

    @property
    def namespace(self) -> str:
        """The namespace in the pipeline's `deployments:` section."""
        return self._section.namespace

    @property
    def router(self) -> Part:
        """The part where requests enter."""
        *_, router = self._parts.values()
        return router

    def admission_fault(self, client: KubeClient) -> str:
        """The reason why the namespace's PodSecurity refuses its pods, with the remedy; else empty."""
        if not self._section.run_as_root or enforced_pod_security(client, self.namespace) != "restricted":
            return ""
        return (
            f"namespace {self.namespace!r} enforces restricted PodSecurity, which refuses containers that "
            f"run as root; leave out `{KEY}: {{run_as_root: true}}`"
        )

    def check_variants(self) -> None:
        """InputError lists variants without a section or image, and those that cannot be distinguished."""
        check_variants(self.pipeline, KEY, "Deployments")

    def drift(self, problems: Sequence[str]) -> DriftError:
        """The error for Deployments that do not match the pipeline."""
        return drift_error(f"a Deployment of {self.namespace}/{self._section.name}", self.pipeline, problems)

    def place(self, part: Part, live: Json) -> ContainerPlace:
        """The place of the part's container. DriftError if it is not there once, or changes do not roll."""
        name, title, spec = container_name(part.own), f"stage {part.own.name!r}", live["spec"]
        owner = at(live, "metadata", "labels", LABEL_PIPELINE)
        problems = []
        if owner not in (None, self.pipeline.name):
            problems.append(f"label {LABEL_PIPELINE} names pipeline {owner!r}")
        if spec.get("paused"):
            resume = f"kubectl rollout resume deployment {part.name} -n {self.namespace}"
            problems.append(f"{title} is paused, so that no change rolls; run `{resume}`")
        containers = at(spec, "template", "spec", "containers") or []
        named = [each for each in containers if each["name"] == name]
        if len(named) != 1:
            problems.append(f"{title}: {len(named)} containers are named {name!r} instead of one")
        if problems:
            raise self.drift(problems)
        return self._place(part, spec, named[0])

    def _place(self, part: Part, spec: Json, container: Json) -> ContainerPlace:
        return ContainerPlace(
            deployment=part.name,
            # The API server's default.
            replicas=spec.get("replicas", 1),
            title=f"stage {part.own.name!r}",
            runs=StageRuns(part.own, KEY),
            component=spec,
            container=container,
        )

    def read(self, name: str, live: Json) -> Configs:
        """The configuration in one of the Deployments."""
        problems: list[str] = []
        config = self.place(self._parts[name], live).read(self.pipeline, problems)
        if config is None:
            raise self.drift(problems)
        return (config,)

    def changed(self, name: str, live: Json, wanted: Sequence[StageConfig]) -> Json:
        """One of the Deployments, changed to run this configuration."""
        (now,), (then,) = self.read(name, live), in_millicores(wanted)
        after: Json = deepcopy(live)
        self.place(self._parts[name], after).change(self.pipeline, now, then)
        return after

    def render_part(self, part: Part, config: StageConfig) -> list[dict[str, Any]]:
        """The Deployment and the Service of the part. InputError if a variant has no section."""
        name, is_model = container_name(part.own), part.role is PartRole.MODEL
        container = bare_container(part.own, run_as_root=self._section.run_as_root)
        spec: Json = {"selector": {"matchLabels": {APP: part.name}}}
        place = self._place(part, spec, container)
        for of, fields in place.fields(self.pipeline, config).items():
            # Batches are formed in the queue alone.
            if of != "batch_size" or part.role is PartRole.QUEUE:
                place.put(fields)
        container["ports"] = [{"name": "http", "containerPort": PORT}]
        # Nobody calls the API server, and env of Services could be taken for settings.
        own: Json = {"automountServiceAccountToken": False, "enableServiceLinks": False}
        pod: Json = {**own, "containers": [container]}
        if is_model:
            container["ports"].append({"name": "metrics", "containerPort": METRICS_PORT})
            ready = {"path": f"/v2/models/{name}/ready", "port": "http"}
            container["readinessProbe"] = {"httpGet": ready, **MODEL_PROBE_S}
            container["env"] += [{"name": key, "value": value} for key, value in _server_env(name)]
            pod["terminationGracePeriodSeconds"] = GRACE_S
        else:
            part.run_ours(pod, self._section.image)
            container["env"].append({"name": "IPA_PORT", "value": str(PORT)})
        container["lifecycle"] = deepcopy(PRE_STOP)
        pod["containers"] = [in_reading_order(container)]
        labels = {APP: part.name, LABEL_PIPELINE: self.pipeline.name, **part.labels, **MANAGED_BY}
        metadata = {"name": part.name, "namespace": self.namespace, "labels": labels}
        ordered = {"replicas": spec["replicas"], "selector": spec["selector"]}
        ordered["template"] = {"metadata": {"labels": dict(labels)}, "spec": pod}
        # The name of a headless Service leads to every ready pod.
        service: Json = {"selector": {APP: part.name}, "ports": [{"name": "http", "port": PORT}]}
        if is_model:
            service["clusterIP"] = "None"
        return [
            {
                "apiVersion": DEPLOYMENT.api_version,
                "kind": "Deployment",
                "metadata": metadata,
                "spec": ordered,
            },
            {"apiVersion": "v1", "kind": "Service", "metadata": deepcopy(metadata), "spec": service},
        ]


def _server_env(name: str) -> list[tuple[str, str]]:
    """The env of MLServer that no variant sets."""
    return [
        ("MLSERVER_HTTP_PORT", str(PORT)),
        ("MLSERVER_GRPC_PORT", str(GRPC_PORT)),
        (MODEL_NAME, name),
        ("MLSERVER_METRICS_PORT", str(METRICS_PORT)),
        (METRICS_PATH, "/prometheus"),
    ]
