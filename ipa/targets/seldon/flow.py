"""A SeldonDeployment's nested graph as stages in their order: `graph.py`, the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Edge, Stage, StageKind, Variant
from ipa.targets.seldon.graph import INSIDE_OUT, SPLIT
from ipa.targets.seldon.variants import Json

# What Seldon's executor does by itself for a node without a container, but for the one that we know.
OTHER_BUILT_IN = frozenset({"SIMPLE_MODEL", "SIMPLE_ROUTER", "AVERAGE_COMBINER"})
EVEN_SHARE = 0.5


class Reader:
    """The nodes and containers of one predictor by name, and the stages that they are."""

    def __init__(self, predictor: Json) -> None:
        self._graph: Json = predictor.get("graph") or {}
        self.nodes: dict[str, Json] = {str(node.get("name")): node for node in _walk(self._graph)}
        self.containers: dict[str, Json] = {
            str(container.get("name")): container
            for component in predictor.get("componentSpecs") or ()
            for container in (component.get("spec") or {}).get("containers") or ()
        }
        self._problems: list[str] = []

    def stages(self, variants: Callable[[str], tuple[Variant, ...]]) -> tuple[Stage, ...]:
        """The stages, each behind those that it comes after; `variants` says what a node runs.

        InputError lists the nodes that are no stages of ours.
        """
        found: list[Stage] = []
        if not self._graph.get("name"):
            self._problems.append("the predictor has no graph")
        else:
            self._flow(self._graph, [], found, variants)
        entries = [stage.name for stage in found if not stage.after]
        if len(entries) > 1:
            self._problems.append(f"requests enter at {' and '.join(entries)}; a pipeline has one entry")
        if self._problems:
            raise InputError(
                "this graph cannot be read as a pipeline",
                problems=[Problem(problem) for problem in self._problems],
            )
        return tuple(found)

    def _flow(
        self,
        node: Json,
        before: Sequence[Edge],
        found: list[Stage],
        variants: Callable[[str], tuple[Variant, ...]],
    ) -> list[Edge]:
        """Add the stages of the node and all inside it; the edges to what comes after them."""
        name, kind = str(node.get("name")), self._kind(node)
        children = list(node.get("children") or ())
        is_split = node.get("implementation") == SPLIT
        if kind in INSIDE_OUT:
            # What is inside comes before it, and all of that goes into it.
            before = [
                edge for child in children for edge in self._flow(child, before, found, variants)
            ] or before
            found.append(Stage(name, variants(name), tuple(before), kind, container=name))
            return [Edge(name)]
        own, container = ((), "") if is_split else (variants(name), name)
        found.append(Stage(name, own, tuple(before), kind, container=container))
        if kind is StageKind.ROUTER:
            shares = self._shares(node, len(children))
            return [
                edge
                for child, share in zip(children, shares, strict=True)
                for edge in self._flow(child, [Edge(name, share=share)], found, variants)
            ]
        ends = [edge for child in children for edge in self._flow(child, [Edge(name)], found, variants)]
        if len(children) > 1:
            self._problems.append(
                f"node {name!r} has {len(children)} children and no combiner: only the answer of the "
                "first one is used"
            )
        return ends or [Edge(name)]

    def _kind(self, node: Json) -> StageKind:
        name, implementation = str(node.get("name")), node.get("implementation")
        if implementation in OTHER_BUILT_IN:
            self._problems.append(
                f"node {name!r} is Seldon's built-in {implementation}, which has no variants to plan"
            )
        if implementation == SPLIT:
            return StageKind.ROUTER
        text = str(node.get("type") or "MODEL").lower().replace("_", "-")
        if text == "unknown-type":
            return StageKind.MODEL
        if text not in list(StageKind):
            self._problems.append(f"node {name!r} has the unknown type {node.get('type')}")
            return StageKind.MODEL
        return StageKind(text)

    def _shares(self, node: Json, count: int) -> list[float]:
        """The shares of a router's branches: those of Seldon's own split, else equal ones."""
        given = {one.get("name"): one.get("value") for one in node.get("parameters") or ()}
        if node.get("implementation") != SPLIT or count != 2:
            return [1.0 / count] * count
        try:
            first = float(given.get("ratioA", EVEN_SHARE))
        except (TypeError, ValueError):
            self._problems.append(f"node {node.get('name')!r}: ratioA {given['ratioA']!r} is not a number")
            return [EVEN_SHARE, EVEN_SHARE]
        return [first, 1.0 - first]


def _walk(node: Json) -> Iterator[Json]:
    yield node
    for child in node.get("children") or ():
        yield from _walk(child)
