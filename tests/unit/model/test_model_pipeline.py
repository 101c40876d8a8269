"""The statements of pipelines about themselves, the checks that hold others to them, and parts of one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ipa.control.engine.guards import adds_only, bound_faults
from ipa.control.engine.transition import changes, classify
from ipa.model.decision import ReasonCode
from ipa.model.errors import ConfigurationError, InputError
from ipa.model.parts import (
    Overhead,
    in_order,
    is_shared,
    only_shares,
    paired,
    parts_of,
    share_faults,
    share_of,
    stage_pairs,
    with_share,
)
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
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, change_peak
from ipa.service.checks import checked_configs
from ipa.targets.local.replica import checked
from ipa.targets.local.section import LocalRun
from tests.fakes.images import IMAGES

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


HIGH = StageConfig("classify", "high", 1, 8.0, 1)
LOW = StageConfig("classify", "low", 1, 2.0, 1)
Configs = tuple[StageConfig, ...]


def row(**percents: int) -> Configs:
    """Parts by variant with their shares."""
    by_name = {"high": HIGH, "low": LOW}
    return in_order([with_share((by_name[name],), percent) for name, percent in percents.items()])


def test_one_configuration_alone_is_one_part_for_all_requests() -> None:
    pair = (StageConfig("one", "a", 1, 1.0, 1), StageConfig("two", "b", 1, 1.0, 1))
    assert parts_of(pair) == (pair,) and share_of(pair) == 100
    assert not is_shared(pair) and parts_of(()) == () and share_faults(pair) == []
    assert str(HIGH) == "classify=high b1 1×8 cores"
    assert str(with_share((HIGH,), 80)[0]) == "classify=high b1 1×8 cores for 80 %"


def test_what_was_written_down_before_there_were_shares_is_read_as_alone() -> None:
    old = {key: value for key, value in asdict(HIGH).items() if key != "share_percent"}
    assert TypeAdapter(StageConfig).validate_python(json.loads(json.dumps(old))) == HIGH


@given(st.permutations([("high", 55), ("low", 45)]))
def test_equal_sets_are_equal_rows(order: list[tuple[str, int]]) -> None:
    assert row(**dict(order)) == row(high=55, low=45)
    assert [share_of(part) for part in parts_of(row(**dict(order)))] == [55, 45]


def test_a_part_replaces_the_one_of_its_variants_and_one_alone_replaces_one_alone() -> None:
    assert paired((HIGH,), (LOW,)) == (((HIGH,), (LOW,)),)
    both = row(high=80, low=20)
    assert paired((HIGH,), both) == (((HIGH,), both[:1]), (None, both[1:]))
    assert paired(both, (LOW,)) == ((both[1:], (LOW,)), (both[:1], None))
    assert list(stage_pairs((), (LOW,))) == [(None, LOW)]


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        (row(high=80, low=10), "the shares are 90 % together, not 100 %"),
        (row(high=110, low=-10), "a share is 0 to 100 %"),
        ((HIGH, LOW), "the shares are 200 % together"),
    ],
)
def test_shares_that_are_no_whole_are_a_fault_and_so_never_written(configs: Configs, words: str) -> None:
    assert words in "; ".join(share_faults(configs))
    assert words in "; ".join(bound_faults(IMAGES, configs))


def test_each_part_keeps_to_the_bounds_and_all_to_the_cores() -> None:
    assert bound_faults(IMAGES, row(high=80, low=20)) == []
    other = StageConfig("classify", "other", 2, 5.0, 1)
    assert bound_faults(IMAGES, in_order([with_share((HIGH,), 80), with_share((other,), 20)])) == [
        "classify has no variant 'other'",
        "classify: batch size 2 is not allowed",
        "13 cores exceed the budget of 12",
    ]


def test_each_part_has_an_orchestrator_of_its_own() -> None:
    beside = Overhead(0.5)
    assert beside.cores((HIGH,)) == 8.5 and beside.cores(row(high=80, low=20)) == 11.0
    # New parts come before old ones go, and a part is replaced beside what it was.
    smaller = in_order([with_share((StageConfig("classify", "high", 1, 4.0, 1),), 100)])
    bounds = Bounds(overhead=beside)
    peak = change_peak(row(high=80, low=20), smaller, SIDE_BY_SIDE, bounds)
    assert peak.cpu_cores == 8 + 4 + 2 + 2 * 0.5
    assert change_peak((HIGH,), (LOW,), DEPLOYMENT, bounds).cpu_cores == 8 + 2 + 0.5


def test_what_changes_is_named_by_part() -> None:
    both = row(high=80, low=20)
    assert only_shares(both, row(high=60, low=40)) and not only_shares((HIGH,), both)
    assert classify(both, row(high=60, low=40), urgent=True) is ReasonCode.RESHARE
    assert classify((HIGH,), both, urgent=True) is ReasonCode.SWITCH_VARIANT
    assert classify(both, (HIGH,), urgent=False) is ReasonCode.SWITCH_VARIANT
    assert changes(both, (HIGH,)) == (
        "classify=high b1 1×8 cores for 80 % → classify=high b1 1×8 cores, "
        "classify=low b1 1×2 cores for 20 % → nothing"
    )


def test_only_replicas_are_added_where_no_part_and_no_share_changes() -> None:
    both = row(high=80, low=20)
    more = (StageConfig("classify", "high", 1, 8.0, 2, 80), both[1])
    assert adds_only(both, more)
    assert not adds_only(both, row(high=60, low=40))
    assert not adds_only((HIGH,), both) and not adds_only(both, (HIGH,))
