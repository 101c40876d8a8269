"""Places of a pipeline's stages in a SeldonDeployment, its nested graph and back, and its orchestrators.

The executor calls a node, then its children with the node's answer, and combines their answers into the
node's. So a model or transformer holds the stages after it, a router its branches, and a combiner or output
transformer the stages *before* it. Without a combiner only the first of several answers would be used: such a
graph is refused, and so is one that is no tree in this sense.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any

from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError, Problem
from ipa.model.pipeline import Edge, Pipeline, Stage, StageKind
from ipa.targets.kubernetes.containers import ContainerPlace, container_name, env_entry
from ipa.targets.kubernetes.layout import REMOVE_IT, Served, at, drift_error
from ipa.targets.kubernetes.split import LABEL_PIPELINE, LONGEST_NAME
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import runs_of

SELDON_DEPLOYMENT = ResourceKind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
SEPARATE_ENGINE, NO_ENGINE = "seldon.io/engine-separate-pod", "seldon.io/no-engine"
ENDLESS_WRITES = (
    "the operator writes the orchestrator's Deployment for ever, since svcOrchSpec.replicas is not there"
)
AUTOSCALERS = ("hpaSpec", "kedaSpec")
INSIDE_OUT = (StageKind.OUTPUT_TRANSFORMER, StageKind.COMBINER)
# A router of the executor's own; it knows two branches.
SPLIT = "RANDOM_ABTEST"
SPLIT_BRANCHES = 2
# What Seldon's executor does by itself for a node without a container, but for the one that we know.
OTHER_BUILT_IN = frozenset({"SIMPLE_MODEL", "SIMPLE_ROUTER", "AVERAGE_COMBINER"})
EVEN_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLocation(ContainerPlace):
    """A stage's componentSpec, container and graph node: references into one SeldonDeployment.

    `predictor` is the index of its predictor, `index` that of the componentSpec within. `replicas` is the
    effective value of the three levels.
    """

    predictor: int = 0
    index: int = 0

    def carries(self, pod: Json) -> bool:
        """True if the pod, or pod template, has the stage's container as in the SeldonDeployment."""
        if not ContainerPlace.carries(self, pod):
            return False
        # The operator hands the model URI to an init container that fetches it, as its first argument.
        node = self.node
        fetcher = f"{node['name']}-model-initializer"
        fetchers = [init for init in pod.get("initContainers") or () if init["name"] == fetcher]
        return not fetchers or "modelUri" not in node or node["modelUri"] in (fetchers[0].get("args") or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorLocation(Served):
    """An orchestrator with pods of its own, through which requests enter.

    `mirrored` are the places of the stages whose specs it copies: it serves a change once its copies have it.
    `predictor` is the index of its predictor. `is_endless`: no level sets its replicas, so the operator
    rewrites its Deployment for ever.
    """

    mirrored: tuple[StageLocation, ...]
    predictor: int
    is_endless: bool

    def carries(self, pod: Json) -> bool:
        """True if the pod has the stages' specs, or shows none."""
        entries = (env_entry(container, "ENGINE_PREDICTOR") for container in pod.get("containers") or ())
        text = next((str(entry.get("value", "")) for entry in entries if entry), "")
        try:
            components = list(json.loads(b64decode(text))["componentSpecs"])
        except (ValueError, KeyError, TypeError):
            return True
        for place in self.mirrored:
            component = components[place.index] if place.index < len(components) else {}
            is_same = component.get("replicas") == place.component.get("replicas")
            if not is_same or not place.carries(component.get("spec") or {}):
                return False
        return True


def containers_of(component: Json) -> list[Json]:
    """The containers of a componentSpec; empty if it has none, which the schema allows."""
    return at(component, "spec", "containers") or []


def _predictors(sdep: Json) -> list[Json]:
    return at(sdep, "spec", "predictors") or []


def target_of(pipeline: Pipeline) -> SeldonTarget:
    """The pipeline's `seldon:` section, which names its SeldonDeployment. InputError without one."""
    section = seldon_of(pipeline)
    if section is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no `seldon:` section",
            hint="Add `seldon: {name: ..., namespace: ..., predictor: ...}`.",
        )
    return section


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


def locate(pipeline: Pipeline, sdep: Json) -> tuple[StageLocation, ...]:
    """The place of every stage, in order.

    DriftError lists every stage that is not in its place, or whose replicas another controller owns; the
    object is not written then.
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
        place = _place(pipeline, stage, sdep, index, nodes, problems)
        if place is None:
            continue
        if place.index in {other.index for other in places}:
            problems.append(f"stage {stage.name!r} shares its componentSpec with another stage")
        places.append(place)
    if problems:
        raise drift(pipeline, problems)
    return tuple(places)


def _misplaced(nested: Nested, nodes: list[tuple[tuple[str, ...], Json]]) -> list[str]:
    """Every node of a stage that has another type, or is not directly inside the right node.

    Nodes of other people may be between them. `_place` reports a node that is missing or there twice.
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
    pipeline: Pipeline,
    stage: Stage,
    sdep: Json,
    predictor: int,
    nodes: list[tuple[tuple[str, ...], Json]],
    problems: list[str],
) -> StageLocation | None:
    """The stage's place; None, with a problem added, unless its node is there exactly once."""
    name, title = container_name(stage), f"stage {stage.name!r}"
    whole = _predictors(sdep)[predictor]
    matches = [
        (index, component, container)
        for index, component in enumerate(whole.get("componentSpecs") or ())
        for container in containers_of(component)
        if container["name"] == name
    ]
    named = [node for _, node in nodes if node["name"] == name]
    for what, count in (("containers", len(matches)), ("graph nodes", len(named))):
        if count != 1:
            problems.append(f"{title}: {count} {what} are named {name!r} instead of one")
    if len(matches) != 1 or len(named) != 1:
        return None
    [(index, component, container)], [node] = matches, named
    problems += [f"{title} has {scaler}: {REMOVE_IT}" for scaler in AUTOSCALERS if component.get(scaler)]
    levels = (component.get("replicas"), whole.get("replicas"), sdep["spec"].get("replicas"))
    beside = [each["name"] for each in containers_of(component)]
    # As the operator names it.
    deployment = "-".join([str(sdep["metadata"]["name"]), str(whole["name"]), str(index), *beside])
    # The operator hashes names of Deployments that would not fit a DNS label.
    if len(deployment) > LONGEST_NAME:
        deployment = f"seldon-{md5(deployment.encode(), usedforsecurity=False).hexdigest()}"
    return StageLocation(
        deployment=deployment,
        replicas=next((level for level in levels if level is not None), 1),
        title=title,
        runs=runs_of(pipeline, stage),
        component=component,
        container=container,
        node=node,
        predictor=predictor,
        index=index,
    )


def orchestrators(sdep: Json, places: Sequence[StageLocation] = ()) -> Iterator[OrchestratorLocation]:
    """The orchestrators with pods of their own, each with the places whose specs it copies."""
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
                mirrored=tuple(place for place in places if place.predictor == index),
                predictor=index,
                is_endless=replicas is None,
            )


def orchestrator_remedy(sdep: Json) -> str:
    """The command that sets the orchestrators' replicas; empty if each predictor has them."""
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


def drift(pipeline: Pipeline, problems: Sequence[str]) -> DriftError:
    """The error for an object that does not match its pipeline, which is not written then."""
    target = target_of(pipeline)
    return drift_error(f"SeldonDeployment {target.namespace}/{target.name}", pipeline, problems)


@dataclass(frozen=True, slots=True)
class Nested:
    """A stage and the stages nested in it."""

    stage: Stage
    children: tuple[Nested, ...] = ()

    def walk(self, above: Stage | None = None) -> Iterator[tuple[Nested, Stage | None]]:
        """Yield this stage and all nested in it, each with its direct parent."""
        yield self, above
        for child in self.children:
            yield from child.walk(self.stage)

    @property
    def ratio(self) -> dict[str, str]:
        """The parameter of Seldon's own router: the share of its first branch."""
        entry, name = self.children[0], self.stage.name
        # The node of the first branch may hold the stage that the router's edge leads to.
        while name not in _parents(entry.stage):
            entry = entry.children[0]
        share = next(edge.share for edge in entry.stage.after if edge.parent == name)
        return {"name": "ratioA", "value": f"{share:.6g}", "type": "FLOAT"}


def nest(pipeline: Pipeline) -> Nested:
    """The root stage with all others nested in it. InputError if Seldon cannot run the graph."""
    problems: list[str] = []
    nested = _nest(pipeline.stages, problems)
    for stage in pipeline.stages:
        branches = sum(edge.parent == stage.name for other in pipeline.stages for edge in other.after)
        if not stage.variants and stage.kind is not StageKind.ROUTER:
            problems.append(
                f"{stage.kind} {stage.name!r} has no variants, and Seldon has no built-in one; add variants"
            )
        elif not stage.variants and branches != SPLIT_BRANCHES:
            problems.append(
                f"router {stage.name!r} has no variants, and Seldon's built-in router splits between "
                f"{SPLIT_BRANCHES} stages, not {branches}; add variants, or put several routers in a row"
            )
    if problems or nested is None:
        raise InputError(
            f"Seldon cannot run the graph of pipeline {pipeline.name!r}",
            problems=[Problem(problem) for problem in problems],
        )
    return nested


def _nest(stages: Sequence[Stage], problems: list[str]) -> Nested | None:
    """Some stages of a graph; None, with the reason in `problems`, if they do not nest."""
    names = {stage.name for stage in stages}
    used = {parent for stage in stages for parent in _parents(stage)}
    roots = [stage for stage in stages if not names & _parents(stage)]
    ends = [stage for stage in stages if stage.name not in used]
    outer: Stage | None = roots[0] if len(roots) == 1 else None
    groups: list[list[Stage]] = []
    is_good = False
    if outer is not None and outer.kind in (StageKind.MODEL, StageKind.TRANSFORMER):
        rest = [stage for stage in stages if stage is not outer]
        is_good = all(_parents(it) & names == {outer.name} for it in rest if outer.name in _parents(it))
        groups = [rest] if rest else []
    elif len(ends) == 1 and ends[0].kind in INSIDE_OUT:
        outer = ends[0]
        rest = [stage for stage in stages if stage is not outer]
        used = {parent for stage in rest for parent in _parents(stage)}
        groups = _groups(rest)
        is_good = {stage.name for stage in rest if stage.name not in used} == _parents(outer) & names
        is_good = is_good and (len(groups) <= 1 or outer.kind is StageKind.COMBINER)
    elif outer is not None and outer.kind is StageKind.ROUTER:
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


def _parents(stage: Stage) -> set[str]:
    return {edge.parent for edge in stage.after}


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages in groups without an edge between them, each in order."""
    groups: list[list[Stage]] = []
    for stage in stages:
        joined = [group for group in groups if any(other.name in _parents(stage) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), stage])
    ordered = [sorted(group, key=stages.index) for group in groups]
    return sorted(ordered, key=lambda group: stages.index(group[0]))


def nodes_of(node: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """The node and all nested in it, each with the names of its ancestors, the root first."""
    yield above, node
    for child in node.get("children") or ():
        yield from nodes_of(child, (*above, str(node.get("name"))))


def stages_of(graph: Json) -> tuple[Stage, ...]:
    """The nodes of a graph as stages without variants, each after its parents.

    InputError lists the nodes that cannot be stages.
    """
    stages: list[Stage] = []
    problems: list[str] = []
    if graph.get("name"):
        _flow(graph, [], stages, problems)
    else:
        problems.append("the predictor has no graph")
    entries = [stage.name for stage in stages if not stage.after]
    if len(entries) > 1:
        problems.append(f"requests enter at {' and '.join(entries)}; a pipeline has one entry")
    if problems:
        raise InputError(
            "this graph cannot be read as a pipeline", problems=[Problem(problem) for problem in problems]
        )
    return tuple(stages)


def _flow(node: Json, before: list[Edge], stages: list[Stage], problems: list[str]) -> list[Edge]:
    """Add the stages of the node and all inside it; return the edges to the stages after it."""
    name, kind = str(node.get("name")), _kind(node, problems)
    children = list(node.get("children") or ())
    if kind in INSIDE_OUT:
        # What is inside comes before it, and all of that goes into it.
        before = [edge for child in children for edge in _flow(child, before, stages, problems)] or before
        stages.append(Stage(name, (), tuple(before), kind, container=name))
        return [Edge(name)]
    container = "" if node.get("implementation") == SPLIT else name
    stages.append(Stage(name, (), tuple(before), kind, container=container))
    is_router = kind is StageKind.ROUTER
    shares = _shares(node, len(children), problems) if is_router else [1.0] * len(children)
    ends = [
        edge
        for child, share in zip(children, shares, strict=True)
        for edge in _flow(child, [Edge(name, share=share)], stages, problems)
    ]
    if len(children) > 1 and not is_router:
        problems.append(
            f"node {name!r} has {len(children)} children and no combiner: only the answer of the "
            "first one is used"
        )
    return ends if is_router else (ends or [Edge(name)])


def _kind(node: Json, problems: list[str]) -> StageKind:
    name, implementation = str(node.get("name")), node.get("implementation")
    if implementation in OTHER_BUILT_IN:
        problems.append(f"node {name!r} is Seldon's built-in {implementation}, which has no variants to plan")
    if implementation == SPLIT:
        return StageKind.ROUTER
    text = str(node.get("type") or "MODEL").lower().replace("_", "-")
    if text == "unknown-type":
        return StageKind.MODEL
    if text not in list(StageKind):
        problems.append(f"node {name!r} has the unknown type {node.get('type')}")
        return StageKind.MODEL
    return StageKind(text)


def _shares(node: Json, count: int, problems: list[str]) -> list[float]:
    """The shares of a router's branches: those of Seldon's own split, else equal ones."""
    given = {one.get("name"): one.get("value") for one in node.get("parameters") or ()}
    if node.get("implementation") != SPLIT or count != SPLIT_BRANCHES:
        return [1.0 / max(count, 1)] * count
    try:
        first = float(given.get("ratioA", EVEN_SHARE))
    except (TypeError, ValueError):
        problems.append(f"node {node.get('name')!r}: ratioA {given['ratioA']!r} is not a number")
        first = EVEN_SHARE
    return [first, 1.0 - first]
