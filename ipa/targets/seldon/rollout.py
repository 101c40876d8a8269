"""Progress of a change, judged by the Deployments and their pods. `status.state` is unreliable:

it stays Available right after a write, flips during the roll, and has no observedGeneration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ipa.adapters.kube.quantity import parse_quantity
from ipa.control.ports import Rollout, RolloutPhase
from ipa.targets.seldon.locate import StageLocation
from ipa.targets.seldon.variants import Json, env_entry, owned_env

# A container that waits for one of these will not start by itself.
FAILED_REASONS = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)

NO_ROOM = "a pod is Unschedulable"

Deployments = Mapping[str, Json | None]


def ready_replicas(deployment: Json | None) -> int:
    """Replicas of the stage that answer, old ones among them while it rolls; 0 where there are none."""
    return int(_status(deployment).get("readyReplicas") or 0)


def unready(place: StageLocation, deployment: Json | None) -> str:
    """Describe what the stage waits for; empty if it runs exactly as its SeldonDeployment says."""
    if deployment is None:
        return f"Deployment {place.deployment} is not there yet"
    status = _status(deployment)
    if not carries(place, deployment["spec"]["template"]["spec"]):
        return f"Deployment {place.deployment} does not carry the change yet"
    if deployment["spec"].get("replicas") != place.replicas:
        return f"Deployment {place.deployment} does not ask for {place.replicas} replicas yet"
    if int(status.get("observedGeneration") or 0) < int(deployment["metadata"].get("generation") or 0):
        return f"Deployment {place.deployment} is not yet seen by its controller"
    return _missing_replicas(status, place.replicas)


def _missing_replicas(status: Json, wanted: int) -> str:
    for key, word in (("updatedReplicas", "new"), ("readyReplicas", "ready"), ("availableReplicas", "ready")):
        count = int(status.get(key) or 0)
        if count < wanted:
            return f"{count} of {wanted} replicas are {word}"
    old = int(status.get("replicas") or 0) - int(status.get("updatedReplicas") or 0)
    return f"{old} old replicas still run" if old > 0 else ""


def carries(place: StageLocation, pod: Json) -> bool:
    """Return True if a pod (or pod template) has the stage's container as in its present SeldonDeployment."""
    wanted = place.container
    found = [container for container in pod.get("containers") or () if container["name"] == wanted["name"]]
    if not found:
        return False
    there = found[0]
    if "image" in wanted and there.get("image") != wanted["image"]:
        return False
    # Ours alone: the operator sets env of its own over what others have put there.
    for name in owned_env(place.stage):
        entry, got = env_entry(wanted, name), env_entry(there, name)
        if entry is not None and (got is None or got.get("value", "") != entry.get("value", "")):
            return False
    return _same_resources(wanted, there) and _same_model(place.node, pod)


def _same_resources(wanted: Json, there: Json) -> bool:
    """Compared as numbers: the server may write 500m as 0.5. What is not asked for may be defaulted."""
    return all(
        parse_quantity(_at(there, "resources", kind, name)) == parse_quantity(amount)
        for kind in ("requests", "limits")
        for name, amount in (_at(wanted, "resources", kind) or {}).items()
    )


def _same_model(node: Json, pod: Json) -> bool:
    """The operator hands the model URI to an init container that fetches it, as its first argument."""
    fetchers = [
        init
        for init in pod.get("initContainers") or ()
        if init["name"] == f"{node['name']}-model-initializer"
    ]
    return not fetchers or "modelUri" not in node or node["modelUri"] in (fetchers[0].get("args") or ())


def judge(
    places: Sequence[StageLocation], deployments: Deployments, pods: Mapping[str, Sequence[Json]]
) -> Rollout:
    """Judge the progress of a change over all stages. `deployments` and `pods` by name of Deployment.

    FAILED where a new pod crash-loops, cannot pull its image or cannot be made, or the Deployment says its
    progress deadline passed. Pods that no node has room for leave it PROGRESSING, since nodes may come; the
    detail names them.
    """
    failed: list[str] = []
    waiting: list[str] = []
    is_crowded = is_broken = False
    for place in places:
        deployment = deployments[place.deployment]
        wait = unready(place, deployment)
        if not wait:
            continue
        news = list(_pod_news(place, pods.get(place.deployment, ())))
        bad = [detail for is_failure, detail in news if is_failure]
        is_broken |= bool(bad)
        is_crowded |= any(detail.startswith(NO_ROOM) for _, detail in news)
        if deployment is not None and _deadline_passed(deployment):
            bad.append("its Deployment made no progress in time")
        target = failed if bad else waiting
        words = bad or [wait, *(detail for _, detail in news)]
        target.append(f"stage {place.stage.name!r}: {'; '.join(dict.fromkeys(words))}")
    lacks_room = is_crowded and not is_broken
    if failed:
        return Rollout(RolloutPhase.FAILED, ". ".join(failed), lacks_room)
    if waiting:
        return Rollout(RolloutPhase.PROGRESSING, ". ".join(waiting), lacks_room)
    return Rollout(RolloutPhase.READY)


def _pod_news(place: StageLocation, pods: Sequence[Json]) -> Iterator[tuple[bool, str]]:
    """(whether it is a failure, what) of the stage's new pods; old ones do not matter to the change."""
    for pod in pods:
        if not carries(place, pod["spec"]):
            continue
        status = pod.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
                yield False, f"{NO_ROOM}: {condition.get('message', '')}"
        for key in ("initContainerStatuses", "containerStatuses"):
            for container in status.get(key) or ():
                reason = _at(container, "state", "waiting", "reason")
                if reason in FAILED_REASONS:
                    yield True, f"container {container['name']} of a new pod is in {reason}"


def _deadline_passed(deployment: Json) -> bool:
    if int(_status(deployment).get("observedGeneration") or 0) < int(deployment["metadata"]["generation"]):
        return False
    return any(
        condition.get("reason") == "ProgressDeadlineExceeded"
        for condition in _status(deployment).get("conditions") or ()
    )


def _status(deployment: Json | None) -> Json:
    return (deployment or {}).get("status") or {}


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = (value or {}).get(key)
    return value
