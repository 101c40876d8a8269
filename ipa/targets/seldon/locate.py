"""Places of a pipeline's stages inside a SeldonDeployment, its nested graph, and its orchestrators.

The executor calls a node, then its children with what it answered, then makes of their answers the node's
own. So a model or transformer holds what comes after it, a router its branches, and a combiner or output
transformer what comes *before* it. Of several answers that no combiner takes, only the first would be used:
such a graph is refused, as is one that is no tree in this sense.
"""

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
from ipa.targets.kubernetes.layout import Served
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import Json, env_entry, owned_env

SELDON_DEPLOYMENT = ResourceKind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
LABEL_PIPELINE = "ipa-serving/pipeline"
SEPARATE_ENGINE, NO_ENGINE = "seldon.io/engine-separate-pod", "seldon.io/no-engine"
ENDLESS_WRITES = (
    "the operator writes the orchestrator's Deployment for ever, since svcOrchSpec.replicas is not there"
)
AUTOSCALERS = ("hpaSpec", "kedaSpec")
REMOVE_IT = "another controller owns its replicas; remove it first"
KEDA_LABEL = "scaledobject.keda.sh/name"
INSIDE_OUT = (StageKind.OUTPUT_TRANSFORMER, StageKind.COMBINER)
# A router of the executor's own; it knows two branches.
SPLIT = "RANDOM_ABTEST"
SPLIT_BRANCHES = 2
# The operator hashes names of Deployments that would not fit a DNS label.
LONGEST_NAME = 63


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
    predictor: int
    index: int

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
            found = components[place.index] if place.index < len(components) else {}
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


def nodes_of(node: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """The node and all inside it, each with the names of those that it is inside of, the outermost first."""
    yield above, node
    for child in node.get("children") or ():
        yield from nodes_of(child, (*above, str(node.get("name"))))


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
            ratio = split_ratio(each)
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
        (at, component, container)
        for at, component in enumerate(whole.get("componentSpecs") or ())
        for container in _containers(component)
        if container["name"] == name
    ]
    named = [node for _, node in nodes if node["name"] == name]
    for what, count in (("containers", len(found)), ("graph nodes", len(named))):
        if count != 1:
            problems.append(f"{title}: {count} {what} are named {name!r} instead of one")
    if len(found) != 1 or len(named) != 1:
        return None
    [(at, component, container)], [node] = found, named
    problems += [f"{title} has {scaler}: {REMOVE_IT}" for scaler in AUTOSCALERS if component.get(scaler)]
    levels = (component.get("replicas"), whole.get("replicas"), sdep["spec"].get("replicas"))
    target = SeldonTarget(str(sdep["metadata"]["name"]), predictor=whole["name"])
    return StageLocation(
        deployment=deployment_name(target, component, at),
        replicas=next((level for level in levels if level is not None), 1),
        title=title,
        stage=stage,
        component=component,
        container=container,
        node=node,
        predictor=predictor,
        index=at,
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
            told=tuple(place for place in places if place.predictor == at),
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

    It undoes every change of ours, and we its. KEDA's ScaledObjects need no look of their own: each makes a
    HorizontalPodAutoscaler.
    """
    stages = {place.deployment: place for place in places}
    problems = []
    for autoscaler in autoscalers:
        metadata, spec = autoscaler["metadata"], autoscaler.get("spec") or {}
        target = spec.get("scaleTargetRef") or {}
        kind, name = target.get("kind"), str(target.get("name", ""))
        scaled = (metadata.get("labels") or {}).get(KEDA_LABEL)
        made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
        words = f"HorizontalPodAutoscaler {metadata['name']!r}{made_by} scales {kind} {name}"
        if kind == "Deployment" and name in stages:
            problems.append(f"{stages[name].title}: {words}: {REMOVE_IT}")
        elif kind == SELDON_DEPLOYMENT.kind and name in sdeps:
            problems.append(f"every stage: {words}: {REMOVE_IT}")
    if problems:
        raise drift(pipeline, problems)


@dataclass(frozen=True, slots=True)
class Nested:
    """A stage and what Seldon has inside it."""

    stage: Stage
    children: tuple[Nested, ...] = ()

    def walk(self, above: Stage | None = None) -> Iterator[tuple[Nested, Stage | None]]:
        """This one and all inside it, each with the stage that it is right inside of."""
        yield self, above
        for child in self.children:
            yield from child.walk(self.stage)


def nest(pipeline: Pipeline) -> Nested:
    """The outermost stage with all others inside. InputError says why Seldon cannot run the graph."""
    problems: list[str] = []
    nested = _nest(pipeline.stages, problems)
    problems += [message for stage in pipeline.stages if (message := _fault(pipeline, stage))]
    if problems or nested is None:
        raise InputError(
            f"Seldon cannot run the graph of pipeline {pipeline.name!r}",
            problems=[Problem(problem) for problem in problems],
        )
    return nested


def split_ratio(nested: Nested) -> dict[str, str]:
    """The parameter of a router of Seldon's own: the share of its first branch."""
    first = nested.children[0]
    while not any(edge.parent == nested.stage.name for edge in first.stage.after):
        first = first.children[0]
    share = next(edge.share for edge in first.stage.after if edge.parent == nested.stage.name)
    return {"name": "ratioA", "value": f"{share:.6g}", "type": "FLOAT"}


def _fault(pipeline: Pipeline, stage: Stage) -> str:
    """The fault of a stage without variants; empty if there is none."""
    if stage.variants:
        return ""
    if stage.kind is not StageKind.ROUTER:
        return f"{stage.kind} {stage.name!r} has no variants, and Seldon has no built-in one; add variants"
    branches = sum(edge.parent == stage.name for other in pipeline.stages for edge in other.after)
    if branches != SPLIT_BRANCHES:
        return (
            f"router {stage.name!r} has no variants, and Seldon's built-in router splits between "
            f"{SPLIT_BRANCHES} stages, not {branches}; add variants, or put several routers in a row"
        )
    return ""


def _nest(stages: Sequence[Stage], problems: list[str]) -> Nested | None:
    """Some stages of a graph; None with the reason noted where they do not nest."""
    names = {stage.name for stage in stages}
    used = {parent for stage in stages for parent in _before(stage)}
    roots = [stage for stage in stages if not names & _before(stage)]
    ends = [stage for stage in stages if stage.name not in used]
    outer: Stage | None = None
    groups: list[list[Stage]] = []
    is_good = False
    if len(roots) == 1 and roots[0].kind in (StageKind.MODEL, StageKind.TRANSFORMER):
        outer, rest = roots[0], [stage for stage in stages if stage is not roots[0]]
        is_good = all(
            _before(stage) & names == {outer.name} for stage in rest if outer.name in _before(stage)
        )
        groups = [rest] if rest else []
    elif len(ends) == 1 and ends[0].kind in INSIDE_OUT:
        outer, rest = ends[0], [stage for stage in stages if stage is not ends[0]]
        used = {parent for stage in rest for parent in _before(stage)}
        groups = _groups(rest)
        is_good = {stage.name for stage in rest if stage.name not in used} == _before(outer) & names
        is_good = is_good and (len(groups) <= 1 or outer.kind is StageKind.COMBINER)
    elif len(roots) == 1 and roots[0].kind is StageKind.ROUTER:
        outer = roots[0]
        groups = _groups([stage for stage in stages if stage is not outer])
        is_good = True
    if outer is None or not is_good:
        problems.append(
            f"stages {', '.join(stage.name for stage in stages)} do not nest: parallel stages must "
            "join in one combiner, and the branches of a router in one output-transformer or combiner"
        )
        return None
    children = [_nest(group, problems) for group in groups]
    return Nested(outer, tuple(child for child in children if child is not None))


def _before(stage: Stage) -> set[str]:
    return {edge.parent for edge in stage.after}


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages in groups without an edge between them, each in order."""
    groups: list[list[Stage]] = []
    for stage in stages:
        joined = [group for group in groups if any(other.name in _before(stage) for other in group)]
        merged = [other for group in joined for other in group]
        groups = [group for group in groups if group not in joined]
        groups.append([*merged, stage])
    order = {stage.name: at for at, stage in enumerate(stages)}
    return sorted(
        (sorted(group, key=lambda stage: order[stage.name]) for group in groups),
        key=lambda group: order[group[0].name],
    )
