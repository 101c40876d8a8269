"""Graphs that are no chains, as Seldon nests them: what each kind holds, what is refused, what is drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ipa.model.errors import DriftError, InputError
from ipa.model.pipeline import (
    Bounds,
    Edge,
    Objective,
    Pin,
    Pipeline,
    Sla,
    Stage,
    StageBounds,
    StageKind,
    Variant,
)
from ipa.targets.seldon.locate import Nested, nest
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from ipa.targets.seldon.target import SELDON
from tests.fakes.kube.schema import admit, real_schema, small_schema

Json = dict[str, Any]
M, T, OT, R, C = (
    StageKind.MODEL,
    StageKind.TRANSFORMER,
    StageKind.OUTPUT_TRANSFORMER,
    StageKind.ROUTER,
    StageKind.COMBINER,
)


def stage(
    name: str, after: str = "", kind: StageKind = M, *, share: float = 1.0, bare: bool = False
) -> Stage:
    """A stage after those; `bare` has no variants."""
    runs = [SeldonRun(image=f"registry.example/{name}:{size}") for size in ("s", "l")]
    variants = (
        () if bare else tuple(Variant(run.image[-1:], targets={"seldon": run}) for run in runs if run.image)
    )
    return Stage(name, variants, after=tuple(Edge(it, share=share) for it in after.split()), kind=kind)


def a_pipeline(*stages: Stage, bounds: Bounds | None = None) -> Pipeline:
    target = SeldonTarget("shop", "models", "main")
    return Pipeline(
        "shop", stages, Sla(1.0), {"default": Objective()}, bounds or Bounds(), targets={"seldon": target}
    )


def shown(nested: Nested) -> str:
    inside = " ".join(shown(child) for child in nested.children)
    return f"{nested.stage.name}({inside})" if inside else nested.stage.name


ENSEMBLE = (
    stage("in", kind=T),
    stage("a", "in"),
    stage("b", "in"),
    stage("mean", "a b", C),
    stage("out", "mean", OT),
)
ROUTED = (
    stage("in", kind=T),
    stage("route", "in", R),
    stage("a", "route", share=0.3),
    stage("a2", "a"),
    stage("b", "route", share=0.7),
)
# Stages in the order of the file, and how Seldon nests them; None where it cannot.
GRAPHS = {
    "a chain": ([stage("a"), stage("b", "a"), stage("c", "b")], "a(b(c))"),
    "an ensemble": (ENSEMBLE, "in(out(mean(a b)))"),
    "a router": (ROUTED, "in(route(a(a2) b))"),
    "branches that meet": ([*ROUTED, stage("out", "a2 b", OT)], "in(out(route(a(a2) b)))"),
    "a router of combiners": (
        [
            stage("r", kind=R),
            stage("a", "r"), stage("x", "a"), stage("y", "a"), stage("c", "x y", C),
            stage("b", "r"),
        ],
        "r(a(c(x y)) b)",
    ),
    "answers of answers": ([stage("a"), stage("b", "a", OT), stage("c", "b", OT)], "a(c(b))"),
    "one stage": ([stage("a", kind=OT)], "a"),
    "a combiner of a routed and another answer": (
        [
            stage("in"),
            stage("r", "in", R), stage("a", "r"), stage("b", "r"),
            stage("x", "in"),
            stage("c", "a b x", C),
        ],
        "in(c(r(a b) x))",
    ),
    "the same with a stage between": (
        [
            stage("in"),
            stage("r", "in", R), stage("a", "r"), stage("b", "r"), stage("m", "a b", OT),
            stage("x", "in"),
            stage("c", "m x", C),
        ],
        "in(c(m(r(a b)) x))",
    ),
    "a fork": ([stage("in"), stage("a", "in"), stage("b", "in")], None),
    "a join that is no combiner": ([*ENSEMBLE[:3], stage("c", "a b")], None),
    "an input beside its own result": ([stage("in"), stage("b", "in"), stage("c", "in b", C)], None),
    "a model on answers": ([*ENSEMBLE, stage("more", "out")], None),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_nest_or_are_refused(name: str) -> None:
    stages, expected = GRAPHS[name]
    if expected is None:
        with pytest.raises(InputError, match="do not nest: parallel stages must join in one combiner"):
            nest(a_pipeline(*stages))
    else:
        assert shown(nest(a_pipeline(*stages))) == expected


def test_a_split_is_valid_under_the_published_schema(shared_data: Any) -> None:
    schema = real_schema(shared_data / "seldondeployment-crd-v1.17.1.yaml.gz")
    for pipeline in (a_pipeline(*ENSEMBLE), a_pipeline(*SPLIT)):
        admit(render(pipeline, SELDON.smallest(pipeline)), schema, strict=True)


SPLIT = (stage("route", kind=R, bare=True), stage("a", "route", share=0.3), stage("b", "route", share=0.7))


def test_a_router_without_variants_is_seldon_s_own_split() -> None:
    pipeline = a_pipeline(*SPLIT)
    sdep = render(pipeline, SELDON.smallest(pipeline))
    predictor = sdep["spec"]["predictors"][0]
    assert len(predictor["componentSpecs"]) == 2
    graph = dict(predictor["graph"])
    assert graph.pop("children") == [{"name": "a", "type": "MODEL"}, {"name": "b", "type": "MODEL"}]
    parameters = [{"name": "ratioA", "value": "0.3", "type": "FLOAT"}]
    assert graph == {"name": "route", "implementation": "RANDOM_ABTEST", "parameters": parameters}
    admit(sdep, small_schema(), strict=True)
    assert read(pipeline, sdep) == SELDON.smallest(pipeline)


def test_what_seldon_has_not_is_refused() -> None:
    three = [stage("r", kind=R, bare=True), *(stage(name, "r", share=1 / 3) for name in "abc")]
    with pytest.raises(InputError, match="splits between 2 stages, not 3"):
        nest(a_pipeline(*three))
    with pytest.raises(InputError, match="combiner 'mean' has no variants"):
        nest(a_pipeline(*ENSEMBLE[:3], stage("mean", "a b", C, bare=True)))


def graph_of(sdep: Json) -> Json:
    graph: Json = sdep["spec"]["predictors"][0]["graph"]
    return graph


def _swap(sdep: Json) -> None:
    graph_of(sdep)["children"][0]["children"].reverse()


def _ratio(sdep: Json) -> None:
    graph_of(sdep)["parameters"][0]["value"] = "0.5"


def _untyped(sdep: Json) -> None:
    graph_of(sdep)["children"][0]["type"] = "MODEL"


def _flat(sdep: Json) -> None:
    """One branch behind the other."""
    branches = graph_of(sdep)["children"][0]["children"]
    branches[0]["children"] = [branches.pop(1)]


def _gone(sdep: Json) -> None:
    graph_of(sdep)["name"] = "other"


@pytest.mark.parametrize(
    ("stages", "change", "words"),
    [
        (SPLIT, _ratio, "graph node 'route' is not a RANDOM_ABTEST with ratioA 0.3 alone"),
        (SPLIT, _gone, "there is no graph node 'route'"),
        (ROUTED, _untyped, "graph node 'route' is of type MODEL, not ROUTER"),
        (ROUTED, _flat, "graph node 'b' is not below 'route'"),
        (ENSEMBLE, _untyped, "graph node 'out' is of type MODEL, not OUTPUT_TRANSFORMER"),
    ],
)
def test_another_graph_is_drift(
    stages: tuple[Stage, ...], change: Callable[[Json], None], words: str
) -> None:
    pipeline = a_pipeline(*stages)
    sdep = render(pipeline, SELDON.smallest(pipeline))
    change(sdep)
    with pytest.raises(DriftError) as refusal:
        read(pipeline, sdep)
    assert words in str(refusal.value)


def test_the_order_of_a_combiner_s_stages_does_not_matter() -> None:
    pipeline = a_pipeline(*ENSEMBLE)
    sdep = render(pipeline, SELDON.smallest(pipeline))
    _swap(sdep)
    assert read(pipeline, sdep) == SELDON.smallest(pipeline)


def test_the_smallest_keeps_to_bounds_and_pins() -> None:
    bounds = StageBounds(min_replicas=3, batch_sizes=(2, 4))
    pinned = replace(stage("a"), bounds=bounds)
    pipeline = a_pipeline(pinned, bounds=Bounds(min_replicas=2, batch_sizes=(1, 4)))
    config = SELDON.smallest(pipeline)[0]
    assert (config.variant, config.batch_size, config.cores, config.replicas) == ("s", 4, 1.0, 3)
    pin = Pin(variant="l", batch_size=4, cores=0.5, replicas=5)
    config = SELDON.smallest(a_pipeline(replace(pinned, pin=pin)))[0]
    assert (config.variant, config.batch_size, config.cores, config.replicas) == ("l", 4, 0.5, 5)
