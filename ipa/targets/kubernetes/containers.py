"""The container of a stage: the fields that its variants set, read, compared and written.

A variant is an image, env and, where a target has such, fields of another object beside the container. A
field is managed by ipa if any variant of the stage sets it. Other fields belong to other people and are
neither compared nor written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ipa.adapters.kube.kinds import MILLICORES, cpu_quantity, format_quantity, parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.files.targets import Env
from ipa.model.errors import InputError, Problem
from ipa.model.forms import Accelerators, PositiveMemory
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.resources import DIMENSIONS, beside_of, dimension
from ipa.targets.kubernetes.layout import Served, at

BATCH_SIZE = "MLSERVER_MODEL_MAX_BATCH_SIZE"
BATCH_TIME = "MLSERVER_MODEL_MAX_BATCH_TIME"
# Which Python class MLServer runs in a container of ours.
IMPLEMENTATION = "MLSERVER_MODEL_IMPLEMENTATION"
MODEL_NAME = "MLSERVER_MODEL_NAME"
# What every MLServer container is given beside its variant; a variant that set them would be overwritten.
SERVER_ENV = frozenset({"MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", MODEL_NAME, "MLSERVER_METRICS_PORT"})
METRICS_PATH = "MLSERVER_METRICS_ENDPOINT"
# What restricted PodSecurity asks of every container.
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
FROM_ELSEWHERE = "a value from elsewhere (valueFrom)"

# The part of a stage's place (`ContainerPlace`) that has a field, and the field's name there. One of
# RESOURCES is a request and a limit, which are equal. A field without a value (None) is not there.
Field = tuple[str, str]
Fields = Mapping[Field, object]
COMPONENT, CONTAINER, NODE, ENV, RESOURCES = "component", "container", "node", "env", "resources"


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """A variant's container: image, env, the class that MLServer runs, and its resources."""

    image: str | None = None
    implementation: str | None = None
    env: Env = field(default_factory=dict)
    memory_gib: PositiveMemory | None = None
    accelerators: Accelerators = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)

    @property
    def node(self) -> Mapping[str, str | None]:
        """The variant's fields beside its container; empty on targets that have none."""
        return {}

    @property
    def fields(self) -> dict[Field, str]:
        """The fields that distinguish the variant from others."""
        known: dict[Field, str | None] = {(CONTAINER, "image"): self.image}
        known |= {(NODE, name): value for name, value in self.node.items()}
        # A class has a dot; the name of a server that a target starts (MLFLOW_SERVER) has none.
        if self.implementation is not None and "." in self.implementation:
            known[ENV, IMPLEMENTATION] = self.implementation
        known |= {(ENV, name): value for name, value in self.env.items()}
        return {each: value for each, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class StageRuns:
    """The sections `key` of a stage's variants. The variants `alone` have servers that form no batches."""

    stage: Stage
    key: str
    alone: frozenset[str] = frozenset()

    @property
    def by_variant(self) -> dict[str, ContainerRun]:
        """The sections by variant; variants without one are left out."""
        return {it.name: it.targets[self.key] for it in self.stage.variants if self.key in it.targets}

    @property
    def known(self) -> list[Field]:
        """The fields that any variant sets, env last and by name."""
        fields = dict.fromkeys(each for run in self.by_variant.values() for each in run.fields)
        return sorted(fields, key=lambda each: (each[0] == ENV, each))

    @property
    def owned_env(self) -> frozenset[str]:
        """The env that ipa manages: that of the variants, and of batching."""
        return frozenset({BATCH_SIZE, BATCH_TIME, *(name for part, name in self.known if part == ENV)})

    def fields(self, variant: str) -> dict[Field, str | None]:
        """The value of each known field for the variant. InputError if the variant has no section."""
        own = self._run(variant).fields
        return {each: own.get(each) for each in self.known}

    def requested(self, pipeline: Pipeline, variant: str) -> dict[str, str]:
        """The quantities that the variant's container requests beside its cores, by Kubernetes' names.

        Accelerators are the section's or the profile's, whichever are more; other resources are those of the
        section alone, since a measured amount must not become a limit at which a container is killed.
        """
        own = beside_of(self._run(variant)).amounts
        measured = pipeline.bounds.measured.get((self.stage.name, variant))
        for kind, count in (measured.beside.accelerators if measured else {}).items():
            own[kind] = max(count, own.get(kind, 0.0))
        return {dimension(name).resource: format_quantity(name, amount) for name, amount in own.items()}

    def accelerator_kinds(self, pipeline: Pipeline) -> set[str]:
        """The kinds of accelerators that any variant requests."""
        names = {name for variant in self.by_variant for name in self.requested(pipeline, variant)}
        return names - {each.resource for each in DIMENSIONS}

    def problems(self) -> Iterator[str]:
        """The variants that cannot be distinguished from another, and those that set reserved env."""
        known: dict[tuple[tuple[Field, str | None], ...], str] = {}
        for name, run in self.by_variant.items():
            for key in sorted(run.env):
                if key in SERVER_ENV or key in (BATCH_SIZE, BATCH_TIME):
                    yield f"stage {self.stage.name!r}, variant {name!r}: the service sets env {key}"
            fields = tuple(self.fields(name).items())
            if fields in known:
                yield (
                    f"stage {self.stage.name!r}: variants {known[fields]!r} and {name!r} have the same "
                    "image, env and model URI; give one of them a different env, so that they can be "
                    "distinguished"
                )
            known[fields] = name

    def _run(self, variant: str) -> ContainerRun:
        run: ContainerRun | None = self.stage.variant(variant).targets.get(self.key)
        if run is None:
            raise InputError(
                f"variant {variant!r} of stage {self.stage.name!r} has no `{self.key}:` section",
                hint="Add one with the image of its container.",
            )
        return run


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlace(Served):
    """A stage's container in an object, as references into it.

    `component` is the mapping that has its replicas; `node` has fields of variants beside the container.
    """

    runs: StageRuns
    component: Json
    container: Json
    node: Json = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.runs.stage

    def value(self, field: Field) -> object:
        """The field's value; None if it is missing.

        For resources it is the limit, which Kubernetes also takes as the request of an extended resource.
        """
        part, name = field
        if part == RESOURCES:
            return at(self.container, RESOURCES, "limits", name)
        if part != ENV:
            owner: Json = getattr(self, part)
            return owner.get(name)
        entry = env_entry(self.container, name)
        if entry is None:
            return None
        return FROM_ELSEWHERE if "valueFrom" in entry else entry.get("value", "")

    def put(self, fields: Fields) -> None:
        """Set the fields to their values; None removes a field."""
        for (part, name), value in fields.items():
            if part == ENV:
                entry, env = env_entry(self.container, name), self.container.get("env") or ()
                if entry is not None and value is not None:
                    entry["value"] = value
                elif value is not None:
                    self.container["env"] = [*env, {"name": name, "value": value}]
                elif entry is not None:
                    self.container["env"] = [it for it in env if it.get("name") != name]
            elif part != RESOURCES:
                _put(getattr(self, part), name, value)
            else:
                for kind in ("requests", "limits"):
                    amounts = at(self.container, RESOURCES, kind) or {}
                    if value is not None or name in amounts:
                        self.container[RESOURCES] = self.container.get(RESOURCES) or {}
                        self.container[RESOURCES][kind] = amounts
                        _put(amounts, name, value)

    def carries(self, pod: Json) -> bool:
        """True if the pod, or pod template, has the stage's container as in the object."""
        wanted = self.container
        there = next((it for it in pod.get("containers") or () if it["name"] == wanted["name"]), None)
        if there is None or ("image" in wanted and there.get("image") != wanted["image"]):
            return False
        # Ours alone: an operator or a webhook may set env of its own.
        for name in self.runs.owned_env:
            entry, own = env_entry(wanted, name), env_entry(there, name)
            if entry is not None and (own is None or own.get("value", "") != entry.get("value", "")):
                return False
        for kind in ("requests", "limits"):
            # As numbers: the server may write 500m as 0.5. What is not asked for may be defaulted.
            for name, amount in (at(wanted, RESOURCES, kind) or {}).items():
                if parse_quantity(at(there, RESOURCES, kind, name)) != parse_quantity(amount):
                    return False
        return True

    def cores(self, pod: Json) -> float:
        """The cores of the stage's container in a pod or a pod template."""
        named = (it for it in at(pod, "spec", "containers") or () if it["name"] == self.container["name"])
        return sum(float(parse_quantity(at(it, RESOURCES, "requests", "cpu")) or 0) for it in named)

    def fields(self, pipeline: Pipeline, config: StageConfig) -> dict[str, Fields]:
        """The fields that ipa manages, by the part of the configuration that sets them.

        Rendering writes them, reading compares them, and a change of that part replaces them.
        """
        batches: dict[Field, object] = {}
        if config.variant not in self.runs.alone:
            # In seconds, in the format of MLServer's env.
            batches = {
                (ENV, BATCH_SIZE): str(config.batch_size),
                (ENV, BATCH_TIME): f"{self.stage.batch_timeout_s:g}",
            }
        amounts = self.runs.requested(pipeline, config.variant)
        beside = sorted(amounts.keys() | self.runs.accelerator_kinds(pipeline))
        return {
            "replicas": {(COMPONENT, "replicas"): config.replicas},
            "cores": {(RESOURCES, "cpu"): cpu_quantity(config.cores)},
            "variant": {
                **{(RESOURCES, resource): amounts.get(resource) for resource in beside},
                **self.runs.fields(config.variant),
            },
            "batch_size": batches,
        }

    def change(self, pipeline: Pipeline, now: StageConfig, then: StageConfig) -> None:
        """Write the fields of the parts in which the configurations differ."""
        for part, fields in self.fields(pipeline, then).items():
            if getattr(now, part) != getattr(then, part):
                self.put(fields)

    def read(self, pipeline: Pipeline, problems: list[str]) -> StageConfig | None:
        """The configuration in the object; None, with problems added, if the pipeline cannot have it."""
        variant, difference = self._recognise(pipeline)
        batch, cores = self._batch_size(variant), self._cores()
        if variant is None:
            problems.append(f"{self.title} runs none of its variants; {difference}")
        problems += [f"{self.title}: {fault}" for fault in (batch, cores) if isinstance(fault, str)]
        if variant is None or isinstance(batch, str) or isinstance(cores, str):
            return None
        return StageConfig(self.stage.name, variant, batch, cores, self.replicas)

    def _recognise(self, pipeline: Pipeline) -> tuple[str | None, str]:
        """The running variant, or None and in words how the nearest one differs from the object."""
        differing: dict[str, list[tuple[str, str]]] = {}
        kinds = sorted(self.runs.accelerator_kinds(pipeline))
        for variant in self.runs.by_variant:
            amounts = self.runs.requested(pipeline, variant)
            fields: dict[Field, str | None] = {(RESOURCES, kind): amounts.get(kind) for kind in kinds}
            differences = differing[variant] = []
            for each, value in (self.runs.fields(variant) | fields).items():
                (part, name), live = each, self.value(each)
                is_same = live == value
                if part == RESOURCES:
                    is_same = parse_quantity(live or 0) == parse_quantity(value or 0)
                if not is_same:
                    shown = ["absent" if it is None else repr(it) for it in (live, value)]
                    words = f"env {name}" if part == ENV else name
                    differences.append((part, f"{words} is {shown[0]}, not {shown[1]}"))
            if not differences:
                return variant, ""
        if not differing:
            return None, f"none of its variants has a `{self.runs.key}:` section"
        # Accelerators tell no variant from another.
        nearest = min(differing, key=lambda name: sum(part != RESOURCES for part, _ in differing[name]))
        return None, f"nearest is {nearest!r}: {'; '.join(words for _, words in differing[nearest])}"

    def _batch_size(self, variant: str | None) -> int | str:
        entry = env_entry(self.container, BATCH_SIZE)
        if entry is None or variant in self.runs.alone:
            return 1
        text = str(entry.get("value", ""))
        if not text.isdecimal():
            return f"env {BATCH_SIZE} is {text!r}, not a whole number"
        # 0 is MLServer's own word for no batching.
        return max(1, int(text))

    def _cores(self) -> float | str:
        amounts = amounts_of(self.container, "cpu")
        if not amounts:
            return "has no resources.requests.cpu and no resources.limits.cpu"
        cores, *others = map(parse_quantity, amounts.values())
        if cores is None or any(other != cores for other in others):
            shown = ", ".join(f"resources.{kind}.cpu is {amount!r}" for kind, amount in amounts.items())
            return f"{shown}; they must be equal"
        return float(cores)


def _put(owner: Json, key: str, value: object) -> None:
    if value is None:
        owner.pop(key, None)
    else:
        owner[key] = value


def env_entry(container: Json, name: str) -> Json | None:
    """The effective entry of that name: of several, Kubernetes takes the last."""
    entries = [entry for entry in container.get("env") or () if entry.get("name") == name]
    return entries[-1] if entries else None


def amounts_of(container: Json, resource: str) -> dict[str, Any]:
    """The container's request and limit of the resource, if present."""
    known = {kind: at(container, RESOURCES, kind) or {} for kind in ("requests", "limits")}
    return {kind: amounts[resource] for kind, amounts in known.items() if resource in amounts}


def container_name(stage: Stage) -> str:
    """The name of the stage's container."""
    return stage.container or stage.name


def bare_container(stage: Stage, *, run_as_root: bool) -> Json:
    """A container for the stage without the fields of its configuration, fit for restricted PodSecurity."""
    context = deepcopy(dict(RESTRICTED)) | {"runAsNonRoot": not run_as_root}
    resources: Json = {"requests": {}, "limits": {}}
    return {"name": container_name(stage), "env": [], "resources": resources, "securityContext": context}


def in_reading_order(container: Json) -> Json:
    """The same container, its keys in the order in which people read them."""
    keys = dict.fromkeys(("name", "image", "env", "resources", "securityContext", *container))
    return {key: container[key] for key in keys if key in container}


def check_variants(pipeline: Pipeline, key: str, place: str) -> None:
    """InputError lists variants that are indistinguishable there, or that set reserved env."""
    problems = [each for stage in pipeline.stages for each in StageRuns(stage, key).problems()]
    if problems:
        raise InputError(
            f"pipeline {pipeline.name!r} cannot run on {place} as written",
            problems=[Problem(problem) for problem in problems],
        )


def check_configs(pipeline: Pipeline, configs: Sequence[StageConfig], faults: Sequence[str] = ()) -> None:
    """InputError lists the faults of configurations that must not be written, and those given.

    These are wrong stages or variants, and numbers below one.
    """
    problems = []
    if [config.stage for config in configs] != [stage.name for stage in pipeline.served]:
        problems.append("there must be one configuration for every stage, in the order of the stages")
    for config in configs:
        # Nothing serves a stage without replicas, and some operators wait for it for ever.
        least = {"replicas": config.replicas, "batch size": config.batch_size}
        problems += [
            f"stage {config.stage!r}: {what} {number} must be 1 or more"
            for what, number in least.items()
            if number < 1
        ]
        if round(config.cores * MILLICORES) < 1:
            problems.append(f"stage {config.stage!r}: cores {config.cores} must be 0.001 or more")
    problems += faults
    if problems:
        raise InputError(
            f"these configurations do not fit pipeline {pipeline.name!r}",
            problems=[Problem(problem) for problem in problems],
        )
