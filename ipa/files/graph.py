"""The graph of a pipeline file: a list for a chain, or a mapping from each stage to what it comes after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ipa.files.document import Pointer
from ipa.model.pipeline import CombineRule, Edge, StageKind

# One number, or one for each variant of the stage that sends.
FanOut = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Arrow:
    """One stage named under `after`: where it stands in the file, and the fan-out given there."""

    pointer: Pointer
    fan_out: FanOut | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A stage's place in the graph. `shares` is None where the file gives none."""

    name: str
    pointer: Pointer
    after: Mapping[str, Arrow] = field(default_factory=dict)
    kind: StageKind = StageKind.MODEL
    shares: Mapping[str, float] | None = None
    combine: CombineRule | None = None


def read_nodes(graph: Any) -> list[Node]:
    """The nodes in the order of the file; what is None, since it is not of the right form, is left out."""
    if isinstance(graph, list):
        names = [(index, name) for index, name in enumerate(graph) if name is not None]
        befores = [None, *(name for _, name in names)]
        return [
            Node(name, ("graph", index), {before: Arrow(("graph", index))} if before is not None else {})
            for before, (index, name) in zip(befores, names, strict=False)
        ]
    return [_read_node(name, node or {}) for name, node in (graph or {}).items()]


def _read_node(name: str, data: Mapping[str, Any]) -> Node:
    pointer: Pointer = ("graph", name)
    rule = data.get("accuracy")
    return Node(
        name,
        pointer,
        _arrows(data.get("after"), (*pointer, "after")),
        StageKind(data.get("type") or StageKind.MODEL),
        data.get("shares"),
        CombineRule(rule) if rule is not None else None,
    )


def _arrows(data: Any, pointer: Pointer) -> dict[str, Arrow]:
    """The edges from the stages before, by name."""
    if isinstance(data, str):
        return {data: Arrow(pointer)}
    if isinstance(data, list):
        return {name: Arrow((*pointer, index)) for index, name in enumerate(data) if name is not None}
    return {name: Arrow((*pointer, name), (edge or {}).get("fan_out")) for name, edge in (data or {}).items()}


def children_of(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """The names of the stages after each, in the order of the nodes."""
    children: dict[str, list[str]] = {node.name: [] for node in nodes}
    for node in nodes:
        for parent in node.after:
            children.setdefault(parent, []).append(node.name)
    return children


def in_order(nodes: Sequence[Node], done: Iterable[str] = ()) -> list[Node]:
    """The nodes, each behind all that it comes after, in their own order where that leaves a choice.

    Those on a cycle, and behind one, are left out. `done` are taken as already behind.
    """
    order: list[Node] = []
    passed = set(done)
    rest = list(nodes)
    while (following := next((node for node in rest if passed.issuperset(node.after)), None)) is not None:
        rest.remove(following)
        order.append(following)
        passed.add(following.name)
    return order


def edges_of(node: Node, nodes: Mapping[str, Node], fan_outs: Mapping[str, FanOut]) -> tuple[Edge, ...]:
    """The edges that lead to a node; `fan_outs` are those that the stages give, by name."""
    siblings = children_of(list(nodes.values()))
    edges = []
    for parent, arrow in node.after.items():
        share = 1.0
        if nodes[parent].kind is StageKind.ROUTER:
            given = nodes[parent].shares
            share = 1.0 / len(siblings[parent]) if given is None else float(given[node.name])
        own = fan_outs.get(parent, 1.0) if arrow.fan_out is None else arrow.fan_out
        edges.append(Edge(parent, as_fan_out(own), share))
    return tuple(edges)


def as_fan_out(value: FanOut) -> FanOut:
    """The fan-out as the model has it: floats, and mappings that nobody changes."""
    if isinstance(value, Mapping):
        return MappingProxyType({variant: float(items) for variant, items in value.items()})
    return float(value)
