"""The graph of a pipeline file: a list for a chain, or a mapping from each stage to its predecessors.

It must have one entry, no cycle, and consistent routers and joins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

from ipa.files.document import Document, Pointer, unknown
from ipa.model.pipeline import CombineRule, Edge, StageKind

# One number, or one for each variant of the stage that sends.
FanOut = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Arrow:
    """One stage named under `after`: its place in the file, and its fan-out there."""

    pointer: Pointer
    fan_out: FanOut | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A stage's place in the graph. `shares` is None if the file gives none."""

    name: str
    pointer: Pointer
    after: Mapping[str, Arrow] = field(default_factory=dict)
    kind: StageKind = StageKind.MODEL
    """Its part in the graph; model if absent."""
    shares: Mapping[str, float] | None = None
    """Of the requests; equal if absent."""
    combine: CombineRule | None = None
    """Of a combiner's input, from those that it combines; product if absent."""


def read_nodes(graph: Any) -> list[Node]:
    """The nodes in the order of the file; None in place of malformed ones."""
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
    """The edges from a stage's predecessors, by name."""
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
    """The nodes in topological order; ties keep the order of the file.

    Nodes on a cycle, or after one, are left out. `done` are the names that count as placed already.
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
    """The edges that lead to a node; `fan_outs` are, by name, the fan-outs that stages declare."""
    siblings = children_of(list(nodes.values()))
    edges = []
    for parent, arrow in node.after.items():
        share = 1.0
        if nodes[parent].kind is StageKind.ROUTER:
            given = nodes[parent].shares
            share = 1.0 / len(siblings[parent]) if given is None else float(given[node.name])
        edges.append(Edge(parent, as_fan_out(_fan_out(arrow, parent, fan_outs)), share))
    return tuple(edges)


def as_fan_out(value: FanOut) -> FanOut:
    """The fan-out in the model's form: floats, and read-only mappings."""
    if isinstance(value, Mapping):
        return MappingProxyType({variant: float(items) for variant, items in value.items()})
    return float(value)


# More paths through a graph, or more ways through its routers, than this are not planned.
MOST = 256
# How exactly the shares of a router must sum to 1, and the items at a join must agree.
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class StageItems:
    """The number of items that a stage handles for each request: a number times factors by variant."""

    constant: float
    factors: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()

    def times(self, parent: str, fan_out: FanOut) -> StageItems:
        """The number of items after a parent's fan-out."""
        if not isinstance(fan_out, Mapping):
            return StageItems(self.constant * fan_out, self.factors)
        if len(set(fan_out.values())) == 1:
            return StageItems(self.constant * next(iter(fan_out.values())), self.factors)
        factor = (parent, tuple(sorted(fan_out.items())))
        return StageItems(self.constant, tuple(sorted((*self.factors, factor))))


def check_flow(document: Document, nodes: Sequence[Node], fan_outs: Mapping[str, FanOut] | None) -> None:
    """Note the faults of a graph whose names are all known and unique.

    `fan_outs` are those of the stages that declare one; None if they are malformed.
    """
    children = children_of(nodes)
    for node in nodes:
        _check_kind(document, node, children[node.name])
    order = in_order(nodes)
    if len(order) < len(nodes):
        _check_cycles(document, nodes)
    roots = [node for node in nodes if not node.after]
    if len(roots) > 1:
        names = ", ".join(repr(root.name) for root in roots)
        message = (
            f"graph begins at {names}; a pipeline has one entry: say what the others come after, "
            "or put a stage of type transformer before them"
        )
        document.problem(roots[1].pointer, message, at_key=True)
    if len(order) == len(nodes) and len(roots) == 1 and _is_small(document, order):
        _check_branches(document, order)
        if fan_outs is not None:
            _check_joins(document, order, fan_outs)


def _check_kind(document: Document, node: Node, children: Sequence[str]) -> None:
    if node.kind is StageKind.ROUTER:
        if not children:
            document.problem(node.pointer, f"no stage comes after router {node.name!r}", at_key=True)
        elif node.shares is not None:
            _check_shares(document, node, node.shares, children)
    elif node.shares is not None:
        message = f"shares have no meaning for a stage of type {node.kind}; remove them or make it a router"
        document.problem((*node.pointer, "shares"), message, at_key=True)
    if node.kind is StageKind.COMBINER:
        if len(node.after) < 2:
            message = f"combiner {node.name!r} needs at least 2 stages to come after"
            document.problem(node.pointer, message, at_key=True)
    elif node.combine is not None:
        message = f"accuracy has no meaning for a stage of type {node.kind}; remove it or make it a combiner"
        document.problem((*node.pointer, "accuracy"), message, at_key=True)


def _check_shares(
    document: Document, node: Node, shares: Mapping[str, float], children: Sequence[str]
) -> None:
    place = (*node.pointer, "shares")
    for name in shares:
        if name not in children:
            message = (
                f"shares names {name!r}, which does not come after {node.name!r}; {unknown(name, children)}"
            )
            document.problem((*place, name), message, at_key=True)
    for name in children:
        if name not in shares:
            document.problem(place, f"shares lacks {name!r}, which comes after router {node.name!r}")
    total = math.fsum(shares.values())
    if set(shares) == set(children) and abs(total - 1.0) > TOLERANCE:
        document.problem(place, f"shares of router {node.name!r} sum to {total:g}; they must sum to 1")


def _check_cycles(document: Document, nodes: Sequence[Node]) -> None:
    """Name the cycles, one for each group of stages that wait for each other."""
    passed = {node.name for node in in_order(nodes)}
    rest = {node.name: node for node in nodes if node.name not in passed}
    while rest:
        path: list[str] = []
        at = next(iter(rest))
        while at not in path:
            path.append(at)
            at = next(parent for parent in rest[at].after if parent in rest)
        # Followed from child to parent, so in the order of requests it is the other way round.
        cycle = path[path.index(at) :][::-1]
        start = min(range(len(cycle)), key=lambda index: list(rest).index(cycle[index]))
        cycle = cycle[start:] + cycle[:start]
        first, last = rest[cycle[0]], cycle[-1]
        message = f"graph has a cycle: {' → '.join([*cycle, cycle[0]])}; remove one of its edges"
        document.problem(first.after[last].pointer, message)
        passed.update(cycle)
        rest = {name: node for name, node in rest.items() if name not in passed}
        for node in in_order(list(rest.values()), passed):
            del rest[node.name]


def _is_small(document: Document, order: Sequence[Node]) -> bool:
    """True if the graph has few enough paths to plan; otherwise the fault is noted."""
    paths: dict[str, int] = {}
    for node in order:
        paths[node.name] = sum(paths[parent] for parent in node.after) or 1
    children = children_of(order)
    ends = sum(paths[node.name] for node in order if not children[node.name])
    ways = math.prod(max(1, len(children[node.name])) for node in order if node.kind is StageKind.ROUTER)
    if ends > MOST:
        document.problem(("graph",), f"graph has {ends} paths; no more than {MOST} can be planned")
    if ways > MOST:
        message = f"the routers have {ways} combinations of branches; no more than {MOST} can be planned"
        document.problem(("graph",), message)
    return ends <= MOST and ways <= MOST


def _check_branches(document: Document, order: Sequence[Node]) -> None:
    """Note stages of which some requests reach several, but not all, predecessors."""
    for node, uses in _uses(order).items():
        (first, when), *others = uses.items()
        for name, also in others:
            if when != also and when & also:
                message = (
                    f"stage {node!r} comes after {first!r} and {name!r}, but some requests are routed past "
                    "one of them: a router's branch is entered through its router alone"
                )
                at = next(each for each in order if each.name == node)
                document.problem(at.after[name].pointer, message)
                break


def _uses(order: Sequence[Node]) -> dict[str, dict[str, frozenset[int]]]:
    """For each stage with predecessors: the ways through the routers in which each edge is used."""
    children = children_of(order)
    routers = [node.name for node in order if node.kind is StageKind.ROUTER and children[node.name]]
    ways = [
        dict(zip(routers, taken, strict=True)) for taken in product(*(children[name] for name in routers))
    ]
    visited: dict[str, frozenset[int]] = {}
    uses: dict[str, dict[str, frozenset[int]]] = {}
    for node in order:
        edges = {
            parent: frozenset(way for way in visited[parent] if ways[way].get(parent, node.name) == node.name)
            for parent in node.after
        }
        visited[node.name] = frozenset().union(*edges.values()) if edges else frozenset(range(len(ways)))
        if edges:
            uses[node.name] = edges
    return uses


def _check_joins(document: Document, order: Sequence[Node], fan_outs: Mapping[str, FanOut]) -> None:
    """Check that every path to a join brings the same number of items."""
    items: dict[str, StageItems] = {}
    for node in order:
        ways = {
            parent: items[parent].times(parent, _fan_out(arrow, parent, fan_outs))
            for parent, arrow in node.after.items()
        }
        items[node.name] = next(iter(ways.values()), StageItems(1.0))
        for name, other in list(ways.items())[1:]:
            message = _difference(node.name, next(iter(ways)), items[node.name], name, other)
            if message:
                document.problem(node.after[name].pointer, message)


def _fan_out(arrow: Arrow, parent: str, fan_outs: Mapping[str, FanOut]) -> FanOut:
    return fan_outs.get(parent, 1.0) if arrow.fan_out is None else arrow.fan_out


def _difference(stage: str, first: str, items: StageItems, name: str, other: StageItems) -> str:
    if items.factors != other.factors:
        differing = set(items.factors) ^ set(other.factors)
        senders = ", ".join(sorted({repr(sender) for sender, _ in differing}))
        return (
            f"stage {stage!r} gets items from {first!r} and {name!r} that do not match: the fan_out of "
            f"{senders} depends on the variant and does not reach it alike by both; make it a number"
        )
    if not math.isclose(items.constant, other.constant, rel_tol=TOLERANCE):
        return (
            f"stage {stage!r} gets {items.constant:g} items for each request from {first!r} and "
            f"{other.constant:g} from {name!r}; they must be equal"
        )
    return ""
