"""A pipeline's graph as Seldon nests it.

Seldon's executor calls a node, then its children with what it answered, then makes of their answers the
node's own. So a model or transformer holds what comes after it, a router its branches, and a combiner or
output transformer what comes *before* it. Of several answers that no combiner takes, only the first would
be used: such a graph is refused, as is one that is no tree in this sense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline, Stage, StageKind

INSIDE_OUT = (StageKind.OUTPUT_TRANSFORMER, StageKind.COMBINER)
# A router of the executor's own; it knows two branches.
SPLIT = "RANDOM_ABTEST"
SPLIT_BRANCHES = 2


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
