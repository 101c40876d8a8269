"""Progress of a change, judged by the Deployments and their pods. `status.state` is unreliable:

it stays Available right after a write, flips during the roll, and has no observedGeneration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ipa.adapters.kube.transport import Json
from ipa.control.ports import Rollout, RolloutPhase
from ipa.targets.kubernetes.layout import Served

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

# So the API server refuses a pod: for a quota, the namespace's limits or its PodSecurity.
REFUSED = "is forbidden"
# A container that waits for one of these is not a start that takes its time.
LOST_REASONS = FAILED_REASONS | {"ContainerStatusUnknown"}

CONTAINERS = ("initContainerStatuses", "containerStatuses")

Deployments = Mapping[str, Json | None]


def ready_replicas(deployment: Json | None) -> int:
    """Replicas of the stage that answer, old ones among them while it rolls; 0 where there are none."""
    return int(_status(deployment).get("readyReplicas") or 0)


def unready(place: Served, deployment: Json | None) -> str:
    """Describe what the stage waits for; empty if it runs exactly as its object says."""
    return rolling(place, deployment) or missing(place, deployment)


def rolling(place: Served, deployment: Json | None) -> str:
    """Describe what the controllers still have to do for the stage, apart from waiting for pods."""
    old = _old_replicas(deployment)
    return unseen(place, deployment) or (f"{old} old replicas still run" if old > 0 else "")


def unseen(place: Served, deployment: Json | None) -> str:
    """Describe why the Deployment's status and pods are not yet about the write; empty once they are."""
    if deployment is None:
        return f"Deployment {place.deployment} is not there yet"
    if not place.carries(deployment["spec"]["template"]["spec"]):
        return f"Deployment {place.deployment} does not carry the change yet"
    if deployment["spec"].get("replicas") != place.replicas:
        return f"Deployment {place.deployment} does not ask for {place.replicas} replicas yet"
    if not _is_seen(deployment):
        return f"Deployment {place.deployment} is not yet seen by its controller"
    return ""


def _is_seen(deployment: Json) -> bool:
    """True if the status is about the present spec."""
    seen, newest = _status(deployment).get("observedGeneration"), deployment["metadata"].get("generation")
    return int(seen or 0) >= int(newest or 0)


def _old_replicas(deployment: Json | None) -> int:
    """The replicas of earlier templates."""
    made, updated = (int(_status(deployment).get(key) or 0) for key in ("replicas", "updatedReplicas"))
    return made - updated


def missing(place: Served, deployment: Json | None, lost: int = 0) -> str:
    """Describe the replicas that are not ready, beside those that were `lost` before."""
    status = _status(deployment)
    for key, word in (("updatedReplicas", "new"), ("readyReplicas", "ready"), ("availableReplicas", "ready")):
        count = int(status.get(key) or 0)
        if count < place.replicas - lost:
            return f"{count} of {place.replicas} replicas are {word}"
    return ""


def runs_as_asked(place: Served, deployment: Json | None, pods: Sequence[Json]) -> bool:
    """True if the pods are ready and all that is asked for, though the controller may not have seen it yet.

    Any write of the Deployment is one that its controller has to see, of an annotation too.
    """
    if deployment is None or not place.carries(deployment["spec"]["template"]["spec"]):
        return False
    replicas = deployment["spec"].get("replicas")
    return replicas == place.replicas == len(pods) and all(
        _is_ready(pod) and place.carries(pod["spec"]) for pod in pods
    )


def lost_words(place: Served, deployment: Json | None, pods: Sequence[Json]) -> str:
    """The reasons why missing replicas of a stage that does not roll will not be ready by themselves, by pod.

    Empty if none is missing, or if one of them only starts.
    """
    if rolling(place, deployment) or not missing(place, deployment):
        return ""
    found = [words for pod in pods if not _is_ready(pod) and (words := _lost_pod(pod))]
    refused = refusal(deployment)
    made = len(pods)
    if refused and made < place.replicas:
        found += [refused] * (place.replicas - made)
    ready = ready_replicas(deployment)
    return ", ".join(dict.fromkeys(found)) if len(found) >= place.replicas - ready else ""


def _is_ready(pod: Json) -> bool:
    conditions = _status(pod).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _lost_pod(pod: Json) -> str:
    """The fault of a pod that is not ready; empty if it may only be starting."""
    name, status = pod["metadata"]["name"], _status(pod)
    if pod["metadata"].get("deletionTimestamp"):
        return f"pod {name} is being deleted"
    if status.get("phase") in ("Failed", "Unknown"):
        return f"pod {name} is {status['phase']}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "Unknown":
            return f"pod {name} is on a lost node"
    if words := _unschedulable(pod):
        return f"pod {name} is {words}"
    faults = filter(None, map(_lost_container, _containers(pod)))
    return next((f"pod {name} {words}" for words in faults), "")


def _containers(pod: Json) -> list[Json]:
    """The statuses of all containers of the pod."""
    return [it for key in CONTAINERS for it in _status(pod).get(key) or ()]


def _lost_container(container: Json) -> str:
    """The fault of a container that does not start by itself; empty if none is known."""
    reason = _at(container, "state", "waiting", "reason")
    ended = _at(container, "lastState", "terminated", "reason")
    after = f" after {ended}" if ended else ""
    if reason in LOST_REASONS:
        return f"is in {reason}{after}"
    if container.get("restartCount") and not container.get("ready"):
        return f"was restarted {container['restartCount']} times{after}"
    return ""


def refusal(deployment: Json | None) -> str:
    """The API server's own reason to refuse the Deployment's pods; empty if it does not."""
    for condition in _status(deployment).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"its pods cannot be created: {condition.get('message') or condition.get('reason', '')}"
    return ""


def counter_of(deployments: Sequence[Json | None]) -> str | None:
    """Identifies what counts the load, of which these Deployments are made; empty while it is replaced.

    None where none is there.
    """
    found = [each for each in deployments if each is not None]
    if not found:
        return None
    if any(not _is_seen(each) or _old_replicas(each) > 0 or not ready_replicas(each) for each in found):
        # Pods are not all of the newest template, or none of them serves.
        return ""
    return ",".join(f"{each['metadata']['uid']}/{each['metadata']['generation']}" for each in found)


def judge(
    places: Sequence[Served],
    deployments: Deployments,
    pods: Mapping[str, Sequence[Json]],
    lost: Sequence[int] = (),
) -> Rollout:
    """Judge the progress of a change over all that serves. `deployments` and `pods` by name of Deployment.

    FAILED where a new pod crash-loops, cannot pull its image or is refused by the API server, or the
    Deployment says its progress deadline passed: all of it only once the Deployment carries the change and
    its controller has seen it, since conditions and pods are those of the write before until then. Pods that
    no node has room for leave it PROGRESSING, since nodes may come; the detail names them. Refused pods lack
    room too: what they are made of is not to blame. Of each stage's pods so many were `lost` before the
    change, which is not about them.
    """
    failed: list[str] = []
    waiting: list[str] = []
    is_crowded = is_broken = False
    for place, before in zip_longest(places, lost, fillvalue=0):
        assert not isinstance(place, int)
        deployment = deployments[place.deployment]
        wait = rolling(place, deployment) or missing(place, deployment, before)
        if not wait:
            continue
        bad: list[str] = []
        news: list[str] = []
        if not unseen(place, deployment):
            found = list(_pod_news(place, pods.get(place.deployment, ())))
            bad = [detail for is_failure, detail in found if is_failure][before:]
            news = [detail for is_failure, detail in found if not is_failure]
            is_broken |= bool(bad)
            refused = refusal(deployment)
            is_crowded |= bool(refused or news)
            # Pods that end hold their room until then, those of a stage that rolls the orchestrator's.
            ends = bool(waiting) and place.follows
            ends |= any(pod["metadata"].get("deletionTimestamp") for pod in pods.get(place.deployment, ()))
            (bad if REFUSED in refused and not ends else news).append(refused)
            conditions = _status(deployment).get("conditions") or ()
            if any(each.get("reason") == "ProgressDeadlineExceeded" for each in conditions):
                bad.append("its Deployment made no progress in time")
        target = failed if any(bad) else waiting
        words = filter(None, bad if any(bad) else [wait, *news])
        target.append(f"{place.title}: {'; '.join(dict.fromkeys(words))}")
    lacks_room = is_crowded and not is_broken
    room_cores = _placed_cores(places, deployments, pods) if lacks_room else None
    if failed:
        return Rollout(RolloutPhase.FAILED, ". ".join(failed), lacks_room, room_cores)
    if waiting:
        return Rollout(RolloutPhase.PROGRESSING, ". ".join(waiting), lacks_room, room_cores)
    return Rollout(RolloutPhase.READY)


def _placed_cores(
    places: Sequence[Served], deployments: Deployments, pods: Mapping[str, Sequence[Json]]
) -> float:
    """The cores of the stages' pods that found room; all of them do where a Deployment's are not given."""
    found = 0.0
    for place in places:
        template = ((deployments[place.deployment] or {}).get("spec") or {}).get("template") or {}
        there = pods.get(place.deployment, [template] * place.replicas)
        found += sum(place.cores(pod) for pod in there if not _unschedulable(pod))
    return found


def _unschedulable(pod: Json) -> str:
    """The reason why no node takes the pod; empty if one does, or may."""
    for condition in _status(pod).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"
    return ""


def _pod_news(place: Served, pods: Sequence[Json]) -> Iterator[tuple[bool, str]]:
    """(whether it is a failure, what) of its new pods; old ones do not matter to the change."""
    for pod in pods:
        if not place.carries(pod["spec"]):
            continue
        if words := _unschedulable(pod):
            yield False, f"a pod is {words}"
        for container in _containers(pod):
            reason = _at(container, "state", "waiting", "reason")
            if reason in FAILED_REASONS:
                yield True, f"container {container['name']} of a new pod is in {reason}"


def _status(deployment: Json | None) -> Json:
    return (deployment or {}).get("status") or {}


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = (value or {}).get(key)
    return value
