"""A pipeline as objects of one kind: the answers of a target on Kubernetes, and the change of one object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.adapters.kube.responses import Json
from ipa.model.parts import Configs
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores

if TYPE_CHECKING:
    from ipa.adapters.kube.client import KubeClient

Path = tuple[str | int, ...]
Operation = dict[str, Any]
# The objects of a pipeline by name.
Objects = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ABC):
    """A Deployment that serves a part of a pipeline, as its object asks for it.

    `replicas` are those that it is to have, `title` is its name in messages. `is_external`: another
    controller decides its replicas. `follows`: its pods are replaced with those of others, so that room may
    lack until these have ended.
    """

    deployment: str
    replicas: int
    title: str
    is_external: bool = False
    follows: bool = False

    @abstractmethod
    def carries(self, pod: Json) -> bool:
        """True if a pod, or a pod template, is as the object asks for it."""

    def cores(self, pod: Json) -> float:
        """The cores of the pod that plans count; 0 for one that runs beside the stages."""
        return 0.0

    def as_scaled(self, deployment: Json | None) -> Self:
        """With the replicas of its Deployment if they are external, and it is there; else as it is."""
        replicas = ((deployment or {}).get("spec") or {}).get("replicas")
        return replace(self, replicas=int(replicas)) if self.is_external and replicas else self


@dataclass(frozen=True, slots=True)
class Running:
    """The configurations that the objects of a pipeline ask for, each with its part of a set and its place.

    Parts are empty if there is one. `beside` serve too, and `counters` count the load.
    """

    configs: Configs
    parts: tuple[str, ...]
    places: tuple[Served, ...]
    beside: tuple[Served, ...]
    counters: tuple[Served, ...]


class Draft:
    """A copy of the live object that writes down what is done to it."""

    def __init__(self, live: Mapping[str, Any]) -> None:
        self.object = deepcopy(dict(live))
        self.tests: list[Operation] = []
        self.changes: list[Operation] = []

    def patch(self) -> list[Operation]:
        """The guarded patch of all that was done to it; empty where nothing was."""
        if not self.changes:
            return []
        metadata = self.object["metadata"]
        # Not the resourceVersion: operators write the status several times around each change.
        guards = [_operation("test", ("metadata", key), metadata[key]) for key in ("uid", "generation")]
        return [*guards, *self.tests, *self.changes]

    def value(self, path: Path) -> Any:
        """Value at the path, or None."""
        value: Any = self.object
        for token in path:
            if isinstance(value, dict):
                value = value.get(str(token))
            elif isinstance(value, list) and isinstance(token, int) and token < len(value):
                value = value[token]
            else:
                return None
        return value

    def test(self, path: Path, value: object) -> None:
        """Demand, before any change, that this is there."""
        operation = _operation("test", path, value)
        if operation not in self.tests:
            self.tests.append(operation)

    def set(self, path: Path, value: Any) -> None:
        """Put the value there, or remove what is there (None). Parents that are not there are made."""
        live = self.value(path)
        if live == value:
            return
        parent = path[:-1]
        if value is None:
            self.changes.append({"op": "remove", "path": _pointer(path)})
            self.value(parent).pop(path[-1])
        elif self.value(parent) is None:
            self.set(parent, {path[-1]: value})
        else:
            self.changes.append(_operation("add" if live is None else "replace", path, value))
            self.value(parent)[path[-1]] = value

    def append(self, path: Path, value: Any) -> None:
        """Put the value behind the list's last."""
        self.changes.append(_operation("add", (*path, "-"), value))
        self.value(path).append(value)


def _pointer(path: Path) -> str:
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in path)


def _operation(op: str, path: Path, value: object) -> Operation:
    # A copy: the draft goes on changing what it put there.
    return {"op": op, "path": _pointer(path), "value": deepcopy(value)}


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """The change of one object: what it asked for, what it is to ask for, and the draft that says so."""

    name: str
    before: Configs
    after: Configs
    draft: Draft


class Layout(ABC):
    """The objects of one pipeline. All methods are pure but `admission_fault`."""

    kind: ClassVar[ResourceKind]

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    @abstractmethod
    def namespace(self) -> str:
        """The namespace of all of them."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Their names; requests come in at the last one."""

    @property
    def entry(self) -> ObjectRef:
        """The object where requests come in."""
        return ObjectRef(self.kind, self.namespace, self.names[-1])

    @abstractmethod
    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The objects that run the configurations, in the order in which they are created. InputError."""

    @abstractmethod
    def observe(self, objects: Objects) -> Running:
        """The configurations that all objects ask for. DriftError if they are none of the pipeline."""

    @abstractmethod
    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> list[ObjectChange]:
        """The change of each object that differs, in an order in which every prefix is safe to run.

        Errors: DriftError as `observe`, InputError as `render`.
        """

    @abstractmethod
    def read(self, name: str, found: Json) -> Configs:
        """The configurations that one of the objects asks for. DriftError as `observe`."""

    @abstractmethod
    def draft(self, name: str, live: Json, wanted: Sequence[StageConfig]) -> Draft:
        """The draft that takes one of the objects to what it is to ask for. Errors as `changes`."""

    def as_written(self, configs: Sequence[StageConfig]) -> Configs:
        """The configurations as they read back once written; InputError lists what must not be written."""
        return in_millicores(configs)

    @abstractmethod
    def check_autoscalers(self, running: Running, autoscalers: Sequence[Json]) -> None:
        """DriftError names every place that one of these HorizontalPodAutoscalers scales against plans."""

    def admission_fault(self, client: KubeClient) -> str:
        """The refusal of the pipeline's pods by its namespace, with the remedy; empty if none is known."""
        return ""
