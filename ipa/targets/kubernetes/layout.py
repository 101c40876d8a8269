"""A pipeline as objects of one kind: the interface to a target on Kubernetes, patches, and owners.

An object belongs to one install, so that two never overwrite each other.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from ipa.adapters.kube.kinds import NAMESPACE, ObjectRef, ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, ForbiddenError, NotFoundError, Problem
from ipa.model.parts import Configs
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

if TYPE_CHECKING:
    from ipa.adapters.kube.client import KubeClient

Path = tuple[str | int, ...]
Operation = dict[str, Any]
# The objects of a pipeline by name.
Objects = Mapping[str, Json]

ANNOTATION = "ipa-serving/install"
POINTER = "/metadata/annotations"
KEY = f"{POINTER}/{ANNOTATION.replace('/', '~1')}"
VERSION = "/metadata/resourceVersion"
OURS = "ipa-serving"
KEDA_LABEL = "scaledobject.keda.sh/name"
REMOVE_IT = "another controller owns its replicas; remove it first"
# The digits of a digest of uids: enough that objects made anew never have those of before.
UIDS = 12


def at(value: Any, *keys: str) -> Any:
    """The value inside nested mappings; None if a key on the way is missing."""
    for key in keys:
        value = (value or {}).get(key)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ABC):
    """A Deployment that serves a part of a pipeline, as its object specifies it.

    `replicas` is its wanted number, `title` its name in messages. `follows`: its pods are replaced together
    with those of other Deployments, so they may lack room until those have ended.
    """

    deployment: str
    replicas: int
    title: str
    follows: bool = False

    @abstractmethod
    def carries(self, pod: Json) -> bool:
        """True if a pod, or a pod template, matches the object's specification."""

    def cores(self, pod: Json) -> float:
        """The cores of the pod that plans count; 0 for a pod that serves no stage."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """The configurations in the objects of a pipeline, each with its part of a set and its place.

    Parts are empty if there is one. `beside` are Deployments of no stage.
    """

    configs: Configs
    parts: tuple[str, ...]
    places: tuple[Served, ...]
    beside: tuple[Served, ...]


def patch_of(before: Json, after: Json) -> list[Operation]:
    """The guarded JSON Patch that turns the live object into the other; empty if they are equal."""
    changes = list(differences(before, after))
    if not changes:
        return []
    metadata = before["metadata"]
    # Not the resourceVersion: operators write the status several times around each change.
    guards = [_operation("test", ("metadata", key), metadata[key]) for key in ("uid", "generation")]
    return [*guards, *changes]


def differences(before: Any, after: Any, path: Path = ()) -> Iterator[Operation]:
    """The operations that turn one value into the other.

    Entries of a list are matched by name. Removals come last, since they shift the entries behind.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            if key not in after:
                yield _operation("remove", (*path, key))
            elif key not in before:
                yield _operation("add", (*path, key), after[key])
            else:
                yield from differences(before[key], after[key], (*path, key))
    elif isinstance(before, list) and isinstance(after, list):
        gone, rest = [], list(after)
        for index, entry in enumerate(before):
            if rest and _name(rest[0]) == _name(entry):
                yield from differences(entry, rest.pop(0), (*path, index))
            else:
                gone.append(index)
        for entry in rest:
            yield _operation("add", (*path, "-"), entry)
        for index in reversed(gone):
            yield _operation("remove", (*path, index))
    elif before != after:
        yield _operation("replace", path, after)


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else None


def _operation(op: str, path: Path, value: object = None) -> Operation:
    pointer = "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in path)
    return {"op": op, "path": pointer, **({} if op == "remove" else {"value": value})}


class Layout(ABC):
    """The objects of one pipeline. All methods except `admission_fault` are pure."""

    kind: ClassVar[ResourceKind]
    # The name of its target.
    target: ClassVar[str]

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    @abstractmethod
    def namespace(self) -> str:
        """The namespace of all objects."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the objects; requests enter at the last one."""

    @property
    def entry(self) -> ObjectRef:
        """The object where requests enter."""
        return ObjectRef(self.kind, self.namespace, self.names[-1])

    @property
    def command(self) -> str:
        """The command that prints its objects, for messages."""
        return f"ipa render {self.pipeline.name} --at {self.target}"

    @abstractmethod
    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The objects that run the configurations, in the order in which they are created. InputError."""

    @abstractmethod
    def observe(self, objects: Objects) -> Running:
        """The configurations in all objects. DriftError if the pipeline cannot have them."""

    @abstractmethod
    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> Objects:
        """Each changed object in its new form, in an order in which every prefix is safe to run.

        Errors: DriftError as `observe`, InputError as `render`.
        """

    @abstractmethod
    def read(self, name: str, live: Json) -> Configs:
        """The configurations in one of the objects. DriftError as `observe`."""

    @abstractmethod
    def changed(self, name: str, live: Json, wanted: Sequence[StageConfig]) -> Json:
        """One of the objects in its new form; fields of other writers stay. Errors as `changes`."""

    @property
    def scaled(self) -> tuple[str, ...]:
        """The names of the objects that no autoscaler may scale; all of them by default."""
        return self.names

    @abstractmethod
    def drift(self, problems: Sequence[str]) -> DriftError:
        """The error for objects that do not match the pipeline, which are not written then."""

    def check_autoscalers(self, running: Running, autoscalers: Sequence[Json]) -> None:
        """DriftError names every stage whose Deployment, or object, a HorizontalPodAutoscaler scales.

        Each would undo the other's changes. KEDA's ScaledObjects need no check of their own: each creates a
        HorizontalPodAutoscaler.
        """
        stages = {place.deployment: place.title for place in running.places}
        problems = []
        for autoscaler in autoscalers:
            target = at(autoscaler, "spec", "scaleTargetRef") or {}
            kind, name = target.get("kind"), str(target.get("name", ""))
            scaled = at(autoscaler, "metadata", "labels", KEDA_LABEL)
            made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
            title = stages.get(name) if kind == "Deployment" else None
            if title is None and kind == self.kind.kind and name in self.scaled:
                title = "every stage"
            if title is not None:
                words = f"HorizontalPodAutoscaler {autoscaler['metadata']['name']!r}{made_by}"
                problems.append(f"{title}: {words} scales {kind} {name}: {REMOVE_IT}")
        if problems:
            raise self.drift(problems)

    def admission_fault(self, client: KubeClient) -> str:
        """The reason why the namespace refuses the pipeline's pods, with the remedy; else empty."""
        return ""


def drift_error(what: str, pipeline: Pipeline, problems: Sequence[str]) -> DriftError:
    """The error for an object that does not match its pipeline, which is not written then."""
    return DriftError(
        f"{what} does not match pipeline {pipeline.name!r}",
        problems=[Problem(problem) for problem in problems],
        hint="Restore it, or change the pipeline's file to match; until then it is not written.",
    )


def enforced_pod_security(client: KubeClient, namespace: str) -> str:
    """The PodSecurity level that the namespace enforces; empty if it has none, or may not be read."""
    try:
        live = client.get(NAMESPACE, "", namespace)
    except (ForbiddenError, NotFoundError):
        return ""
    labels = live["metadata"].get("labels") or {}
    return str(labels.get("pod-security.kubernetes.io/enforce", ""))


def owner_of(live: Json) -> str | None:
    """The install that claimed the object; None without a claim."""
    owner = at(live, "metadata", "annotations", ANNOTATION)
    return None if owner is None else str(owner)


def claim(live: Json, install: str) -> list[Operation]:
    """Operations that claim the object for the install, or test that it is still the install's.

    They change metadata only, so they restart no pod. They test the object's version, since the absence of an
    annotation cannot be tested.
    """
    if owner_of(live) == install:
        return [{"op": "test", "path": KEY, "value": install}]
    version = {"op": "test", "path": VERSION, "value": live["metadata"]["resourceVersion"]}
    if live["metadata"].get("annotations") is None:
        return [version, {"op": "add", "path": POINTER, "value": {ANNOTATION: install}}]
    return [version, {"op": "add", "path": KEY, "value": install}]


def check_owner(live: Json, install: str) -> None:
    """DriftError, with the owner's name, if another install has claimed the object."""
    owner = owner_of(live)
    if owner in (None, install):
        return
    metadata = live["metadata"]
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    place = f"{metadata['name']} -n {metadata.get('namespace', 'default')}"
    free = f"kubectl annotate {live['kind'].lower()} {place} {ANNOTATION}-"
    raise DriftError(
        f"{live['kind']} {name} belongs to install {owner!r}; this is install {install!r}",
        problems=[Problem(f"annotation {ANNOTATION} is {owner!r}")],
        hint=f"Leave the other install in control, or stop it and run `{free}`.",
    )


def revision_of(objects: Sequence[Json]) -> str:
    """The revision that a decision is bound to: the objects, then `/` and the versions of their specs.

    Of several objects the uids are hashed. The resourceVersion is not used, since it changes with every
    status that an operator writes. A patch tests uid and generation.
    """
    uids = [str(each["metadata"]["uid"]) for each in objects]
    identity = uids[0] if len(uids) == 1 else sha256(".".join(uids).encode()).hexdigest()[:UIDS]
    return f"{identity}/{'.'.join(str(each['metadata']['generation']) for each in objects)}"


def last_hand(live: Json) -> str:
    """The field manager of the spec's newest change, with its time; empty if it is this service.

    Also empty if unknown: managers choose their names, and may give none.
    """
    changes = [
        (str(entry.get("time") or ""), str(entry.get("manager") or ""))
        for entry in live["metadata"].get("managedFields") or ()
        if isinstance(entry, dict)
        # Status is the operator's. A change by `kubectl scale` carries the subresource scale.
        and entry.get("subresource") != "status"
        and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    if not changes:
        return ""
    time, manager = max(changes)
    return "" if manager in ("", OURS) else f"{manager} at {time}"


def appliers(live: Json, operations: Sequence[Operation]) -> list[str]:
    """The fields that a patch would change although another manager applies them, each with the manager.

    A field of a server-side apply is in the tree `fieldsV1` of its manager, below a leaf if the whole list
    is one field. A manager loses it to the first write of another one, until it applies again.
    """
    return [
        f"{operation['path']} is applied by {entry['manager']!r}"
        for entry in live["metadata"].get("managedFields") or ()
        if isinstance(entry, dict) and entry.get("operation") == "Apply" and entry.get("fieldsV1")
        if entry.get("manager") not in ("", None, OURS) and entry.get("subresource") != "status"
        for operation in operations
        if operation["op"] != "test" and _is_in(entry["fieldsV1"], live, operation["path"])
    ]


def _is_in(fields: Json, live: Any, pointer: str) -> bool:
    """True if the tree of fields has the value at the pointer in the object, or something around it."""
    for escaped in pointer.split("/")[1:]:
        token = escaped.replace("~1", "/").replace("~0", "~")
        if not fields:
            return True
        if isinstance(live, list):
            # A new entry is nobody's. Others are known by some of their keys.
            live = live[int(token)] if token.isdecimal() else None
            keys = [each for each in fields if each.startswith("k:") and live is not None]
            key = next((each for each in keys if json.loads(each[2:]).items() <= live.items()), "")
        else:
            live, key = (live or {}).get(token), f"f:{token}"
        if key not in fields:
            return False
        fields = fields[key]
    return True


def with_hand(error: DriftError, live: Json) -> DriftError:
    """The same error with one more problem, which names the last field manager."""
    who = last_hand(live)
    if not who:
        return error
    problem = Problem(f"its spec was last changed by {who}")
    return DriftError(error.message, hint=error.hint, problems=[*error.problems, problem])
