"""The world behind the API server: Seldon's operator, the Deployment controller, scheduler and kubelet.

Time is ticks. One tick: the operator makes Deployments what the SeldonDeployments ask for, then each
Deployment rolls one step: maxSurge 25 %, maxUnavailable 0, a pod is ready `roll_ticks` after its making.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from hashlib import md5
from typing import Any

from tests.fakes.kube.store import ApiError, Json, Store, copied

AUTOSCALERS = ("hpaSpec", "kedaSpec")
ENGINE = "seldon-container-engine"
POD_SECURITY = "pod-security.kubernetes.io/enforce"
# Of the first container of a SeldonDeployment; each other has the next one.
HTTP_PORT, GRPC_PORT = 9000, 9500
# Of the first container of a pod.
METRICS_PORT = 6000
NODE = "worker-1"
# Where the Deployment controller writes the number of a template.
REVISION = "deployment.kubernetes.io/revision"


class Trouble(StrEnum):
    CRASH = "CrashLoopBackOff"
    IMAGE = "ImagePullBackOff"
    UNSCHEDULABLE = "Unschedulable"
    NEVER_READY = "NeverReady"


# What is wrong with a container, and whether it is ready.
ContainerState = tuple[Trouble | None, bool]


def cores_of(pod_spec: Json) -> float:
    """Cores that the pod's containers request."""
    texts = [one.get("resources", {}).get("requests", {}).get("cpu", "0") for one in pod_spec["containers"]]
    return sum(
        float(str(text).removesuffix("m")) / (1000 if str(text).endswith("m") else 1) for text in texts
    )


@dataclass
class Cluster:
    """The controllers. `trouble_of` says what is wrong with a pod of that spec, None where nothing is."""

    store: Store
    roll_ticks: int = 2
    # Cores of all nodes together; None is enough for everything.
    capacity_cores: float | None = None
    # What the namespace's ResourceQuota has of cores; None is without one.
    quota_cores: float | None = None
    # Why the API server refuses a pod of that spec (PodSecurity, LimitRange); empty where it does not.
    refusal_of: Callable[[Json], str] = lambda pod_spec: ""
    progress_deadline_ticks: int | None = None
    trouble_of: Callable[[Json], Trouble | None] = lambda pod_spec: None
    # Pods that crash from now on, by name, whatever is in them.
    crashing: set[str] = field(default_factory=set)
    # Where pods are real processes: the containers of one by name.
    kubelet: Callable[[Json], Mapping[str, ContainerState]] | None = None
    # Where true, `status.state` says Creating for ever, whatever the Deployments do (seldon-core#4224).
    stuck_status: bool = False
    now: int = 0
    # Writes of the operator to the Deployments of orchestrators that have a pod of their own.
    orchestrator_writes: int = 0
    # Those Deployments: what they were last made from, and whether that was a change.
    _orchestrators: dict[str, tuple[Json, bool]] = field(default_factory=dict)
    _pods: int = 0

    def tick(self) -> None:
        with self.store.lock:
            self.now += 1
            self._collect_garbage()
            for deployment in self._deployments():
                self._roll(deployment)
            for sdep in self.store.everything("seldondeployments"):
                self._operate(sdep)
            for sdep in self.store.everything("seldondeployments"):
                self._report(sdep)

    def _operate(self, sdep: Json) -> None:
        metadata = sdep["metadata"]
        self._operate_orchestrators(sdep)
        made = self._wanted(sdep)
        wanted = {one["metadata"]["name"]: one for one, _ in made}
        for one, is_autoscaled in made:
            name = one["metadata"]["name"]
            try:
                live = self.store.get("deployments", metadata["namespace"], name)
            except ApiError:
                if is_autoscaled:
                    # The operator says no number, and the API server makes that 1.
                    one["spec"]["replicas"] = 1
                self.store.create("deployments", metadata["namespace"], one)
                continue
            if is_autoscaled:
                one["spec"]["replicas"] = live["spec"]["replicas"]
            self.store.replace("deployments", {**live, "spec": one["spec"]})
        orchestrators = set(map(partial(_orchestrator, sdep), _separate(sdep)))
        for live in self._children(sdep):
            name = live["metadata"]["name"]
            if (
                name not in orchestrators
                and name not in wanted
                and all(self._is_ready(other) for other in self._named(sdep, wanted))
            ):
                self.store.delete("deployments", metadata["namespace"], name)

    def _operate_orchestrators(self, sdep: Json) -> None:
        """Make each predictor's `svc-orch` Deployment what it asks for.

        The operator wants `replicas: null` where no level says a number; the API server makes that 1. After a
        first change the operator sees the difference, and writes null again, for ever.
        """
        for predictor in _separate(sdep):
            own = predictor.get("svcOrchSpec") or {}
            levels = (own.get("replicas"), predictor.get("replicas"), sdep["spec"].get("replicas"))
            key = f"{sdep['metadata']['uid']}/{predictor['name']}"
            before, was_changed = self._orchestrators.get(key, (None, False))
            is_changed = before is not None and before != predictor
            unsaid = all(level is None for level in levels)
            if before is None or is_changed or (was_changed and unsaid):
                self.orchestrator_writes += 1
            self._orchestrators[key] = (copied(predictor), was_changed or is_changed)
            self._keep_orchestrator(sdep, predictor, next((it for it in levels if it is not None), 1))

    def _keep_orchestrator(self, sdep: Json, predictor: Json, replicas: int) -> None:
        """Make the orchestrator's Deployment roll with every change of its predictor."""
        metadata = sdep["metadata"]
        name = _orchestrator(sdep, predictor)
        labels = {"seldon-deployment-id": metadata["name"], "app": name}
        pod = {"containers": [_engine(sdep, predictor)]}
        body = _as_deployment(metadata, name, labels, replicas, pod)
        try:
            live = self.store.get("deployments", metadata["namespace"], name)
        except ApiError:
            self.store.create("deployments", metadata["namespace"], body)
            return
        self.store.replace("deployments", {**live, "spec": body["spec"]})

    def _wanted(self, sdep: Json) -> list[tuple[Json, bool]]:
        """The Deployments to be, and True of each whose replicas another controller owns."""
        return [
            (
                self._deployment(sdep, predictor, index, component),
                any(map(component.get, AUTOSCALERS)),
            )
            for predictor in sdep["spec"]["predictors"]
            for index, component in enumerate(predictor.get("componentSpecs", []))
        ]

    def _deployment(self, sdep: Json, predictor: Json, index: int, component: Json) -> Json:
        metadata = sdep["metadata"]
        pod = copied(component["spec"])
        name = deployment_name(sdep, predictor, index)
        nodes, numbers = _nodes(predictor["graph"]), _numbers(sdep)
        for position, container in enumerate(pod["containers"]):
            node = nodes.get(container["name"], {})
            env = _operators_env(container["name"], numbers[container["name"]], position)
            container.setdefault("env", []).extend(env)
            if "modelUri" in node:
                fetch = {
                    "name": f"{node['name']}-model-initializer",
                    "args": [node["modelUri"], "/mnt/models"],
                }
                pod.setdefault("initContainers", []).append(fetch)
        if index == 0 and has_engine(predictor) and not _separate(sdep):
            pod["containers"].append(_engine(sdep, predictor))
        levels = [component.get("replicas"), predictor.get("replicas"), sdep["spec"].get("replicas")]
        labels = {"seldon-deployment-id": metadata["name"], "app": name}
        replicas = next((level for level in levels if level is not None), 1)
        return _as_deployment(metadata, name, labels, replicas, pod)

    def _roll(self, deployment: Json) -> None:
        if self._number(deployment):
            return
        namespace = deployment["metadata"]["namespace"]
        wanted, template = deployment["spec"]["replicas"], deployment["spec"]["template"]["spec"]
        pods = self._pods_of(deployment)
        for pod in pods:
            self._live(pod)
        new = [pod for pod in pods if _made_of(pod) == template]
        old = [pod for pod in pods if _made_of(pod) != template]
        for pod in new[wanted:]:
            self.store.delete("pods", namespace, pod["metadata"]["name"])
        # More replicas and another template in one write: the old ReplicaSet is scaled first.
        more = [_made_of(old[0])] * (wanted - len(new) - len(old)) if old else []
        surge = math.ceil(wanted * 0.25)
        room = max(0, min(wanted - len(new), wanted + surge - len(new) - len(old) - len(more)))
        refused = ""
        for spec in [*more, *[template] * room]:
            refused = self._refusal(deployment, spec)
            if refused:
                break
            self._make_pod(deployment, spec)
        ready_new = sum(is_ready(pod) for pod in new[:wanted])
        spare = ready_new + sum(is_ready(pod) for pod in old) - wanted
        # New pods that are not ready yet hold their place: as many old ones stay, ready or not.
        unready_new = len(new[:wanted]) + room - ready_new
        most = len(old) + len(new[:wanted]) + room - wanted - unready_new
        for pod in sorted(old, key=is_ready)[: max(0, most)]:
            if is_ready(pod) and spare <= 0:
                continue
            spare -= is_ready(pod)
            self.store.delete("pods", namespace, pod["metadata"]["name"])
        self._count(deployment, refused)

    def _number(self, deployment: Json) -> bool:
        """Note another template in an annotation, as the controller does, which moves the generation.

        An operator's own Deployments are rolled at once, since it takes a tick to write them.
        """
        template = json.dumps(deployment["spec"]["template"], sort_keys=True)
        annotations = deployment["metadata"].setdefault("annotations", {})
        is_new = not _owner(deployment) and annotations.get(REVISION) != template
        if is_new:
            annotations[REVISION] = template
            self.store.replace("deployments", deployment)
        return is_new

    def _refusal(self, deployment: Json, spec: Json) -> str:
        """The API server's reason to refuse such a pod of the Deployment; empty if it does not."""
        name = deployment["metadata"]["name"]
        why = self.refusal_of(spec) or self._pod_security(deployment["metadata"]["namespace"], spec)
        used = sum(cores_of(pod["spec"]) for pod in self.store.everything("pods"))
        if self.quota_cores is not None and used + cores_of(spec) > self.quota_cores:
            request = f"requested: requests.cpu={cores_of(spec):g}, used: requests.cpu={used:g}"
            why = f"exceeded quota: team, {request}, limited: requests.cpu={self.quota_cores:g}"
        return f'pods "{name}-x" is forbidden: {why}' if why else ""

    def _pod_security(self, namespace: str, spec: Json) -> str:
        """The reason why the namespace's PodSecurity refuses the pod; empty if it does not."""
        labels = next(
            (
                it["metadata"].get("labels") or {}
                for it in self.store.everything("namespaces")
                if it["metadata"]["name"] == namespace
            ),
            {},
        )
        if labels.get(POD_SECURITY) != "restricted":
            return ""
        bad = [one["name"] for one in spec["containers"] if not _is_restricted(one)]
        names = ", ".join(f'"{name}"' for name in bad)
        words = f"unrestricted capabilities (container {names} must set securityContext.capabilities.drop)"
        return f'violates PodSecurity "restricted:latest": {words}' if bad else ""

    def _make_pod(self, deployment: Json, spec: Json) -> None:
        self._pods += 1
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{deployment['metadata']['name']}-{self._pods}",
                "labels": deployment["spec"]["selector"]["matchLabels"],
                "born": self.now,
            },
            "spec": {**spec, "nodeName": NODE},
            "status": {"phase": "Pending"},
        }
        made = self.store.create("pods", deployment["metadata"]["namespace"], pod)
        self._live(made)

    def _live(self, pod: Json) -> None:
        is_crashing = pod["metadata"]["name"] in self.crashing
        trouble = Trouble.CRASH if is_crashing else self.trouble_of(pod["spec"])
        if trouble is None and not is_scheduled(pod) and not self._has_room(pod):
            trouble = Trouble.UNSCHEDULABLE
        is_ready = self.now - pod["metadata"]["born"] >= self.roll_ticks
        names = [one["name"] for one in pod["spec"]["containers"]]
        states: Mapping[str, ContainerState] = dict.fromkeys(names, (trouble, is_ready))
        if self.kubelet and trouble is None:
            states = self.kubelet(pod)
        status = _pod_status(pod, states)
        if status != pod["status"]:
            pod["status"] = status
            self.store.replace("pods", pod)

    def _has_room(self, pod: Json) -> bool:
        if self.capacity_cores is None:
            return True
        used = sum(cores_of(other["spec"]) for other in self.store.everything("pods") if is_scheduled(other))
        return used + cores_of(pod["spec"]) <= self.capacity_cores

    def _count(self, deployment: Json, refused: str) -> None:
        pods = self._pods_of(deployment)
        template = deployment["spec"]["template"]["spec"]
        new = [pod for pod in pods if _made_of(pod) == template]
        ready = sum(is_ready(pod) for pod in pods)
        status: Json = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(new),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        unready = len(new) < deployment["spec"]["replicas"] or not all(is_ready(pod) for pod in new)
        oldest = min((pod["metadata"]["born"] for pod in new), default=self.now)
        deadline = self.progress_deadline_ticks
        if deadline is not None and unready and self.now - oldest > deadline:
            condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            status["conditions"] = [condition]
        if refused:
            failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
            status.setdefault("conditions", []).append({**failure, "message": refused})
        self.store.replace("deployments", {**deployment, "status": status})

    def _report(self, sdep: Json) -> None:
        """`status.state` follows late: it is no sign that a change is done."""
        children = self._children(sdep)
        available = bool(children) and all(self._is_ready(child) for child in children)
        state = "Creating" if self.stuck_status or not available else "Available"
        self.store.replace("seldondeployments", {**sdep, "status": {"state": state}})

    def _deployments(self) -> list[Json]:
        """Those of SeldonDeployments and of pipelines; pods of others are made where they are real."""
        deployments = self.store.everything("deployments")
        return [each for each in deployments if self.kubelet or _owner(each) or is_of_pipeline(each)]

    def _collect_garbage(self) -> None:
        owners = {sdep["metadata"]["uid"] for sdep in self.store.everything("seldondeployments")}
        for deployment in self._deployments():
            if _owner(deployment) not in ("", *owners):
                self.store.delete(
                    "deployments", deployment["metadata"]["namespace"], deployment["metadata"]["name"]
                )
        apps = {deployment["metadata"]["name"] for deployment in self.store.everything("deployments")}
        for pod in self.store.everything("pods"):
            if pod["metadata"]["labels"]["app"] not in apps:
                self.store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _children(self, sdep: Json) -> list[Json]:
        deployments = self.store.find("deployments", sdep["metadata"]["namespace"])
        uid = sdep["metadata"]["uid"]
        return [one for one in deployments if _owner(one) == uid]

    def _named(self, sdep: Json, names: Any) -> list[Json]:
        return [one for one in self._children(sdep) if one["metadata"]["name"] in names]

    def _pods_of(self, deployment: Json) -> list[Json]:
        labels = deployment["spec"]["selector"]["matchLabels"]
        return self.store.find("pods", deployment["metadata"]["namespace"], labels)

    def _is_ready(self, deployment: Json) -> bool:
        status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
        return status.get("readyReplicas", 0) >= wanted > 0 and status.get("updatedReplicas") == wanted


def _owner(deployment: Json) -> str:
    """The uid of the Deployment's owner; empty if it has none."""
    return str(next(iter(deployment["metadata"].get("ownerReferences") or ()), {}).get("uid", ""))


def is_of_pipeline(deployment: Json) -> bool:
    """True if the Deployment is one that `ipa render` makes."""
    return "ipa-serving/role" in (deployment["metadata"].get("labels") or {})


def _is_restricted(container: Json) -> bool:
    """True if restricted PodSecurity admits the container."""
    context = container.get("securityContext") or {}
    return (
        context.get("allowPrivilegeEscalation") is False
        and "ALL" in ((context.get("capabilities") or {}).get("drop") or ())
        and context.get("runAsNonRoot") is True
        and (context.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost")
    )


def has_engine(predictor: Json) -> bool:
    """True if requests come through an orchestrator, as they do by default."""
    return "seldon.io/no-engine" not in predictor.get("annotations", {})


def _is_separate(sdep: Json) -> bool:
    return "seldon.io/engine-separate-pod" in sdep["spec"].get("annotations", {})


def _separate(sdep: Json) -> list[Json]:
    """The predictors whose orchestrator has a pod of its own."""
    return [it for it in sdep["spec"]["predictors"] if has_engine(it)] if _is_separate(sdep) else []


def _orchestrator(sdep: Json, predictor: Json) -> str:
    return f"{sdep['metadata']['name']}-{predictor['name']}-svc-orch"


def deployment_name(sdep: Json, predictor: Json, index: int) -> str:
    """The name of the Deployment of a predictor's component."""
    names = [container["name"] for container in predictor["componentSpecs"][index]["spec"]["containers"]]
    name = "-".join([sdep["metadata"]["name"], predictor["name"], str(index), *names])
    return name if len(name) <= 63 else f"seldon-{md5(name.encode(), usedforsecurity=False).hexdigest()}"


def entry_deployment(sdep: Json, predictor: Json) -> str:
    """The name of the Deployment that the predictor's Service leads to."""
    if has_engine(predictor) and _is_separate(sdep):
        return _orchestrator(sdep, predictor)
    return deployment_name(sdep, predictor, 0)


def service_of(sdep: Json, predictor: Json, container: str = "") -> str:
    """The name of the Service of a predictor, or of one of its containers, with its namespace."""
    name = "-".join(filter(None, (sdep["metadata"]["name"], predictor["name"], container)))
    return f"{name}.{sdep['metadata']['namespace']}"


def _engine(sdep: Json, predictor: Json) -> Json:
    """The orchestrator's container: it is told the whole predictor, with the replicas of each stage."""
    first, numbers = next(iter(predictor.get("componentSpecs", [])), None), _numbers(sdep)
    beside = {one["name"] for one in first["spec"]["containers"]} if first and not _is_separate(sdep) else ()
    spec = copied(predictor)
    for name, node in _nodes(spec["graph"]).items():
        host = "localhost" if name in beside else f"{service_of(sdep, predictor, name)}.svc.cluster.local."
        port = HTTP_PORT + numbers.get(name, 0)
        node["endpoint"] = {"service_host": host, "httpPort": port, "type": "REST"}
    text = base64.b64encode(json.dumps(spec, sort_keys=True).encode()).decode()
    own = (predictor.get("svcOrchSpec") or {}).get("resources") or {}
    return {
        "name": ENGINE,
        # A SeldonDeployment that names no protocol speaks Seldon's own.
        "args": ["--sdep", sdep["metadata"]["name"], "--protocol", sdep["spec"].get("protocol") or "seldon"],
        # As the operator has it: no manifest changes it.
        "securityContext": {"runAsUser": 8888, "allowPrivilegeEscalation": False},
        "env": [{"name": "ENGINE_PREDICTOR", "value": text}],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi", **own.get("requests", {})}},
    }


def _as_deployment(owner: Json, name: str, labels: Json, replicas: int, pod: Json) -> Json:
    reference = {"kind": "SeldonDeployment", "name": owner["name"], "uid": owner["uid"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [reference]},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _made_of(pod: Json) -> Json:
    """The pod's spec as its Deployment has it: the scheduler adds the node."""
    return {key: value for key, value in pod["spec"].items() if key != "nodeName"}


def _image_id(container: Json) -> str:
    """The digest that its image was pulled by."""
    image = str(container.get("image", "seldonio/mlserver:1"))
    return f"{image.partition(':')[0]}@sha256:{md5(image.encode(), usedforsecurity=False).hexdigest()}"


def _nodes(node: Json) -> dict[str, Json]:
    nodes = {node["name"]: node}
    for child in node.get("children", []):
        nodes.update(_nodes(child))
    return nodes


def _numbers(sdep: Json) -> dict[str, int]:
    """The containers of a SeldonDeployment by name, numbered as its webhook numbers their ports."""
    names = [
        container["name"]
        for predictor in sdep["spec"]["predictors"]
        for component in predictor.get("componentSpecs", [])
        for container in component["spec"]["containers"]
    ]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _operators_env(name: str, number: int, position: int) -> list[Json]:
    return [
        {"name": "PREDICTIVE_UNIT_ID", "value": name},
        {"name": "PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "value": str(HTTP_PORT + number)},
        {"name": "PREDICTIVE_UNIT_GRPC_SERVICE_PORT", "value": str(GRPC_PORT + number)},
        {"name": "PREDICTIVE_UNIT_METRICS_SERVICE_PORT", "value": str(METRICS_PORT + position)},
        {"name": "MLSERVER_HTTP_PORT", "value": str(HTTP_PORT + number)},
        {"name": "MLSERVER_GRPC_PORT", "value": str(GRPC_PORT + number)},
        {"name": "MLSERVER_MODEL_NAME", "value": name},
        {"name": "MLSERVER_METRICS_PORT", "value": str(METRICS_PORT + position)},
        {"name": "MLSERVER_METRICS_ENDPOINT", "value": "/prometheus"},
    ]


def _pod_status(pod: Json, states: Mapping[str, ContainerState]) -> Json:
    scheduled: Json = {"type": "PodScheduled", "status": "True"}
    if any(trouble is Trouble.UNSCHEDULABLE for trouble, _ in states.values()):
        message = "0/1 nodes are available: 1 Insufficient cpu."
        scheduled.update(status="False", reason="Unschedulable", message=message)
    containers = [_container_status(one, *states[one["name"]]) for one in pod["spec"]["containers"]]
    ready = all(one["ready"] for one in containers)
    return {
        "phase": "Running" if ready else "Pending",
        "conditions": [scheduled, {"type": "Ready", "status": str(ready)}],
        "containerStatuses": containers,
    }


def _container_status(container: Json, trouble: Trouble | None, is_ready: bool) -> Json:
    state: Json = {"running": {}}
    if trouble in (Trouble.CRASH, Trouble.IMAGE):
        state = {"waiting": {"reason": trouble.value}}
    ready = is_ready and trouble is None
    return {"name": container["name"], "ready": ready, "state": state, "imageID": _image_id(container)}


def _has(pod: Json, kind: str) -> bool:
    return any(it["type"] == kind and it["status"] == "True" for it in pod["status"].get("conditions", []))


def is_ready(pod: Json) -> bool:
    """True if the pod takes requests."""
    return _has(pod, "Ready")


def is_scheduled(pod: Json) -> bool:
    """True if a node takes the pod."""
    return _has(pod, "PodScheduled")
