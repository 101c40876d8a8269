"""Places of a pipeline's stages and orchestrators inside a SeldonDeployment, and the fields there."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any

from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.quantity import parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError, Problem
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.targets.kubernetes.layout import Served, at
from ipa.targets.seldon.graph import INSIDE_OUT, SPLIT, Nested, nest, nodes_of
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import ENV, RESOURCES, Field, owned_env

SELDON_DEPLOYMENT = ResourceKind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
LABEL_PIPELINE = "ipa-serving/pipeline"
SEPARATE_ENGINE, NO_ENGINE = "seldon.io/engine-separate-pod", "seldon.io/no-engine"
ENDLESS_WRITES = (
    "the operator writes the orchestrator's Deployment for ever, since svcOrchSpec.replicas is not there"
)
AUTOSCALERS = ("hpaSpec", "kedaSpec")
REMOVE_IT = "another controller owns its replicas; remove it first"
KEDA_LABEL = "scaledobject.keda.sh/name"
# The operator hashes names of Deployments that would not fit a DNS label.
LONGEST_NAME = 63

FROM_ELSEWHERE = "a value from elsewhere (valueFrom)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLocation(Served):
    """A stage's componentSpec, container and graph node, the parts themselves of one SeldonDeployment.

    `predictor` and `index` are the places of its predictor, and of the componentSpec in that. `replicas` is
    what counts of the three levels.
    """

    stage: Stage
    component: Json
    container: Json
    node: Json
    predictor: int = 0
    index: int = 0

    def value(self, field: Field) -> object:
        """The field's value; None if it is not there.

        Of resources the limit, which Kubernetes takes for the request of an extended one.
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

    def put(self, fields: Mapping[Field, object]) -> None:
        """Give the fields their values; one of None is removed."""
        for (part, name), value in fields.items():
            if part == ENV:
                self._put_env(name, value)
            elif part != RESOURCES:
                _put(getattr(self, part), name, value)
            else:
                for kind in ("requests", "limits"):
                    amounts = at(self.container, RESOURCES, kind) or {}
                    if value is not None or name in amounts:
                        self.container[RESOURCES] = self.container.get(RESOURCES) or {}
                        self.container[RESOURCES][kind] = amounts
                        _put(amounts, name, value)

    def _put_env(self, name: str, value: object) -> None:
        entry, env = env_entry(self.container, name), self.container.get("env") or ()
        if entry is not None and value is not None:
            entry["value"] = value
        elif value is not None:
            self.container["env"] = [*env, {"name": name, "value": value}]
        elif entry is not None:
            self.container["env"] = [it for it in env if it.get("name") != name]

    def carries(self, pod: Json) -> bool:
        """True if the pod, or pod template, has the stage's container as in the SeldonDeployment."""
        wanted, node = self.container, self.node
        there = next((it for it in pod.get("containers") or () if it["name"] == wanted["name"]), None)
        if there is None or ("image" in wanted and there.get("image") != wanted["image"]):
            return False
        # Ours alone: the operator sets env of its own over what others have put there.
        for name in owned_env(self.stage):
            entry, got = env_entry(wanted, name), env_entry(there, name)
            if entry is not None and (got is None or got.get("value", "") != entry.get("value", "")):
                return False
        for kind in ("requests", "limits"):
            # As numbers: the server may write 500m as 0.5. What is not asked for may be defaulted.
            for name, amount in (at(wanted, RESOURCES, kind) or {}).items():
                if parse_quantity(at(there, RESOURCES, kind, name)) != parse_quantity(amount):
                    return False
        # The operator hands the model URI to an init container that fetches it, as its first argument.
        fetcher = f"{node['name']}-model-initializer"
        found = [init for init in pod.get("initContainers") or () if init["name"] == fetcher]
        return not found or "modelUri" not in node or node["modelUri"] in (found[0].get("args") or ())

    def cores(self, pod: Json) -> float:
        """The cores of the stage's container in a pod or a pod template."""
        named = (it for it in at(pod, "spec", "containers") or () if it["name"] == self.container["name"])
        return sum(float(parse_quantity(at(it, RESOURCES, "requests", "cpu")) or 0) for it in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorLocation(Served):
    """An orchestrator that has pods of its own, through which requests come in.

    `told` are the places of the stages that it is told of: it serves a change once it knows that change.
    `predictor` is the place of its predictor. `is_endless`: no level says how many there are, so that the
    operator writes its Deployment for ever.
    """

    told: tuple[StageLocation, ...]
    predictor: int
    is_endless: bool

    def carries(self, pod: Json) -> bool:
        """True if it is told of what the stages run; where it does not say of what, it is."""
        entries = (env_entry(container, "ENGINE_PREDICTOR") for container in pod.get("containers") or ())
        text = next((str(entry.get("value", "")) for entry in entries if entry), "")
        try:
            components = list(json.loads(b64decode(text))["componentSpecs"])
        except (ValueError, KeyError, TypeError):
            return True
        for place in self.told:
            found = components[place.index] if place.index < len(components) else {}
            is_same = found.get("replicas") == place.component.get("replicas")
            if not is_same or not place.carries(found.get("spec") or {}):
                return False
        return True


def _put(owner: Json, key: str, value: object) -> None:
    if value is None:
        owner.pop(key, None)
    else:
        owner[key] = value


def env_entry(container: Json, name: str) -> Json | None:
    """The entry of that name that counts: of several, Kubernetes takes the last."""
    entries = [entry for entry in container.get("env") or () if entry.get("name") == name]
    return entries[-1] if entries else None


def containers_of(component: Json) -> list[Json]:
    """The containers of a componentSpec; the schema lets it be without them."""
    return at(component, "spec", "containers") or []


def _predictors(sdep: Json) -> list[Json]:
    return at(sdep, "spec", "predictors") or []


def target_of(pipeline: Pipeline) -> SeldonTarget:
    """The pipeline's `seldon:` section, which names its SeldonDeployment. InputError without one."""
    found = seldon_of(pipeline)
    if found is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no `seldon:` section",
            hint="Add `seldon: {name: ..., namespace: ..., predictor: ...}`.",
        )
    return found


def container_name(stage: Stage) -> str:
    """The name of the stage's container and graph node."""
    return stage.container or stage.name


def node_type(stage: Stage) -> str:
    """The type of the stage's graph node."""
    return stage.kind.upper().replace("-", "_")


def object_of(target: SeldonTarget, spec: dict[str, Any], labels: Json) -> dict[str, Any]:
    """The SeldonDeployment of that name with that spec."""
    return {
        "apiVersion": SELDON_DEPLOYMENT.api_version,
        "kind": SELDON_DEPLOYMENT.kind,
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "labels": {"app.kubernetes.io/managed-by": "ipa-serving", **labels},
        },
        "spec": spec,
    }


def _deployment_name(sdep: Json, predictor: Json, component: Json, index: int) -> str:
    """The name the operator gives to the Deployment of a componentSpec."""
    containers = [container["name"] for container in containers_of(component)]
    name = "-".join([str(sdep["metadata"]["name"]), str(predictor["name"]), str(index), *containers])
    if len(name) <= LONGEST_NAME:
        return name
    return f"seldon-{md5(name.encode(), usedforsecurity=False).hexdigest()}"


def deployments_of(sdep: Json) -> list[str]:
    """The names of the Deployments that the operator makes of its componentSpecs."""
    return [
        _deployment_name(sdep, predictor, component, index)
        for predictor in _predictors(sdep)
        for index, component in enumerate(predictor.get("componentSpecs") or ())
    ]


def locate(pipeline: Pipeline, sdep: Json) -> tuple[StageLocation, ...]:
    """The place of every stage, in order.

    DriftError lists every stage that is not where its pipeline says, or whose replicas another controller
    owns; the object is then not written to.
    """
    target = target_of(pipeline)
    problems: list[str] = []
    owner = at(sdep, "metadata", "labels", LABEL_PIPELINE)
    if owner not in (None, pipeline.name):
        problems.append(f"label {LABEL_PIPELINE} names pipeline {owner!r}")
    names = [predictor["name"] for predictor in _predictors(sdep)]
    if names.count(target.predictor) != 1:
        has = ", ".join(names) or "(none)"
        problems.append(f"has predictors {has}; exactly one must be {target.predictor!r}")
        raise drift(pipeline, problems)
    index = names.index(target.predictor)
    nodes = list(nodes_of(_predictors(sdep)[index]["graph"]))
    problems += _misplaced(nest(pipeline), nodes)
    places: list[StageLocation] = []
    for stage in pipeline.served:
        place = _place(stage, sdep, index, nodes, problems)
        if place is None:
            continue
        if place.index in {other.index for other in places}:
            problems.append(f"stage {stage.name!r} shares its componentSpec with another stage")
        places.append(place)
    if problems:
        raise drift(pipeline, problems)
    return tuple(places)


def _misplaced(nested: Nested, nodes: list[tuple[tuple[str, ...], Json]]) -> list[str]:
    """Every node of a stage that is of another type, or not right inside the node it should be in.

    Nodes of other people may be between them. Where a node is not there once, `_place` says so.
    """
    wanted = {container_name(each.stage): (each, parent) for each, parent in nested.walk()}
    faults = []
    for above, node in nodes:
        name = node["name"]
        if name not in wanted:
            continue
        each, parent = wanted[name]
        nearest = next((other for other in reversed(above) if other in wanted and other != name), None)
        if nearest != (None if parent is None else container_name(parent)):
            where = "the outermost" if parent is None else f"below {container_name(parent)!r}"
            faults.append(f"graph node {name!r} is not {where}")
        stage = each.stage
        if not stage.variants:
            ratio = each.ratio
            if node.get("implementation") != SPLIT or list(node.get("parameters") or ()) != [ratio]:
                only = f"{ratio['name']} {ratio['value']} alone"
                faults.append(f"graph node {name!r} is not a {SPLIT} with {only}")
        # A model may be run as any type that is called before its children: that is its owner's affair.
        elif stage.kind in (*INSIDE_OUT, StageKind.ROUTER) and node.get("type") != node_type(stage):
            faults.append(f"graph node {name!r} is of type {node.get('type')}, not {node_type(stage)}")
    there = {node["name"] for _, node in nodes}
    missing = [name for name, (each, _) in wanted.items() if not each.stage.variants and name not in there]
    return faults + [f"there is no graph node {name!r}" for name in missing]


def _place(
    stage: Stage, sdep: Json, predictor: int, nodes: list[tuple[tuple[str, ...], Json]], problems: list[str]
) -> StageLocation | None:
    """The stage's place; None if it is not there once, which is added to the problems."""
    name, title = container_name(stage), f"stage {stage.name!r}"
    whole = _predictors(sdep)[predictor]
    found = [
        (index, component, container)
        for index, component in enumerate(whole.get("componentSpecs") or ())
        for container in containers_of(component)
        if container["name"] == name
    ]
    named = [node for _, node in nodes if node["name"] == name]
    for what, count in (("containers", len(found)), ("graph nodes", len(named))):
        if count != 1:
            problems.append(f"{title}: {count} {what} are named {name!r} instead of one")
    if len(found) != 1 or len(named) != 1:
        return None
    [(index, component, container)], [node] = found, named
    problems += [f"{title} has {scaler}: {REMOVE_IT}" for scaler in AUTOSCALERS if component.get(scaler)]
    levels = (component.get("replicas"), whole.get("replicas"), sdep["spec"].get("replicas"))
    return StageLocation(
        deployment=_deployment_name(sdep, whole, component, index),
        replicas=next((level for level in levels if level is not None), 1),
        title=title,
        stage=stage,
        component=component,
        container=container,
        node=node,
        predictor=predictor,
        index=index,
    )


def orchestrators(sdep: Json, places: Sequence[StageLocation] = ()) -> tuple[OrchestratorLocation, ...]:
    """The orchestrators that have pods of their own, with those of the places that each is told of."""
    return tuple(_orchestrators(sdep, places))


def _orchestrators(sdep: Json, places: Sequence[StageLocation]) -> Iterator[OrchestratorLocation]:
    spec = sdep.get("spec") or {}
    for index, predictor in enumerate(_predictors(sdep)):
        own = {**(spec.get("annotations") or {}), **(predictor.get("annotations") or {})}
        is_separate, has_none = (str(own.get(it)).lower() == "true" for it in (SEPARATE_ENGINE, NO_ENGINE))
        if is_separate and not has_none:
            levels = (it.get("replicas") for it in (predictor.get("svcOrchSpec") or {}, predictor, spec))
            replicas = next((level for level in levels if level is not None), None)
            yield OrchestratorLocation(
                deployment=f"{at(sdep, 'metadata', 'name')}-{predictor.get('name')}-svc-orch",
                replicas=1 if replicas is None else replicas,
                title="the orchestrator",
                follows=True,
                told=tuple(place for place in places if place.predictor == index),
                predictor=index,
                is_endless=replicas is None,
            )


def orchestrator_remedy(sdep: Json) -> str:
    """The command that says how many orchestrators there are; empty if each predictor does."""
    operations: list[dict[str, object]] = []
    for each in orchestrators(sdep):
        pointer = f"/spec/predictors/{each.predictor}/svcOrchSpec"
        is_there = _predictors(sdep)[each.predictor].get("svcOrchSpec") is not None
        path, value = (f"{pointer}/replicas", 1) if is_there else (pointer, {"replicas": 1})
        if each.is_endless:
            operations.append({"op": "add", "path": path, "value": value})
    metadata = sdep.get("metadata") or {}
    place = f"{metadata.get('name', 'NAME')} -n {metadata.get('namespace', 'default')}"
    return f"kubectl patch sdep {place} --type=json -p '{json.dumps(operations)}'" if operations else ""


def drift(pipeline: Pipeline, problems: list[str]) -> DriftError:
    """The refusal to touch an object that is not as its pipeline says."""
    target = target_of(pipeline)
    return DriftError(
        f"SeldonDeployment {target.namespace}/{target.name} does not match pipeline {pipeline.name!r}",
        problems=[Problem(problem) for problem in problems],
        hint="Restore it, or change the pipeline's file to match; until then it is not written.",
    )
