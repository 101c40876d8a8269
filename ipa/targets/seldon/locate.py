"""Where the stages of a pipeline are inside a SeldonDeployment."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import md5

from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.quantity import parse_quantity
from ipa.model.errors import DriftError, InputError, Problem
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.targets.kubernetes.layout import Path
from ipa.targets.seldon.graph import INSIDE_OUT, SPLIT, Nested, nest, split_ratio
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import Json, env_entry, owned_env

SELDON_DEPLOYMENT = ResourceKind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
LABEL_PIPELINE = "ipa-serving/pipeline"
SEPARATE_ENGINE = "seldon.io/engine-separate-pod"
ENDLESS_WRITES = (
    "the operator writes the orchestrator's Deployment for ever, since svcOrchSpec.replicas is not there"
)
NO_ENGINE = "seldon.io/no-engine"
AUTOSCALERS = ("hpaSpec", "kedaSpec")
LET_IT = "remove it first, or give the stage `replicas: external` in the pipeline's file"
# The operator hashes names of Deployments that would not fit a DNS label.
LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class StageLocation:
    """A stage's componentSpec, container and graph node in one SeldonDeployment, and their paths in it.

    `replicas` is what counts of the three levels, `deployment` the name of the Deployment made of it. In a
    stage whose replicas are external an autoscaler sets those of the Deployment, which count then
    (`as_scaled`).
    """

    stage: Stage
    component: Json
    container: Json
    node: Json
    component_path: Path
    container_path: Path
    node_path: Path
    replicas: int
    deployment: str
    follows: bool = False

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"stage {self.stage.name!r}"

    @property
    def is_external(self) -> bool:
        """True if another controller decides its replicas."""
        return self.stage.is_external

    def as_scaled(self, deployment: Json | None) -> StageLocation:
        """With the replicas of its Deployment if they are external, and it is there; else as it is."""
        replicas = ((deployment or {}).get("spec") or {}).get("replicas")
        return replace(self, replicas=int(replicas)) if self.is_external and replicas else self

    def carries(self, pod: Json) -> bool:
        """True if the pod, or pod template, has the stage's container as in the SeldonDeployment."""
        wanted = self.container
        there = next((it for it in pod.get("containers") or () if it["name"] == wanted["name"]), None)
        if there is None or ("image" in wanted and there.get("image") != wanted["image"]):
            return False
        # Ours alone: the operator sets env of its own over what others have put there.
        for name in owned_env(self.stage):
            entry, got = env_entry(wanted, name), env_entry(there, name)
            if entry is not None and (got is None or got.get("value", "") != entry.get("value", "")):
                return False
        return _has_same_resources(wanted, there) and _has_same_model(self.node, pod)

    def cores(self, pod: Json) -> float:
        """The cores of the stage's container in a pod or a pod template."""
        containers = (pod.get("spec") or {}).get("containers") or ()
        named = (it for it in containers if it["name"] == self.container["name"])
        return sum(float(parse_quantity(_amounts(it, "requests").get("cpu")) or 0) for it in named)


@dataclass(frozen=True, slots=True)
class OrchestratorLocation:
    """An orchestrator that has pods of its own, through which requests come in.

    `told` are the places of the stages that it is told of: it serves a change once it knows that change.
    """

    deployment: str
    replicas: int
    told: tuple[StageLocation, ...]
    title: str = "the orchestrator"
    is_external: bool = False
    follows: bool = True

    def as_scaled(self, deployment: Json | None) -> OrchestratorLocation:
        """As it is."""
        return self

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

    def cores(self, pod: Json) -> float:
        """0: they are counted beside the stages."""
        return 0.0


def _amounts(container: Json, kind: str) -> Json:
    return (container.get("resources") or {}).get(kind) or {}


def _has_same_resources(wanted: Json, there: Json) -> bool:
    """Compared as numbers: the server may write 500m as 0.5. What is not asked for may be defaulted."""
    return all(
        parse_quantity(_amounts(there, kind).get(name)) == parse_quantity(amount)
        for kind in ("requests", "limits")
        for name, amount in _amounts(wanted, kind).items()
    )


def _has_same_model(node: Json, pod: Json) -> bool:
    """The operator hands the model URI to an init container that fetches it, as its first argument."""
    fetchers = [
        init
        for init in pod.get("initContainers") or ()
        if init["name"] == f"{node['name']}-model-initializer"
    ]
    return not fetchers or "modelUri" not in node or node["modelUri"] in (fetchers[0].get("args") or ())


def _containers(component: Json) -> list[Json]:
    """Its containers; the schema lets a componentSpec be without them."""
    return (component.get("spec") or {}).get("containers") or []


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


def deployment_name(target: SeldonTarget, component: Json, index: int) -> str:
    """The name the operator gives to the Deployment of a componentSpec."""
    containers = [container["name"] for container in _containers(component)]
    name = "-".join([target.name, target.predictor, str(index), *containers])
    return (
        name
        if len(name) <= LONGEST_NAME
        else f"seldon-{md5(name.encode(), usedforsecurity=False).hexdigest()}"
    )


def deployments_of(sdep: Json) -> list[str]:
    """The names of the Deployments that the operator makes of its componentSpecs."""
    name = str(sdep["metadata"]["name"])
    return [
        deployment_name(SeldonTarget(name, predictor=str(predictor["name"])), component, index)
        for predictor in (sdep.get("spec") or {}).get("predictors") or ()
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
    predictors = (sdep.get("spec") or {}).get("predictors") or []
    names = [predictor["name"] for predictor in predictors]
    if names.count(target.predictor) != 1:
        raise drift(
            pipeline,
            [
                *problems,
                f"has predictors {', '.join(names) or '(none)'}; exactly one must be {target.predictor!r}",
            ],
        )
    index = names.index(target.predictor)
    nodes = list(_nodes(predictors[index]["graph"], ("spec", "predictors", index, "graph")))
    problems.extend(_misplaced(nest(pipeline), nodes))
    places: list[StageLocation] = []
    for stage in pipeline.served:
        place, faults = _place(stage, sdep, index, nodes, target)
        problems.extend(faults)
        if place is None:
            continue
        if place.component_path in {other.component_path for other in places}:
            problems.append(f"stage {stage.name!r} shares its componentSpec with another stage")
        places.append(place)
    if problems:
        raise drift(pipeline, problems)
    return tuple(places)


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
        faults.extend(_wrong_node(each, node))
    missing = [name for name, (each, _) in wanted.items() if not each.stage.variants and name not in paths]
    return faults + [f"there is no graph node {name!r}" for name in missing]


def _wrong_node(nested: Nested, node: Json) -> list[str]:
    """The faults of a node that make the executor call it differently than the pipeline's file requires."""
    stage, name = nested.stage, node["name"]
    if not stage.variants:
        wanted = split_ratio(nested)
        if node.get("implementation") == SPLIT and list(node.get("parameters") or ()) == [wanted]:
            return []
        return [f"graph node {name!r} is not a {SPLIT} with {wanted['name']} {wanted['value']} alone"]
    # A model may be run as any type that is called before its children: that is its owner's affair.
    strict = stage.kind in (*INSIDE_OUT, StageKind.ROUTER)
    if strict and node.get("type") != node_type(stage):
        return [f"graph node {name!r} is of type {node.get('type')}, not {node_type(stage)}"]
    return []


def _place(
    stage: Stage, sdep: Json, predictor: int, nodes: list[tuple[Path, Json]], target: SeldonTarget
) -> tuple[StageLocation | None, list[str]]:
    name = container_name(stage)
    whole = sdep["spec"]["predictors"][predictor]
    found = [
        (("spec", "predictors", predictor, "componentSpecs", component), ("spec", "containers", container))
        for component, spec in enumerate(whole.get("componentSpecs") or ())
        for container, one in enumerate(_containers(spec))
        if one["name"] == name
    ]
    node = [(path, value) for path, value in nodes if value["name"] == name]
    faults = []
    if len(found) != 1:
        faults.append(f"stage {stage.name!r}: {len(found)} containers are named {name!r} instead of one")
    if len(node) != 1:
        faults.append(f"stage {stage.name!r}: {len(node)} graph nodes are named {name!r} instead of one")
    if faults:
        return None, faults
    component_path, inside = found[0]
    component = whole["componentSpecs"][component_path[-1]]
    faults = [
        f"stage {stage.name!r} has {scaler}: another controller owns its replicas; {LET_IT}"
        for scaler in AUTOSCALERS
        if component.get(scaler) and not stage.is_external
    ]
    levels = (component.get("replicas"), whole.get("replicas"), sdep["spec"].get("replicas"))
    return StageLocation(
        stage=stage,
        component=component,
        container=_containers(component)[int(inside[-1])],
        node=node[0][1],
        component_path=component_path,
        container_path=component_path + inside,
        node_path=node[0][0],
        replicas=next((level for level in levels if level is not None), 1),
        deployment=deployment_name(target, component, int(component_path[-1])),
    ), faults


def unsaid_orchestrators(sdep: Json) -> list[Path]:
    """The path to the `svcOrchSpec.replicas` of each predictor where it is missing and the operator needs it.

    That is of an orchestrator with a pod of its own for which no level says how many there are: the operator
    then writes its Deployment for ever.
    """
    spec = sdep.get("spec") or {}
    found: list[Path] = []
    for at, predictor in _with_separate_orchestrator(sdep):
        said = (predictor.get("svcOrchSpec") or {}, predictor, spec)
        if all(level.get("replicas") is None for level in said):
            found.append(("spec", "predictors", at, "svcOrchSpec", "replicas"))
    return found


def orchestrators(sdep: Json, places: Sequence[StageLocation] = ()) -> tuple[OrchestratorLocation, ...]:
    """The orchestrators that have pods of their own, with those of the places that each is told of."""
    name, spec = sdep["metadata"]["name"], sdep["spec"]
    found = []
    for at, predictor in _with_separate_orchestrator(sdep):
        levels = (level.get("replicas") for level in (predictor.get("svcOrchSpec") or {}, predictor, spec))
        told = tuple(place for place in places if place.component_path[2] == at)
        replicas = next((level for level in levels if level is not None), 1)
        found.append(OrchestratorLocation(f"{name}-{predictor['name']}-svc-orch", replicas, told))
    return tuple(found)


def _with_separate_orchestrator(sdep: Json) -> Iterator[tuple[int, Json]]:
    """The predictors whose orchestrator has a pod of its own, each with its place."""
    spec = sdep.get("spec") or {}
    shared = spec.get("annotations") or {}
    for at, predictor in enumerate(spec.get("predictors") or ()):
        own = {**shared, **(predictor.get("annotations") or {})}
        if _is_on(own, SEPARATE_ENGINE) and not _is_on(own, NO_ENGINE):
            yield at, predictor


def orchestrator_remedy(sdep: Json) -> str:
    """The command that says how many orchestrators there are, for each predictor that does not."""
    operations: list[dict[str, object]] = []
    for path in unsaid_orchestrators(sdep):
        *_, at, key, name = path
        predictor = sdep["spec"]["predictors"][at]
        pointer = f"/spec/predictors/{at}/{key}"
        if predictor.get(key) is None:
            operations.append({"op": "add", "path": pointer, "value": {name: 1}})
        else:
            operations.append({"op": "add", "path": f"{pointer}/{name}", "value": 1})
    metadata = sdep.get("metadata") or {}
    place = f"{metadata.get('name', 'NAME')} -n {metadata.get('namespace', 'default')}"
    return f"kubectl patch sdep {place} --type=json -p '{json.dumps(operations)}'"


def _is_on(annotations: Json, name: str) -> bool:
    return str(annotations.get(name)).lower() == "true"


def _nodes(node: Json, path: Path) -> Iterator[tuple[Path, Json]]:
    yield path, node
    for index, child in enumerate(node.get("children") or ()):
        yield from _nodes(child, (*path, "children", index))


def drift(pipeline: Pipeline, problems: list[str]) -> DriftError:
    """The refusal to touch an object that is not as its pipeline says."""
    target = target_of(pipeline)
    return DriftError(
        f"SeldonDeployment {target.namespace}/{target.name} does not match pipeline {pipeline.name!r}",
        problems=[Problem(problem) for problem in problems],
        hint="Restore it, or change the pipeline's file to match; until then it is not written.",
    )


KEDA_LABEL = "scaledobject.keda.sh/name"


def check_autoscalers(
    pipeline: Pipeline, sdeps: Sequence[str], places: Sequence[StageLocation], autoscalers: Sequence[Json]
) -> None:
    """DriftError names every stage whose Deployment, or SeldonDeployment, another controller scales.

    It undoes every change of ours, and we its; a stage whose replicas are external expects it. KEDA's
    ScaledObjects need no look of their own: each makes a HorizontalPodAutoscaler.
    """
    stages = {place.deployment: place for place in places}
    problems, all_external = [], all(place.stage.is_external for place in places)
    for autoscaler in autoscalers:
        target = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
        kind, name = target.get("kind"), str(target.get("name", ""))
        words = f"{_named(autoscaler)} scales {kind} {name}"
        owned = f"{words}: another controller owns its replicas; {LET_IT}"
        if kind == "Deployment" and name in stages:
            place = stages[name]
            if not place.stage.is_external:
                problems.append(f"stage {place.stage.name!r}: {owned}")
            elif not is_autoscaled(place):
                problems.append(f"stage {place.stage.name!r}: {words}, {UNDONE}")
        elif kind == SELDON_DEPLOYMENT.kind and name in sdeps and not all_external:
            problems.append(f"every stage: {owned}")
    if problems:
        raise drift(pipeline, problems)


UNDONE = (
    "and the operator undoes that, as the stage's componentSpec has no hpaSpec and no kedaSpec; give it there"
)


def is_autoscaled(place: StageLocation) -> bool:
    """True if the operator leaves the replicas of the Deployment to an autoscaler that it made for it."""
    return any(place.component.get(scaler) for scaler in AUTOSCALERS)


def unscaled(pipeline: Pipeline, sdep: Json) -> list[str]:
    """The stages in the object whose replicas are external and that have no autoscaler of their own.

    None if all stages are external: one of the whole object may scale them.
    """
    if len(pipeline.external) == len(pipeline.served):
        return []
    names = {container_name(stage): stage.name for stage in pipeline.served if stage.is_external}
    return [
        names[container["name"]]
        for predictor in (sdep.get("spec") or {}).get("predictors") or ()
        for component in predictor.get("componentSpecs") or ()
        for container in _containers(component)
        if container["name"] in names and not any(component.get(scaler) for scaler in AUTOSCALERS)
    ]


def _named(autoscaler: Json) -> str:
    metadata = autoscaler["metadata"]
    scaled = (metadata.get("labels") or {}).get(KEDA_LABEL)
    made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
    return f"HorizontalPodAutoscaler {metadata['name']!r}{made_by}"
