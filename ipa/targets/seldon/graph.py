"""The graph of a pipeline as Seldon nests it, and back.

The executor calls a node, then its children with what it answered, then makes of their answers the node's
own. So a model or transformer holds what comes after it, a router its branches, and a combiner or output
transformer what comes *before* it. Of several answers that no combiner takes, only the first would be used:
such a graph is refused, as is one that is no tree in this sense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipa.adapters.kube.transport import Json
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Edge, Pipeline, Stage, StageKind

INSIDE_OUT = (StageKind.OUTPUT_TRANSFORMER, StageKind.COMBINER)
# A router of the executor's own; it knows two branches.
SPLIT = "RANDOM_ABTEST"
SPLIT_BRANCHES = 2
# What Seldon's executor does by itself for a node without a container, but for the one that we know.
OTHER_BUILT_IN = frozenset({"SIMPLE_MODEL", "SIMPLE_ROUTER", "AVERAGE_COMBINER"})
EVEN_SHARE = 0.5


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

    @property
    def ratio(self) -> dict[str, str]:
        """The parameter of a router of Seldon's own: the share of its first branch."""
        first, name = self.children[0], self.stage.name
        while name not in _before(first.stage):
            first = first.children[0]
        share = next(edge.share for edge in first.stage.after if edge.parent == name)
        return {"name": "ratioA", "value": f"{share:.6g}", "type": "FLOAT"}


def nest(pipeline: Pipeline) -> Nested:
    """The outermost stage with all others inside. InputError says why Seldon cannot run the graph."""
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
    """Some stages of a graph; None with the reason noted where they do not nest."""
    names = {stage.name for stage in stages}
    used = {parent for stage in stages for parent in _before(stage)}
    roots = [stage for stage in stages if not names & _before(stage)]
    ends = [stage for stage in stages if stage.name not in used]
    outer: Stage | None = roots[0] if len(roots) == 1 else None
    groups: list[list[Stage]] = []
    is_good = False
    if outer is not None and outer.kind in (StageKind.MODEL, StageKind.TRANSFORMER):
        rest = [stage for stage in stages if stage is not outer]
        is_good = all(_before(it) & names == {outer.name} for it in rest if outer.name in _before(it))
        groups = [rest] if rest else []
    elif len(ends) == 1 and ends[0].kind in INSIDE_OUT:
        outer = ends[0]
        rest = [stage for stage in stages if stage is not outer]
        used = {parent for stage in rest for parent in _before(stage)}
        groups = _groups(rest)
        is_good = {stage.name for stage in rest if stage.name not in used} == _before(outer) & names
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


def _before(stage: Stage) -> set[str]:
    return {edge.parent for edge in stage.after}


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages in groups without an edge between them, each in order."""
    groups: list[list[Stage]] = []
    for stage in stages:
        joined = [group for group in groups if any(other.name in _before(stage) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), stage])
    ordered = [sorted(group, key=stages.index) for group in groups]
    return sorted(ordered, key=lambda group: stages.index(group[0]))


def nodes_of(node: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """The node and all inside it, each with the names of those that it is inside of, the outermost first."""
    yield above, node
    for child in node.get("children") or ():
        yield from nodes_of(child, (*above, str(node.get("name"))))


def stages_of(graph: Json) -> tuple[Stage, ...]:
    """The nodes of a graph as stages without variants, each behind those that it comes after.

    InputError lists the nodes that are no stages of ours.
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
    """Add the stages of the node and all inside it; the edges to what comes after them."""
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
    return ends if is_router else ends or [Edge(name)]


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
