"""The statements of pipelines about themselves, and the checks that hold others to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.guards import bound_faults
from ipa.model.errors import ConfigurationError, InputError
from ipa.model.pipeline import (
    Bounds,
    Edge,
    Objective,
    Pipeline,
    Sla,
    Stage,
    StageBounds,
    StageKind,
    Variant,
    chain,
)
from ipa.model.plan import StageConfig
from ipa.service.checks import checked_configs
from ipa.targets.local.replica import checked
from ipa.targets.local.section import LocalRun

VARIANTS = (Variant("s", targets={"local": LocalRun("x.Y")}),)
A, B, C = (Stage(name, VARIANTS) for name in "abc")


def a_pipeline(*stages: Stage, bounds: Bounds | None = None) -> Pipeline:
    return Pipeline("shop", stages, Sla(1.0), {"default": Objective()}, bounds or Bounds())


def configs(pipeline: Pipeline, replicas: int = 1, batch_size: int = 1) -> tuple[StageConfig, ...]:
    return tuple(StageConfig(stage.name, "s", batch_size, 1.0, replicas) for stage in pipeline.served)


def test_a_chain_puts_each_stage_after_the_one_before_it() -> None:
    by_variant = {"s": 2.0}
    assert [stage.after for stage in chain([A, B, C], [by_variant])] == [
        (),
        (Edge("a", by_variant),),
        (Edge("b", 1.0),),
    ]
    assert [stage.after for stage in chain([A, B], [3.0, 4.0])] == [(), (Edge("a", 3.0),)]
    assert chain([replace(A, after=(Edge("z"),))]) == (A,)


ROUTER = Stage("r", (), after=(Edge("a"),), kind=StageKind.ROUTER)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((A,), True),
        (chain([A, B, C]), True),
        ((A, replace(B, after=(Edge("a"),)), replace(C, after=(Edge("a"),))), False),
        ((A, replace(B, after=(Edge("a"),)), replace(C, after=(Edge("a"), Edge("b")))), False),
        ((A, ROUTER), False),
        ((A, B), False),
    ],
)
def test_only_a_chain_is_run_on_this_machine(stages: tuple[Stage, ...], expected: bool) -> None:
    pipeline = a_pipeline(*stages)
    assert pipeline.is_chain is expected
    if expected:
        assert checked(pipeline, configs(pipeline)) == configs(pipeline)
    else:
        with pytest.raises(ConfigurationError, match="supports only chains"):
            checked(pipeline, configs(pipeline))


def test_a_router_without_variants_has_no_configuration() -> None:
    pipeline = a_pipeline(A, ROUTER)
    assert pipeline.served == (A,)
    assert bound_faults(pipeline, configs(pipeline)) == []


@pytest.mark.parametrize(
    ("whole", "own", "expected"),
    [
        (Bounds(), StageBounds(), StageBounds(1, None, None)),
        (Bounds(max_replicas=8, batch_sizes=(1, 2)), StageBounds(), StageBounds(1, 8, (1, 2))),
        (Bounds(min_replicas=2), StageBounds(3, 9, (4,)), StageBounds(3, 9, (4,))),
        (Bounds(None, None, 4, 5, (1, 2, 4)), StageBounds(3, 9, (2, 4, 8)), StageBounds(4, 5, (2, 4))),
    ],
)
def test_the_tighter_limit_holds(whole: Bounds, own: StageBounds, expected: StageBounds) -> None:
    assert replace(A, bounds=own).limits(whole) == expected


def test_a_configuration_beyond_a_stage_s_own_bounds_is_never_written() -> None:
    limited = replace(B, bounds=StageBounds(min_replicas=2, max_replicas=3, batch_sizes=(2, 4)))
    pipeline = a_pipeline(*chain([A, limited]), bounds=Bounds(max_replicas=8, batch_sizes=(1, 2)))
    few, many = configs(pipeline), configs(pipeline, replicas=4, batch_size=2)
    assert bound_faults(pipeline, few) == [
        "b: 1 replicas are below the bound of 2",
        "b: batch size 1 is not allowed",
    ]
    assert bound_faults(pipeline, many) == ["b: 4 replicas are above the bound of 3"]
    with pytest.raises(InputError) as caught:
        checked_configs(pipeline, few)
    assert [problem.pointer for problem in caught.value.problems] == [
        "/configs/1/replicas",
        "/configs/1/batch_size",
    ]
    assert checked_configs(pipeline, configs(pipeline, replicas=3, batch_size=2))
