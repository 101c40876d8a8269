"""Progress of a change, judged by the Deployments and their pods. `status.state` is unreliable:

it stays Available right after a write, flips during the roll, and has no observedGeneration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ipa.adapters.kube.transport import Json
from ipa.control.ports import Rollout, RolloutPhase
from ipa.targets.kubernetes.layout import Served, at

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
# A container that waits for one of these is not a start that takes its time.
LOST_REASONS = FAILED_REASONS | {"ContainerStatusUnknown"}
# So the API server refuses a pod: for a quota, the namespace's limits or its PodSecurity.
REFUSED = "is forbidden"


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """A Deployment that serves a part of a pipeline (None if it is missing), and its pods if it waits.

    Its properties that are texts are empty if they do not apply.
    """

    place: Served
    deployment: Json | None
    pods: Sequence[Json] | None = None

    @property
    def _status(self) -> Json:
        return at(self.deployment, "status") or {}

    def _count(self, key: str) -> int:
        return int(self._status.get(key) or 0)

    @property
    def ready(self) -> int:
        """The ready replicas, including old ones while the Deployment rolls."""
        return self._count("readyReplicas")

    @property
    def _carries(self) -> bool:
        return self.place.carries(at(self.deployment, "spec", "template", "spec") or {})

    @property
    def unseen(self) -> str:
        """The reason why its status and pods do not reflect the write yet."""
        name = f"Deployment {self.place.deployment}"
        if self.deployment is None:
            return f"{name} is not there yet"
        if not self._carries:
            return f"{name} does not carry the change yet"
        if self.deployment["spec"].get("replicas") != self.place.replicas:
            return f"{name} does not ask for {self.place.replicas} replicas yet"
        is_old = self._count("observedGeneration") < int(at(self.deployment, "metadata", "generation") or 0)
        return f"{name} is not yet seen by its controller" if is_old else ""

    @property
    def rolling(self) -> str:
        """The remaining work of its controllers, apart from waiting for pods."""
        # Of earlier templates.
        old = self._count("replicas") - self._count("updatedReplicas")
        return self.unseen or (f"{old} old replicas still run" if old > 0 else "")

    def missing(self, lost: int = 0) -> str:
        """The replicas that are not ready, apart from those that were `lost` before."""
        keys = {"updatedReplicas": "new", "readyReplicas": "ready", "availableReplicas": "ready"}
        for key, word in keys.items():
            if self._count(key) < self.place.replicas - lost:
                return f"{self._count(key)} of {self.place.replicas} replicas are {word}"
        return ""

    @property
    def waits(self) -> str:
        """Its remaining wait, in words; empty if it runs exactly as its object specifies."""
        return self.rolling or self.missing()

    @property
    def is_settled(self) -> bool:
        """True if it waits for nothing but lost pods.

        If all wanted pods are ready, it also need not wait for its controller to observe a write, such as one
        of an annotation.
        """
        if not self.waits or self.lost:
            return True
        pods = self.pods or ()
        replicas = at(self.deployment, "spec", "replicas")
        if not self._carries or not replicas == self.place.replicas == len(pods):
            return False
        return all(_is_ready(pod) and self.place.carries(pod["spec"]) for pod in pods)

    @property
    def lost(self) -> str:
        """The reasons why missing replicas will not become ready by themselves, by pod; empty while it rolls.

        Also empty if one of them is only starting.
        """
        if self.rolling or not self.missing():
            return ""
        pods = self.pods or ()
        faults = [
            f"pod {pod['metadata']['name']} {fault}"
            for pod in pods
            if not _is_ready(pod) and (fault := next(_pod_faults(pod), ""))
        ]
        if self.refusal:
            faults += [self.refusal] * (self.place.replicas - len(pods))
        return ", ".join(dict.fromkeys(faults)) if len(faults) >= self.place.replicas - self.ready else ""

    @property
    def refusal(self) -> str:
        """The API server's own reason for refusing its pods."""
        for each in self._status.get("conditions") or ():
            if each.get("type") == "ReplicaFailure" and each.get("status") == "True":
                return f"its pods cannot be created: {each.get('message') or each.get('reason', '')}"
        return ""

    def news(self, *, failures: bool) -> Iterator[str]:
        """The failures of its new pods, and those that no node has room for; old pods do not matter."""
        for pod in self.pods or ():
            if not self.place.carries(pod["spec"]):
                continue
            if not failures and (words := _unschedulable(pod)):
                yield f"a pod is {words}"
            for container in _containers(pod) if failures else ():
                reason = at(container, "state", "waiting", "reason")
                if reason in FAILED_REASONS:
                    yield f"container {container['name']} of a new pod is in {reason}"

    @property
    def placed_cores(self) -> float:
        """The cores of its pods that found a node; of all its pods if they are not listed."""
        pods = self.pods
        if pods is None:
            pods = [at(self.deployment, "spec", "template") or {}] * self.place.replicas
        return sum(self.place.cores(pod) for pod in pods if not _unschedulable(pod))


def _is_ready(pod: Json) -> bool:
    conditions = at(pod, "status", "conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _pod_faults(pod: Json) -> Iterator[str]:
    """The faults of a pod that is not ready; none if it may only be starting."""
    if pod["metadata"].get("deletionTimestamp"):
        yield "is being deleted"
    if (phase := at(pod, "status", "phase")) in ("Failed", "Unknown"):
        yield f"is {phase}"
    for condition in at(pod, "status", "conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "Unknown":
            yield "is on a lost node"
    if words := _unschedulable(pod):
        yield f"is {words}"
    for container in _containers(pod):
        reason = at(container, "state", "waiting", "reason")
        ended = at(container, "lastState", "terminated", "reason")
        after = f" after {ended}" if ended else ""
        if reason in LOST_REASONS:
            yield f"is in {reason}{after}"
        if container.get("restartCount") and not container.get("ready"):
            yield f"was restarted {container['restartCount']} times{after}"


def _containers(pod: Json) -> list[Json]:
    """The statuses of all containers of the pod."""
    keys = ("initContainerStatuses", "containerStatuses")
    return [it for key in keys for it in at(pod, "status", key) or ()]


def _unschedulable(pod: Json) -> str:
    """The reason why no node accepts the pod; empty if one does, or may."""
    for condition in at(pod, "status", "conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"
    return ""


def judge(states: Sequence[DeploymentState], lost: Sequence[int] = ()) -> Rollout:
    """Judge the progress of a change over all Deployments that serve.

    FAILED if a new pod crash-loops, cannot pull its image or is refused by the API server, or the Deployment
    says its progress deadline passed: all of it only once the Deployment carries the change and its
    controller has seen it, since until then conditions and pods are of the write before. Pods that no node
    has room for leave it PROGRESSING, since nodes may come; the detail names them. Refused pods also count as
    lacking room: their template is not to blame. `lost` are the pods of each stage that were lost before the
    change, which does not wait for them.
    """
    failed: list[str] = []
    waiting: list[str] = []
    is_crowded = is_broken = False
    for state, before in zip_longest(states, lost, fillvalue=0):
        assert isinstance(state, DeploymentState)
        wait = state.rolling or state.missing(before)
        if not wait:
            continue
        bad: list[str] = []
        news: list[str] = []
        if not state.unseen:
            bad = list(state.news(failures=True))[before:]
            news = list(state.news(failures=False))
            is_broken |= bool(bad)
            is_crowded |= bool(state.refusal or news)
            # Terminating pods hold their room, and so those of a rolling stage hold the orchestrator's.
            ends = bool(waiting) and state.place.follows
            ends |= any(pod["metadata"].get("deletionTimestamp") for pod in state.pods or ())
            (bad if REFUSED in state.refusal and not ends else news).append(state.refusal)
            conditions = at(state.deployment, "status", "conditions") or ()
            if any(each.get("reason") == "ProgressDeadlineExceeded" for each in conditions):
                bad.append("its Deployment made no progress in time")
        is_bad = any(bad)
        words = filter(None, bad if is_bad else [wait, *news])
        (failed if is_bad else waiting).append(f"{state.place.title}: {'; '.join(dict.fromkeys(words))}")
    lacks_room = is_crowded and not is_broken
    room_cores = sum(state.placed_cores for state in states) if lacks_room else None
    if failed:
        return Rollout(RolloutPhase.FAILED, ". ".join(failed), lacks_room, room_cores)
    if waiting:
        return Rollout(RolloutPhase.PROGRESSING, ". ".join(waiting), lacks_room, room_cores)
    return Rollout(RolloutPhase.READY)
