"""Graphs in pipeline files: what each form means, which graphs are good, and how they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import InputError
from ipa.model.pipeline import CombineRule, Edge, Pipeline, StageKind


def a_pipeline(graph: Any, served: str, **stages: dict[str, Any]) -> Pipeline:
    """A pipeline of that graph; the stages served have the variants s and l."""
    return pipeline_from_mapping(
        {
            "apiVersion": "ipa/v1",
            "kind": "Pipeline",
            "name": "shop",
            "sla": {"latency": "1s"},
            "graph": graph,
            "objectives": {"default": {}},
            "stages": [
                {"name": name, "variants": [{"name": "s"}, {"name": "l"}], **stages.get(name, {})}
                for name in served.split()
            ],
        }
    )


BY_VARIANT = {"s": 2.6, "l": 18.9}
DIAMOND = {"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}}
ROUTED = {
    "a": {},
    "route": {"after": "a", "type": "router"},
    "b": {"after": "route"},
    "c": {"after": "route"},
    "d": {"after": ["b", "c"]},
}


def after_a(fan_out: float | dict[str, float]) -> dict[str, Any]:
    return {"after": {"a": {"fan_out": fan_out}}}


def test_a_list_is_a_chain_and_a_stage_s_fan_out_is_that_of_its_edge() -> None:
    short = a_pipeline(["b", "a", "c"], "a b c", a={"fan_out": BY_VARIANT}, b={"fan_out": 3})
    assert [stage.after for stage in short.stages] == [(), (Edge("b", 3.0),), (Edge("a", BY_VARIANT),)]
    long = a_pipeline(
        {"b": {}, "a": {"after": ["b"]}, "c": {"after": {"a": {}}}},
        "a b c",
        a={"fan_out": BY_VARIANT},
        b={"fan_out": 3},
    )
    assert long == short
    assert short.is_chain
    assert pipeline_to_mapping(short)["graph"] == ["b", "a", "c"]


def test_a_fan_out_goes_along_every_edge_that_does_not_give_its_own() -> None:
    graph = {"a": {}, "b": {"after": "a"}, "c": {"after": {"a": {"fan_out": 0.5}}}}
    pipeline = a_pipeline(graph, "a b c", a={"fan_out": BY_VARIANT})
    assert pipeline.stage("b").after == (Edge("a", BY_VARIANT),)
    assert pipeline.stage("c").after == (Edge("a", 0.5),)
    assert [pipeline.stage("b").after[0].items(variant) for variant in "sl"] == [2.6, 18.9]


@pytest.mark.parametrize(
    ("names", "expected"), [("d c b a", "a c b d"), ("b d a c", "a b c d"), ("c a d b", "a c b d")]
)
def test_stages_are_in_topological_order_and_else_in_that_of_the_file(names: str, expected: str) -> None:
    pipeline = a_pipeline({name: DIAMOND[name] for name in names.split()}, "a b c d")
    assert [stage.name for stage in pipeline.stages] == expected.split()
    assert not pipeline.is_chain


def test_a_router_without_shares_sends_equal_ones() -> None:
    pipeline = a_pipeline(ROUTED, "a b c d")
    assert [pipeline.stage(name).after[0].share for name in "bc"] == [0.5, 0.5]
    assert pipeline.stage("d").after == (Edge("b"), Edge("c"))


def test_a_router_or_combiner_needs_no_variants() -> None:
    graph = {**DIAMOND, "d": {"after": ["b", "c"], "type": "combiner", "accuracy": "max"}}
    pipeline = a_pipeline(graph, "a b c")
    combiner = pipeline.stage("d")
    assert (combiner.kind, combiner.combine, combiner.variants) == (StageKind.COMBINER, CombineRule.MAX, ())


@pytest.mark.parametrize(
    "graph",
    [
        ROUTED,
        # Whatever is routed, d is reached: e waits for both.
        {**ROUTED, "e": {"after": ["a", "d"]}},
        # Routers in a row, and one in a branch of another.
        {**ROUTED, "e": {"after": "d", "type": "router"}, "f": {"after": "e"}, "g": {"after": "e"}},
        {
            "route": {"type": "router"},
            "a": {"after": "route"},
            "inner": {"after": "route", "type": "router", "shares": {"b": 0.9, "c": 0.1}},
            "b": {"after": "inner"},
            "c": {"after": "inner"},
            "d": {"after": ["a", "b", "c"]},
        },
        {**DIAMOND, "b": after_a(2), "c": after_a(2)},
        # Twice as many, then half of them.
        {**DIAMOND, "b": after_a(2), "d": {"after": {"b": {"fan_out": 0.5}, "c": {}}}},
        {**DIAMOND, "b": after_a(BY_VARIANT), "c": after_a(BY_VARIANT)},
        # The same whatever the variant is no difference.
        {**DIAMOND, "b": after_a({"s": 2, "l": 2}), "c": after_a(2)},
        {**DIAMOND, "d": {"after": ["b", "c"], "type": "combiner", "accuracy": "mean"}},
    ],
)  # fmt: skip
def test_good_graphs_read_back_as_they_were_written(graph: dict[str, Any]) -> None:
    served = [name for name, node in graph.items() if node.get("type") != "router"]
    pipeline = a_pipeline(graph, " ".join(served))
    assert pipeline_from_mapping(json.loads(json.dumps(pipeline_to_mapping(pipeline)))) == pipeline
    names = [stage.name for stage in pipeline.stages]
    for at, stage in enumerate(pipeline.stages):
        assert {edge.parent for edge in stage.after} <= set(names[:at])


def test_thirds_sum_to_one() -> None:
    graph = {"r": {"type": "router"}, **{name: {"after": "r"} for name in "abc"}}
    pipeline = a_pipeline(graph, "a b c")
    assert pipeline_from_mapping(pipeline_to_mapping(pipeline)) == pipeline


def test_a_join_of_a_branch_that_not_all_requests_take_is_refused_below_it_too() -> None:
    graph = {**ROUTED, "d": {"after": "b"}, "e": {"after": ["a", "d"]}}
    with pytest.raises(InputError, match="'e' comes after 'a' and 'd', but some requests are routed past"):
        a_pipeline(graph, "a b c d e")


def test_a_variant_dependent_fan_out_must_reach_a_join_by_all_its_ways() -> None:
    graph = {**DIAMOND, "c": {"after": "b"}, "d": {"after": ["a", "c"]}}
    with pytest.raises(InputError, match="the fan_out of 'b' depends on the variant"):
        a_pipeline(graph, "a b c d", b={"fan_out": BY_VARIANT})
    assert a_pipeline({**graph, "d": {"after": ["b", "c"]}}, "a b c d", a={"fan_out": BY_VARIANT})


def test_one_stage_may_run_several_variants() -> None:
    data = pipeline_to_mapping(a_pipeline(["a"], "a"))
    assert pipeline_from_mapping({**data, "sets": True}).sets
