"""Places of a pipeline's stages inside a SeldonDeployment, and its orchestrators."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any

from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.quantity import parse_quantity
from ipa.model.errors import DriftError, InputError, Problem
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.targets.kubernetes.layout import Path, Served
from ipa.targets.seldon.graph import INSIDE_OUT, SPLIT, Nested, nest, split_ratio
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import Json, env_entry, owned_env

SELDON_DEPLOYMENT = ResourceKind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
LABEL_PIPELINE = "ipa-serving/pipeline"
SEPARATE_ENGINE, NO_ENGINE = "seldon.io/engine-separate-pod", "seldon.io/no-engine"
ENDLESS_WRITES = (
    "the operator writes the orchestrator's Deployment for ever, since svcOrchSpec.replicas is not there"
)
AUTOSCALERS = ("hpaSpec", "kedaSpec")
LET_IT = "remove it first, or give the stage `replicas: external` in the pipeline's file"
UNDONE = (
    "and the operator undoes that, as the stage's componentSpec has no hpaSpec and no kedaSpec; give it there"
)
KEDA_LABEL = "scaledobject.keda.sh/name"
# The operator hashes names of Deployments that would not fit a DNS label.
LONGEST_NAME = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLocation(Served):
    """A stage's componentSpec, container and graph node in one SeldonDeployment, and their paths in it.

    `replicas` is what counts of the three levels. In a stage whose replicas are external an autoscaler sets
    those of the Deployment, which count then.
    """

    stage: Stage
    component: Json
    container: Json
    node: Json
    component_path: Path
    container_path: Path
    node_path: Path

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
            got = _amounts(there, kind)
            # As numbers: the server may write 500m as 0.5. What is not asked for may be defaulted.
            for name, amount in _amounts(wanted, kind).items():
                if parse_quantity(got.get(name)) != parse_quantity(amount):
                    return False
        # The operator hands the model URI to an init container that fetches it, as its first argument.
        fetcher = f"{node['name']}-model-initializer"
        found = [init for init in pod.get("initContainers") or () if init["name"] == fetcher]
        return not found or "modelUri" not in node or node["modelUri"] in (found[0].get("args") or ())

    def cores(self, pod: Json) -> float:
        """The cores of the stage's container in a pod or a pod template."""
        containers = (pod.get("spec") or {}).get("containers") or ()
        named = (it for it in containers if it["name"] == self.container["name"])
        return sum(float(parse_quantity(_amounts(it, "requests").get("cpu")) or 0) for it in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorLocation(Served):
    """An orchestrator that has pods of its own, through which requests come in.

    `told` are the places of the stages that it is told of: it serves a change once it knows that change.
    """

    told: tuple[StageLocation, ...]

    def carries(self, pod: Json) -> bool:
        """True if it is told of what the stages run; where it does not say of what, it is."""
        entries = (env_entry(container, "ENGINE_PREDICTOR") for container in pod.get("containers") or ())
        text = next((str(entry.get("value", "")) for entry in entries if entry), "")
        try:
            components = list(json.loads(b64decode(text))["componentSpecs"])
        except (ValueError, KeyError, TypeError):
            return True
        for place in self.told:
            at = int(place.component_path[-1])
            found = components[at] if at < len(components) else {}
            is_same = found.get("replicas") == place.component.get("replicas")
            if not is_same or not place.carries(found.get("spec") or {}):
                return False
        return True


def _amounts(container: Json, kind: str) -> Json:
    return (container.get("resources") or {}).get(kind) or {}


def _containers(component: Json) -> list[Json]:
    """Its containers; the schema lets a componentSpec be without them."""
    return (component.get("spec") or {}).get("containers") or []


def _predictors(sdep: Json) -> list[Json]:
    return (sdep.get("spec") or {}).get("predictors") or []


def _scalers(component: Json) -> list[str]:
    """The autoscalers that the componentSpec asks the operator for."""
    return [scaler for scaler in AUTOSCALERS if component.get(scaler)]


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


def deployment_name(target: SeldonTarget, component: Json, index: int) -> str:
    """The name the operator gives to the Deployment of a componentSpec."""
    containers = [container["name"] for container in _containers(component)]
    name = "-".join([target.name, target.predictor, str(index), *containers])
    if len(name) <= LONGEST_NAME:
        return name
    return f"seldon-{md5(name.encode(), usedforsecurity=False).hexdigest()}"


def deployments_of(sdep: Json) -> list[str]:
    """The names of the Deployments that the operator makes of its componentSpecs."""
    name = str(sdep["metadata"]["name"])
    return [
        deployment_name(SeldonTarget(name, predictor=str(predictor["name"])), component, index)
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
    owner = (sdep["metadata"].get("labels") or {}).get(LABEL_PIPELINE)
    if owner not in (None, pipeline.name):
        problems.append(f"label {LABEL_PIPELINE} names pipeline {owner!r}")
    names = [predictor["name"] for predictor in _predictors(sdep)]
    if names.count(target.predictor) != 1:
        has = ", ".join(names) or "(none)"
        problems.append(f"has predictors {has}; exactly one must be {target.predictor!r}")
        raise drift(pipeline, problems)
    index = names.index(target.predictor)
    nodes = list(nodes_of(_predictors(sdep)[index]["graph"], ("spec", "predictors", index, "graph")))
    problems += _misplaced(nest(pipeline), nodes)
    places: list[StageLocation] = []
    for stage in pipeline.served:
        place = _place(stage, sdep, index, nodes, problems)
        if place is None:
            continue
        if place.component_path in {other.component_path for other in places}:
            problems.append(f"stage {stage.name!r} shares its componentSpec with another stage")
        places.append(place)
    if problems:
        raise drift(pipeline, problems)
    return tuple(places)


def nodes_of(node: Json, path: Path = ()) -> Iterator[tuple[Path, Json]]:
    """The node and all inside it, each with its path."""
    yield path, node
    for index, child in enumerate(node.get("children") or ()):
        yield from nodes_of(child, (*path, "children", index))


def _misplaced(nested: Nested, nodes: list[tuple[Path, Json]]) -> list[str]:
    """Every node of a stage that is of another type, or not right inside the node it should be in.

    Nodes of other people may be between them. Where a node is not there once, `_place` says so.
    """
    wanted = {container_name(each.stage): (each, above) for each, above in nested.walk()}
    paths = {node["name"]: path for path, node in nodes if node["name"] in wanted}
    faults = []
    for path, node in nodes:
        name = node["name"]
        if name not in wanted:
            continue
        each, parent = wanted[name]
        inside = [other for other, place in paths.items() if place != path and path[: len(place)] == place]
        nearest = max(inside, key=lambda other: len(paths[other]), default=None)
        if nearest != (None if parent is None else container_name(parent)):
            where = "the outermost" if parent is None else f"below {container_name(parent)!r}"
            faults.append(f"graph node {name!r} is not {where}")
        stage = each.stage
        if not stage.variants:
            ratio = split_ratio(each)
            if node.get("implementation") != SPLIT or list(node.get("parameters") or ()) != [ratio]:
                only = f"{ratio['name']} {ratio['value']} alone"
                faults.append(f"graph node {name!r} is not a {SPLIT} with {only}")
        # A model may be run as any type that is called before its children: that is its owner's affair.
        elif stage.kind in (*INSIDE_OUT, StageKind.ROUTER) and node.get("type") != node_type(stage):
            faults.append(f"graph node {name!r} is of type {node.get('type')}, not {node_type(stage)}")
    missing = [name for name, (each, _) in wanted.items() if not each.stage.variants and name not in paths]
    return faults + [f"there is no graph node {name!r}" for name in missing]


def _place(
    stage: Stage, sdep: Json, predictor: int, nodes: list[tuple[Path, Json]], problems: list[str]
) -> StageLocation | None:
    """The stage's place; None if it is not there once, which is added to the problems."""
    name, title = container_name(stage), f"stage {stage.name!r}"
    whole = _predictors(sdep)[predictor]
    found = [
        (at, inside)
        for at, component in enumerate(whole.get("componentSpecs") or ())
        for inside, one in enumerate(_containers(component))
        if one["name"] == name
    ]
    node = [(path, value) for path, value in nodes if value["name"] == name]
    for what, places in (("containers", found), ("graph nodes", node)):
        if len(places) != 1:
            problems.append(f"{title}: {len(places)} {what} are named {name!r} instead of one")
    if len(found) != 1 or len(node) != 1:
        return None
    [(at, inside)], [(node_path, node_there)] = found, node
    component = whole["componentSpecs"][at]
    problems += [
        f"{title} has {scaler}: another controller owns its replicas; {LET_IT}"
        for scaler in _scalers(component)
        if not stage.is_external
    ]
    levels = (component.get("replicas"), whole.get("replicas"), sdep["spec"].get("replicas"))
    path: Path = ("spec", "predictors", predictor, "componentSpecs", at)
    target = SeldonTarget(str(sdep["metadata"]["name"]), predictor=whole["name"])
    return StageLocation(
        deployment=deployment_name(target, component, at),
        replicas=next((level for level in levels if level is not None), 1),
        title=title,
        is_external=stage.is_external,
        stage=stage,
        component=component,
        container=_containers(component)[inside],
        node=node_there,
        component_path=path,
        container_path=(*path, "spec", "containers", inside),
        node_path=node_path,
    )


def _separate_orchestrators(sdep: Json) -> Iterator[tuple[int, Json, int | None]]:
    """The place of each predictor whose orchestrator has pods of its own, it, and how many there are.

    None if no level says how many: the operator then writes its Deployment for ever.
    """
    spec = sdep.get("spec") or {}
    for at, predictor in enumerate(_predictors(sdep)):
        own = {**(spec.get("annotations") or {}), **(predictor.get("annotations") or {})}
        is_on = {name: str(own.get(name)).lower() == "true" for name in (SEPARATE_ENGINE, NO_ENGINE)}
        if is_on[SEPARATE_ENGINE] and not is_on[NO_ENGINE]:
            levels = (
                level.get("replicas") for level in (predictor.get("svcOrchSpec") or {}, predictor, spec)
            )
            yield at, predictor, next((level for level in levels if level is not None), None)


def unsaid_orchestrators(sdep: Json) -> list[int]:
    """The places of the predictors where `svcOrchSpec.replicas` is missing and the operator needs it."""
    return [at for at, _, replicas in _separate_orchestrators(sdep) if replicas is None]


def orchestrators(sdep: Json, places: Sequence[StageLocation] = ()) -> tuple[OrchestratorLocation, ...]:
    """The orchestrators that have pods of their own, with those of the places that each is told of."""
    return tuple(
        OrchestratorLocation(
            deployment=f"{sdep['metadata']['name']}-{predictor['name']}-svc-orch",
            replicas=1 if replicas is None else replicas,
            title="the orchestrator",
            follows=True,
            told=tuple(place for place in places if place.component_path[2] == at),
        )
        for at, predictor, replicas in _separate_orchestrators(sdep)
    )


def orchestrator_remedy(sdep: Json) -> str:
    """The command that says how many orchestrators there are, for each predictor that does not."""
    operations: list[dict[str, object]] = []
    for at in unsaid_orchestrators(sdep):
        pointer = f"/spec/predictors/{at}/svcOrchSpec"
        if _predictors(sdep)[at].get("svcOrchSpec") is None:
            operations.append({"op": "add", "path": pointer, "value": {"replicas": 1}})
        else:
            operations.append({"op": "add", "path": f"{pointer}/replicas", "value": 1})
    metadata = sdep.get("metadata") or {}
    place = f"{metadata.get('name', 'NAME')} -n {metadata.get('namespace', 'default')}"
    return f"kubectl patch sdep {place} --type=json -p '{json.dumps(operations)}'"


def drift(pipeline: Pipeline, problems: list[str]) -> DriftError:
    """The refusal to touch an object that is not as its pipeline says."""
    target = target_of(pipeline)
    return DriftError(
        f"SeldonDeployment {target.namespace}/{target.name} does not match pipeline {pipeline.name!r}",
        problems=[Problem(problem) for problem in problems],
        hint="Restore it, or change the pipeline's file to match; until then it is not written.",
    )


def check_autoscalers(
    pipeline: Pipeline, sdeps: Sequence[str], places: Sequence[StageLocation], autoscalers: Sequence[Json]
) -> None:
    """DriftError names every stage whose Deployment, or SeldonDeployment, another controller scales.

    It undoes every change of ours, and we its; a stage whose replicas are external expects it. KEDA's
    ScaledObjects need no look of their own: each makes a HorizontalPodAutoscaler.
    """
    stages = {place.deployment: place for place in places}
    problems, all_external = [], all(place.is_external for place in places)
    for autoscaler in autoscalers:
        metadata, spec = autoscaler["metadata"], autoscaler.get("spec") or {}
        target = spec.get("scaleTargetRef") or {}
        kind, name = target.get("kind"), str(target.get("name", ""))
        scaled = (metadata.get("labels") or {}).get(KEDA_LABEL)
        made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
        words = f"HorizontalPodAutoscaler {metadata['name']!r}{made_by} scales {kind} {name}"
        owned = f"{words}: another controller owns its replicas; {LET_IT}"
        if kind == "Deployment" and name in stages:
            place = stages[name]
            if not place.is_external:
                problems.append(f"{place.title}: {owned}")
            elif not _scalers(place.component):
                problems.append(f"{place.title}: {words}, {UNDONE}")
        elif kind == SELDON_DEPLOYMENT.kind and name in sdeps and not all_external:
            problems.append(f"every stage: {owned}")
    if problems:
        raise drift(pipeline, problems)


def unscaled(pipeline: Pipeline, sdep: Json) -> list[str]:
    """The stages in the object whose replicas are external and that have no autoscaler of their own.

    None if all stages are external: one of the whole object may scale them.
    """
    if len(pipeline.external) == len(pipeline.served):
        return []
    names = {container_name(stage): stage.name for stage in pipeline.served if stage.is_external}
    return [
        names[container["name"]]
        for predictor in _predictors(sdep)
        for component in predictor.get("componentSpecs") or ()
        for container in _containers(component)
        if container["name"] in names and not _scalers(component)
    ]
