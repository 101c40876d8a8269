"""The Workload port over objects with a scale subresource, of any kind: read only."""

from __future__ import annotations

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import POD, ObjectRef, ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import DriftError, ForbiddenError, InputError, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.layout import at, last_hand, revision_of
from ipa.targets.scale.section import ROLLING, scale_of

# Any of these in a status says that its controller counts ready replicas, and leaves out a 0.
COUNTS = ("readyReplicas", "availableReplicas", "unavailableReplicas")


class ScaleWorkload:
    """Pipelines whose objects somebody else scales. Replicas are the objects', all else the section's.

    A change of the number is always settled: it is not ours to follow.
    """

    rolling = ROLLING

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self._kinds: dict[tuple[str, str], ResourceKind] = {}

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """Read each stage's object and its scale.

        Errors: NotFoundError, ForbiddenError, UnavailableError, InputError (a kind without a scale);
        DriftError if an object is scaled to 0, since a plan has one replica or more.
        """
        place, stages, objects = scale_of(pipeline), [], []
        for stage in pipeline.served:
            runs = place.stages[stage.name]
            api_version, kind, namespace, name = place.place(stage.name)
            ref = ObjectRef(self._kind(api_version, kind), namespace, name)
            live = self.client.get(ref.kind, namespace, name)
            path = f"{ref.kind.path(namespace, name)}/scale"
            scale = self.client.discover(path, f"the scale of {ref}")
            replicas = _count(ref, scale, "spec", "replicas")
            if replicas < 1:
                raise DriftError(
                    f"{ref} is scaled to {replicas}; plans have one replica or more",
                    hint="Let its autoscaler keep one: minReplicaCount: 1 (KEDA), minReplicas: 1 (HPA).",
                )
            config = StageConfig(stage.name, runs.variant, runs.batch_size, runs.cores, replicas)
            stages.append(StageState(config, min(self._ready(ref, live, scale), replicas)))
            objects.append(live)
        hands = filter(None, map(last_hand, objects))
        return WorkloadState(revision_of(objects), tuple(stages), True, next(hands, ""))

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Refuse the change: ForbiddenError names the objects."""
        place = scale_of(pipeline)
        names = ", ".join(" ".join(place.place(stage.name)[1::2]) for stage in pipeline.served)
        raise ForbiddenError(
            f"target scale does not write {names}; whoever scales them reads ipa_desired_replicas",
            hint=f"ipa mode {pipeline.name} advisory",
        )

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """REPLACED: there is no change of ours to wait for."""
        return Rollout(RolloutPhase.REPLACED, "target scale writes no change")

    def _kind(self, api_version: str, kind: str) -> ResourceKind:
        """The kind as the API server serves it, once for all; InputError if it has no scale subresource."""
        known = self._kinds.get((api_version, kind))
        if known is None:
            group, _, version = api_version.rpartition("/")
            root = ResourceKind(group, version, "", kind).root
            served = self.client.discover(root, api_version).get("resources") or ()
            plurals = {str(each.get("name")): each.get("kind") for each in served}
            plural = next((it for it in plurals if plurals[it] == kind and "/" not in it), None)
            if plural is None or f"{plural}/scale" not in plurals:
                lacks = (
                    "the API server does not serve it" if plural is None else "it has no scale subresource"
                )
                raise InputError(
                    f"{api_version} {kind} cannot be scaled: {lacks}",
                    hint=f"kubectl api-resources --api-group={group or chr(39) * 2}",
                )
            known = self._kinds[api_version, kind] = ResourceKind(group, version, plural, kind)
        return known

    def _ready(self, ref: ObjectRef, live: Json, scale: Json) -> int:
        """The ready replicas by the object's status; if it does not count them, by the pods of its scale."""
        status = at(live, "status") or {}
        if any(key in status for key in COUNTS):
            return _count(ref, live, "status", "readyReplicas")
        if not _count(ref, scale, "status", "replicas"):
            return 0
        selector = str(at(scale, "status", "selector") or "")
        labels = dict(pair.split("=", 1) for pair in selector.split(",") if "=" in pair)
        if not labels or len(labels) < selector.count(",") + 1:
            words = f"its status counts no ready replicas, and its scale selects pods by {selector!r}"
            raise UnavailableError(f"{ref}: {words}, not by equal labels")
        pods, _ = self.client.list_all(POD, ref.namespace, labels)
        return sum(map(_is_ready, pods))


def _count(ref: ObjectRef, thing: Json, *keys: str) -> int:
    """The number at that place, 0 if it is left out."""
    value = at(thing, *keys) or 0
    if not isinstance(value, int) or value < 0:
        raise UnavailableError(f"{ref}: {'.'.join(keys)} is {value!r}, not a number of replicas")
    return value


def _is_ready(pod: Json) -> bool:
    conditions = at(pod, "status", "conditions") or ()
    return any(it.get("type") == "Ready" and it.get("status") == "True" for it in conditions)
