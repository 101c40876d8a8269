"""Replicas that keep variants loaded or are replaced: the memory and cores both take, what a switch costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from ipa.model.errors import InputError
from ipa.model.measured import is_lighter, resident_variants, stand_ins, with_profiles
from ipa.model.pipeline import Bounds, Canary, Edge, Objective, Pin, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.resources import Resources
from ipa.model.rolling import DEPLOYMENT, PROCESSES, SIDE_BY_SIDE, Rolling, change_peak, first_hop, peak_of
from ipa.model.serving import ServingSemantics, unhonoured

# Not in the order of the file.
ACCURACIES = {"large": 0.9, "tiny": 0.5, "medium": 0.8, "small": 0.6}
MEMORY_GIB = {"large": 4.0, "tiny": 0.5, "medium": 2.0, "small": 1.0}
SMALL = StageConfig("detect", "small", 4, 1.0, 4)
LARGE = replace(SMALL, variant="large", batch_size=1)


def pipeline(resident: int | str, memory_gib: float | None = None) -> Pipeline:
    stage = Stage("detect", tuple(Variant(name) for name in ACCURACIES), resident=resident)
    return Pipeline("shop", (stage,), Sla(1.0), {"default": Objective()}, Bounds(memory_gib=memory_gib))


def profiles(memory_gib: Mapping[str, float] = MEMORY_GIB) -> dict[str, StageProfile]:
    variants = tuple(
        VariantProfile(
            name,
            accuracy,
            (ProfilePoint(1.0, 1, 0.1),),
            memory_gib=memory_gib.get(name),
            accelerators={"nvidia.com/gpu": 1},
        )
        for name, accuracy in ACCURACIES.items()
    )
    return {"detect": StageProfile("shop", "detect", variants, "", date(2026, 1, 1), "")}


def others(pipeline: Pipeline, variant: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lighter and the heavier variants that may serve instead."""
    return stand_ins(pipeline, "detect", variant, ACCURACIES)


@pytest.mark.parametrize(
    ("resident", "variant", "loaded"),
    [
        (1, "medium", ("medium",)),
        (2, "medium", ("medium", "small")),
        (3, "medium", ("medium", "small", "large")),
        (2, "tiny", ("tiny", "small")),
        (3, "large", ("large", "medium", "small")),
        (9, "tiny", ("tiny", "small", "medium", "large")),
        ("all", "small", ("small", "tiny", "medium", "large")),
    ],
)
def test_the_running_variant_and_its_neighbours_by_accuracy_are_loaded(
    resident: int | str, variant: str, loaded: tuple[str, ...]
) -> None:
    assert resident_variants(with_profiles(pipeline(resident), profiles()), "detect", variant) == loaded


def test_without_profiles_the_order_of_the_file_counts() -> None:
    assert resident_variants(pipeline(2), "detect", "medium") == ("medium", "tiny")


@pytest.mark.parametrize(
    ("variant", "lighter"),
    [("large", ("medium", "small", "tiny")), ("small", ("tiny",)), ("tiny", ())],
)
def test_all_less_accurate_variants_may_stand_in(variant: str, lighter: tuple[str, ...]) -> None:
    measured = with_profiles(pipeline("all"), profiles())
    assert others(measured, variant)[0] == lighter


def test_none_stands_in_where_the_file_pins_the_variant_or_asks_for_an_accuracy() -> None:
    measured = with_profiles(pipeline("all"), profiles())
    floor = replace(measured, bounds=replace(measured.bounds, accuracy_floor=0.1))
    assert others(floor, "large")[0] == ()
    pinned = replace(measured.stages[0], pin=Pin(variant="large"))
    assert others(replace(measured, stages=(pinned,)), "large")[0] == ()
    # Nothing is known of their accuracy.
    assert others(pipeline("all"), "large")[0] == ()


@pytest.mark.parametrize(
    ("variant", "heavier"),
    [("tiny", ("small", "medium", "large")), ("medium", ("large",)), ("large", ())],
)
def test_all_more_accurate_variants_may_serve_while_there_is_time(
    variant: str, heavier: tuple[str, ...]
) -> None:
    measured = with_profiles(pipeline("all"), profiles())
    assert others(measured, variant)[1] == heavier
    assert others(pipeline("all"), variant)[1] == (), "nothing is known of their accuracy"
    floor = replace(measured, bounds=replace(measured.bounds, accuracy_floor=0.1))
    assert others(floor, variant)[1] == heavier, "no less than what was asked for"


def test_no_heavier_variant_serves_where_one_is_pinned_or_new_ones_are_measured_first() -> None:
    measured = with_profiles(pipeline("all"), profiles())
    pinned = replace(measured.stages[0], pin=Pin(variant="tiny"))
    assert others(replace(measured, stages=(pinned,)), "tiny")[1] == ()
    assert others(replace(measured, canary=Canary()), "tiny")[1] == ()


@pytest.mark.parametrize(("resident", "memory_gib"), [(2, 6.0), (3, 7.0), ("all", 7.5)])
def test_every_replica_has_room_for_the_largest_of_its_variants(
    resident: int | str, memory_gib: float
) -> None:
    bounds = with_profiles(pipeline(resident), profiles()).bounds
    for variant in ACCURACIES:
        held = bounds.beside(replace(SMALL, variant=variant))
        # They share the accelerator.
        assert held == Resources(memory_gib=memory_gib, accelerators={"nvidia.com/gpu": 1})


def test_a_variant_alone_takes_its_own_memory() -> None:
    assert with_profiles(pipeline(1), profiles()).bounds.beside(SMALL).memory_gib == 1.0


def test_unknown_memory_is_refused_by_name_where_memory_has_a_bound() -> None:
    given = {"large": 4.0, "medium": 2.0}
    with_profiles(pipeline("all"), profiles(given))
    with pytest.raises(
        InputError, match=r"'detect' keeps 4 variants .* no memory of tiny, small, .*bounds"
    ) as at:
        with_profiles(pipeline("all", memory_gib=64), profiles(given))
    assert "ipa profile" in (at.value.hint or "")


@pytest.mark.parametrize("rolling", [SIDE_BY_SIDE, DEPLOYMENT])
def test_a_switch_takes_no_more_than_either_variant(rolling: Rolling) -> None:
    for resident, cores in ((1, None), (2, 4.0), ("all", 4.0)):
        made = with_profiles(pipeline(resident), profiles())
        own = rolling.of(made)
        peak = change_peak([SMALL], [LARGE], own, made.bounds)
        assert own.keeps_replicas(SMALL, LARGE) is (cores is not None)
        if cores is None:
            assert peak.cpu_cores > 4.0
        else:
            assert peak == made.bounds.held([LARGE])
            # Other cores are other processes.
            assert not own.keeps_replicas(SMALL, replace(LARGE, cores=2.0))
            assert first_hop(SMALL, replace(LARGE, replicas=2), own).replicas == 2


def test_what_a_batch_takes_is_a_line_through_what_was_measured() -> None:
    points = [(1, 1, 0.3), (1, 4, 0.6), (0.5, 1, 0.6), (0.5, 4, 1.2)]
    line = VariantProfile("a", 0.5, tuple(ProfilePoint(*at, 9.0, mean_s) for *at, mean_s in points))
    assert line.batch_core_s == pytest.approx((0.3, 0.1))
    assert line.item_core_s == pytest.approx(0.15)
    # Of one size nothing says what a further item takes: as much as the first.
    assert replace(line, points=line.points[:1]).batch_core_s == pytest.approx((0.3, 0.3))
    assert replace(line, points=()).batch_core_s == (0.0, 0.0)


def test_a_less_accurate_variant_that_is_slower_relieves_nothing() -> None:
    profile = profiles()["detect"]
    slow = {"medium": 0.3, "tiny": 0.1}
    variants = tuple(
        replace(each, points=(ProfilePoint(1.0, 1, 0.5, slow.get(each.variant, 0.2)),))
        for each in profile.variants
    )
    measured = with_profiles(pipeline("all"), {"detect": replace(profile, variants=variants)})
    assert others(measured, "large")[0] == ("small", "tiny")
    assert others(measured, "medium")[0] == ("small", "tiny")


def test_a_lighter_variant_is_known_by_its_accuracy() -> None:
    bounds = with_profiles(pipeline("all"), profiles()).bounds
    assert is_lighter(bounds, "detect", "large", "tiny")
    assert not is_lighter(bounds, "detect", "tiny", "large")
    assert not is_lighter(Bounds(), "detect", "large", "tiny")


def test_a_target_that_loads_one_variant_refuses_the_key() -> None:
    (refused,) = unhonoured(pipeline("all"), ServingSemantics(), "the toy")
    assert str(refused).startswith("resident: the toy loads one variant in a replica; ")
    assert not list(unhonoured(pipeline("all"), ServingSemantics(keeps_variants=True), "the toy"))
    assert not list(unhonoured(pipeline(1), ServingSemantics(), "the toy"))


DETECT, READ, COUNT = (Stage(name, (Variant("small"),)) for name in ("detect", "read", "count"))
ABLE = ServingSemantics(most_parts=2, keeps_variants=True)


@pytest.mark.parametrize(
    ("key", "changes", "lacking"),
    [
        ("drop_after", {"drop_after_s": 1.0}, {"drops_late": False}),
        ("sets", {"sets": True}, {"most_parts": 1}),
        ("canary", {"canary": Canary()}, {"most_parts": 1}),
        (
            "graph",
            {"stages": (DETECT, *(replace(it, after=(Edge("detect"),)) for it in (READ, COUNT)))},
            {"runs_graphs": False},
        ),
        ("fan_out", {"stages": chain([DETECT, READ], [2.0])}, {"fans_out": False}),
        (
            "resident",
            {"stages": (Stage("detect", (Variant("small"), Variant("large")), resident="all"),)},
            {"keeps_variants": False},
        ),
        (
            "batch_timeout",
            {"stages": (replace(DETECT, batch_timeout_s=0.5),)},
            {"waits_for_batches": False},
        ),
    ],
)
def test_only_a_key_that_is_set_is_refused_by_a_target_that_ignores_it(
    key: str, changes: dict[str, Any], lacking: dict[str, Any]
) -> None:
    plain = Pipeline("shop", (DETECT,), Sla(1.0), {"default": Objective()})
    using, unable = replace(plain, **changes), replace(ABLE, **lacking)
    assert [each.key for each in unhonoured(using, unable, "the toy")] == [key]
    assert not [*unhonoured(plain, unable, "the toy"), *unhonoured(using, ABLE, "the toy")]


IN_PLACE = replace(PROCESSES, switches=("detect",))
QUARTER = Rolling(shrinks_first=True, surge_ratio=0.25)


@pytest.mark.parametrize(
    ("rolling", "old", "new", "peak_cores"),
    [
        (SIDE_BY_SIDE, (4, 2.0), (4, 3.0), 20.0),
        # One of four is added: four old and one new, or four new and one old.
        (QUARTER, (4, 2.0), (4, 3.0), 14.0),
        (QUARTER, (4, 3.0), (4, 2.0), 14.0),
        # As many as the larger number, and a quarter of them, rounded up, beside them.
        (QUARTER, (2, 1.0), (5, 4.0), 22.0),
        (QUARTER, (5, 4.0), (2, 1.0), 22.0),
        (QUARTER, (1, 10.0), (1, 1.0), 11.0),
        # As many as fit the cores of the larger end: five of eight cores would be more than either end has.
        (QUARTER, (5, 1.0), (1, 8.0), 9.0),
        (QUARTER, (5, 8.0), (1, 9.0), 44.0),
        # Replicas that stay grow before others go, and shrink once others are there.
        (IN_PLACE, (1, 0.5), (1, 1.0), 1.0),
        (IN_PLACE, (1, 0.5), (2, 0.25), 0.75),
        (IN_PLACE, (2, 0.25), (1, 0.5), 0.75),
        (IN_PLACE, (2, 0.25), (3, 0.5), 1.5),
        # Two threads.
        (IN_PLACE, (1, 1.0), (1, 1.5), 2.5),
    ],
)
def test_the_peak_of_a_change(
    rolling: Rolling, old: tuple[int, float], new: tuple[int, float], peak_cores: float
) -> None:
    configs = [
        StageConfig("detect", variant, 1, cores, replicas)
        for variant, (replicas, cores) in (("small", old), ("large", new))
    ]
    each = [Resources(cpu_cores=cores, memory_gib=cores / 2) for _, cores in (old, new)]
    peak = peak_of(configs[0], each[0], configs[1], each[1], rolling)
    assert (peak.cpu_cores, peak.memory_gib) == pytest.approx((peak_cores, peak_cores / 2))
