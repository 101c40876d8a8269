"""The shape of a graph in numbers: paths, shares of requests, and the terms of its accuracy."""

from __future__ import annotations

from math import isclose

import pytest

from ipa.model.pipeline import CombineRule, StageKind
from ipa.optimize.graph import MOST, Graph, GraphNode, Term, build_graph

FIRST = GraphNode((), ())


def diamond(combine: CombineRule) -> Graph:
    """A first stage, two stages side by side after it, and one that joins them by this rule."""
    return build_graph(
        (
            FIRST,
            GraphNode((0,), (1.0,)),
            GraphNode((0,), (1.0,)),
            GraphNode((1, 2), (1.0, 1.0), combine=combine),
        )
    )


def test_a_product_multiplies_every_stage_once() -> None:
    graph = diamond(CombineRule.PRODUCT)
    assert graph.paths == ((0, 1, 3), (0, 2, 3))
    assert graph.reach == (1.0, 1.0, 1.0, 1.0)
    assert graph.terms == (Term(1.0, ((0, 1, 2, 3),)),)
    assert graph.is_product


def test_a_mean_takes_each_of_its_inputs_with_equal_chance() -> None:
    graph = diamond(CombineRule.MEAN)
    assert graph.terms == (Term(0.5, ((0, 1, 3),)), Term(0.5, ((0, 2, 3),)))
    assert not graph.is_product
    assert isclose(graph.accuracy((0.9, 0.8, 0.4, 1.0)), 0.9 * (0.8 + 0.4) / 2)


def test_a_maximum_takes_the_best_of_its_inputs() -> None:
    graph = diamond(CombineRule.MAX)
    assert graph.terms == (Term(1.0, ((0, 1, 3), (0, 2, 3))),)
    assert not graph.is_product
    assert isclose(graph.accuracy((0.9, 0.8, 0.4, 1.0)), 0.9 * 0.8)


def test_a_router_sends_a_request_one_way() -> None:
    router = GraphNode((), (), kind=StageKind.ROUTER)
    graph = build_graph((router, GraphNode((0,), (0.25,)), GraphNode((0,), (0.75,))))
    assert graph.reach == (1.0, 0.25, 0.75)
    assert graph.terms == (Term(0.25, ((0, 1),)), Term(0.75, ((0, 2),)))


@pytest.mark.parametrize("branches", [MOST, MOST + 1])
def test_more_paths_than_can_be_planned_are_refused(branches: int) -> None:
    nodes = (FIRST, *(GraphNode((0,), (1.0,)) for _ in range(branches)))
    if branches <= MOST:
        assert len(build_graph(nodes).paths) == branches
    else:
        with pytest.raises(ValueError, match=f"more than {MOST} paths"):
            build_graph(nodes)
