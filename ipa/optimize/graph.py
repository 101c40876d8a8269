"""The shape of a pipeline in numbers: its paths, the visits of each stage, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Protocol

from ipa.model.pipeline import CombineRule, Edge, StageKind

# Graphs with more paths, or more ways through routers and combiners, are not planned.
MOST = 256


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A stage of a graph: the sources of its input (indices of earlier stages), and its kind."""

    after: tuple[int, ...]
    shares: tuple[float, ...]
    kind: StageKind = StageKind.MODEL
    combine: CombineRule = CombineRule.PRODUCT


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a graph's accuracy: weight · max, over alternatives, of the product of stages."""

    weight: float
    alternatives: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """The planner's view of a graph.

    `paths` go from the first stage to each last one, `reach` is the share of the requests that visit each
    stage, the accuracy of a request is the sum of the terms. `is_product`: it is a product over all stages.
    """

    nodes: tuple[GraphNode, ...]
    children: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    reach: tuple[float, ...]
    terms: tuple[Term, ...]

    @property
    def is_product(self) -> bool:
        """True if the accuracy is the product of all stages' accuracies."""
        whole = tuple(range(len(self.nodes)))
        return len(self.terms) == 1 and self.terms[0].alternatives == (whole,) and self.terms[0].weight == 1.0

    def accuracy(self, terms: Sequence[float]) -> float:
        """The accuracy of a request, given one number per stage."""
        return sum(
            term.weight * max(prod(terms[stage] for stage in stages) for stages in term.alternatives)
            for term in self.terms
        )


class GraphStage(Protocol):
    """A stage of a pipeline or of a planning problem, reduced to what the graph needs."""

    @property
    def name(self) -> str:
        """The name of the stage."""

    @property
    def after(self) -> tuple[Edge, ...]:
        """The edges from the stages before it."""

    @property
    def kind(self) -> StageKind:
        """A model, router or combiner."""

    @property
    def combine(self) -> CombineRule:
        """The rule for the accuracy of a combiner's inputs."""


def graph_of(stages: Sequence[GraphStage]) -> Graph:
    """The graph of the stages, which are in topological order; ValueError if it cannot be planned."""
    at = {stage.name: index for index, stage in enumerate(stages)}
    return build_graph(
        tuple(
            GraphNode(
                tuple(at[edge.parent] for edge in stage.after),
                tuple(edge.share for edge in stage.after),
                stage.kind,
                stage.combine,
            )
            for stage in stages
        )
    )


@lru_cache(maxsize=1024)
def build_graph(nodes: tuple[GraphNode, ...]) -> Graph:
    """The graph of stages in topological order. ValueError if it has too many paths or alternatives."""
    children: list[list[int]] = [[] for _ in nodes]
    for at, node in enumerate(nodes):
        for parent in node.after:
            children[parent].append(at)
    scenarios = list(_scenarios(nodes, children))
    reach = tuple(sum(chance for chance, visited in scenarios if at in visited) for at in range(len(nodes)))
    return Graph(
        nodes,
        tuple(tuple(each) for each in children),
        tuple(_paths(children, 0)),
        tuple(min(1.0, share) for share in reach),
        _terms(nodes, children, scenarios),
    )


def _paths(children: Sequence[Sequence[int]], first: int) -> list[tuple[int, ...]]:
    """All paths from the first stage to a last one."""
    paths: list[tuple[int, ...]] = []
    heap: list[tuple[int, ...]] = [(first,)]
    while heap:
        path = heap.pop()
        if not children[path[-1]]:
            paths.append(path)
        heap.extend((*path, child) for child in children[path[-1]])
        if len(paths) + len(heap) > MOST:
            raise ValueError(f"the graph has more than {MOST} paths")
    return sorted(paths)


def _scenarios(
    nodes: Sequence[GraphNode], children: Sequence[Sequence[int]]
) -> Iterator[tuple[float, frozenset[int]]]:
    """The possible ways of a request through the routers: each one's probability and its stages."""
    routers = [at for at, node in enumerate(nodes) if node.kind is StageKind.ROUTER and children[at]]
    if prod(len(children[at]) for at in routers) > MOST:
        raise ValueError(f"the routers have more than {MOST} combinations of branches")
    merged: dict[frozenset[int], float] = {}
    for branches in product(*(children[at] for at in routers)):
        taken = dict(zip(routers, branches, strict=True))
        visited: set[int] = set()
        for at, node in enumerate(nodes):
            if not node.after or any(p in visited and taken.get(p, at) == at for p in node.after):
                visited.add(at)
        chance = prod(
            share
            for router, branch in taken.items()
            for parent, share in zip(nodes[branch].after, nodes[branch].shares, strict=True)
            if parent == router
        )
        key = frozenset(visited)
        merged[key] = merged.get(key, 0.0) + chance
    yield from ((chance, visited) for visited, chance in merged.items())


def _terms(
    nodes: Sequence[GraphNode],
    children: Sequence[Sequence[int]],
    scenarios: Sequence[tuple[float, frozenset[int]]],
) -> tuple[Term, ...]:
    """The accuracy as a sum of weighted maxima of products, equal terms merged.

    A mean combiner chooses one of its inputs with equal chance, a max combiner the best one. All other joins,
    and stages followed by several last ones, multiply, each stage once.
    """
    merged: dict[tuple[tuple[int, ...], ...], float] = {}
    for chance, visited in scenarios:
        live = {at: [p for p in nodes[at].after if p in visited] for at in visited}
        means = [at for at in visited if nodes[at].combine is CombineRule.MEAN and len(live[at]) > 1]
        largest = [at for at in visited if nodes[at].combine is CombineRule.MAX and len(live[at]) > 1]
        if prod(len(live[at]) for at in (*means, *largest)) > MOST:
            raise ValueError(f"the combiners have more than {MOST} combinations of inputs")
        ends = [at for at in visited if not any(child in visited for child in children[at])]
        for means_taken in product(*(live[at] for at in means)):
            picked = dict(zip(means, means_taken, strict=True))
            alternatives = {
                _upstream(ends, live, {**picked, **dict(zip(largest, taken, strict=True))})
                for taken in product(*(live[at] for at in largest))
            }
            weight = chance / prod(len(live[at]) for at in means)
            key = tuple(sorted(alternatives))
            merged[key] = merged.get(key, 0.0) + weight
    return tuple(Term(weight, alternatives) for alternatives, weight in sorted(merged.items()))


def _upstream(
    ends: Sequence[int], live: Mapping[int, Sequence[int]], picked: Mapping[int, int]
) -> tuple[int, ...]:
    """The stages whose accuracies multiply: all before the ends, through the picked inputs of combiners."""
    visited: set[int] = set()
    todo = list(ends)
    while todo:
        at = todo.pop()
        if at not in visited:
            visited.add(at)
            todo.extend([picked[at]] if at in picked else live[at])
    return tuple(sorted(visited))
