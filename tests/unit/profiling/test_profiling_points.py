"""The points offered to a planner."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Bounds, Objective, Pin, Stage, StageBounds, Variant
from ipa.model.profile import OperatingPoint, ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.points import Allocation, LatencySource, operating_points
from ipa.targets.seldon.section import SeldonRun


def variant(name: str, accuracy: float, slowness: float) -> VariantProfile:
    points = tuple(
        ProfilePoint(cores, batch, slowness * batch / cores, throughput_rps=0.9 * cores / slowness)
        for cores in (1.0, 2.0)
        for batch in (1, 2, 8)
    )
    return VariantProfile(name, accuracy, points)


PROFILE = StageProfile(
    "shop",
    "detect",
    (variant("small", 0.5, 0.1), variant("large", 0.9, 0.3), variant("unused", 0.99, 9.0)),
    "none",
    date(2026, 11, 24),
    "made up",
)
STAGE = Stage("detect", (Variant("large"), Variant("small")))


def offered(
    objective: Objective | None = None,
    bounds: Bounds | None = None,
    *,
    allocation: Allocation = Allocation.FREE,
    source: LatencySource = LatencySource.MEASURED,
) -> tuple[OperatingPoint, ...]:
    return operating_points(
        PROFILE, STAGE, objective or Objective(), bounds or Bounds(), allocation=allocation, source=source
    )


def test_measured_points_are_those_measured() -> None:
    points = offered()
    assert [(p.variant, p.cores, p.batch_size) for p in points] == [
        (name, cores, batch) for name in ("large", "small") for cores in (1, 2) for batch in (1, 2, 8)
    ]
    assert points[1] == OperatingPoint("large", 0.9, 2, 1.0, pytest.approx(0.6), pytest.approx(3.0))


def test_fitted_points_are_powers_of_two_in_the_measured_range() -> None:
    points = offered(source=LatencySource.FITTED)
    assert [p.batch_size for p in points if (p.variant, p.cores) == ("small", 1)] == [1, 2, 4, 8]
    four = next(p for p in points if (p.variant, p.cores, p.batch_size) == ("small", 1, 4))
    assert four.latency_s == pytest.approx(0.4)
    assert four.capacity_rps == pytest.approx(10), "b / l(b), since a batch of 4 was not measured"
    eight = next(p for p in points if (p.variant, p.cores, p.batch_size) == ("small", 1, 8))
    assert eight.capacity_rps == pytest.approx(9), "the measured maximum"


def measured(
    points: tuple[ProfilePoint, ...], source: LatencySource, margin: float = 0.0
) -> list[float | None]:
    """The mean latencies of the points that are offered of one variant, batches 1 to 8."""
    profile = replace(PROFILE, variants=(VariantProfile("small", 0.5, points),))
    offer = operating_points(
        profile,
        Stage("detect", (Variant("small"),)),
        Objective(latency_margin_ratio=margin),
        Bounds(),
        allocation=Allocation.FREE,
        source=source,
    )
    return [point.latency_mean_s for point in offer]


def test_a_measured_mean_carries_the_latency_s_margin() -> None:
    points = (ProfilePoint(1.0, 1, 0.2, 0.1), ProfilePoint(1.0, 8, 0.8), ProfilePoint(1.0, 16, 0.8, 0.9))
    expected = [pytest.approx(0.2), None, pytest.approx(1.6)]
    assert measured(points, LatencySource.MEASURED, margin=1.0) == expected, "and is not above the percentile"


def test_a_fitted_mean_is_as_far_below_as_at_the_nearest_measured_batch_of_these_cores() -> None:
    points = (
        ProfilePoint(1.0, 1, 0.1, 0.05),
        ProfilePoint(1.0, 2, 0.2),
        ProfilePoint(1.0, 8, 0.8, 0.6),
        ProfilePoint(2.0, 8, 0.4, 0.1),
    )
    # Batch 2 is nearer to 1 than to 8, batch 4 nearer to 8.
    expected = [0.05, 0.1, 0.3, 0.6, 0.1]
    assert measured(points, LatencySource.FITTED) == pytest.approx(expected)
    assert measured(points, LatencySource.FITTED, margin=1.0) == pytest.approx([2 * it for it in expected])


@pytest.mark.parametrize("source", LatencySource)
def test_without_any_mean_there_is_none(source: LatencySource) -> None:
    assert {point.latency_mean_s for point in offered(source=source)} == {None}


@pytest.mark.parametrize(
    ("profiled", "asked", "expected"),
    [(1.5, 2.0, 2.0), (2.5, 2.0, 2.5), (None, 2.0, 2.0), (None, None, 0.0), (0.25, None, 0.25)],
)
@pytest.mark.parametrize("source", LatencySource)
def test_memory_and_readiness_come_along(
    source: LatencySource, profiled: float | None, asked: float | None, expected: float
) -> None:
    profile = replace(
        PROFILE, variants=(replace(PROFILE.variant("small"), memory_gib=profiled, readiness_s=profiled),)
    )
    stage = Stage("detect", (Variant("small", targets={"seldon": SeldonRun(memory_gib=asked)}),))
    points = operating_points(
        profile, stage, Objective(), Bounds(), allocation=Allocation.FREE, source=source
    )
    assert {(point.memory_gib, point.readiness_s) for point in points} == {(expected, profiled or 0.0)}


@pytest.mark.parametrize("source", LatencySource)
def test_margins_apply_to_every_point(source: LatencySource) -> None:
    objective = Objective(latency_margin_ratio=1.0, throughput_margin_ratio=-0.5)
    for plain, margined in zip(offered(source=source), offered(objective, source=source), strict=True):
        assert margined.latency_s == pytest.approx(2 * plain.latency_s)
        assert margined.capacity_rps == pytest.approx(plain.capacity_rps / 2)


@pytest.mark.parametrize("source", LatencySource)
def test_batch_sizes_keep_to_objective_and_bounds(source: LatencySource) -> None:
    assert {p.batch_size for p in offered(Objective(max_batch_size=2), source=source)} == {1, 2}
    assert {p.batch_size for p in offered(bounds=Bounds(batch_sizes=(8,)), source=source)} == {8}


def test_the_bounds_name_other_fitted_batch_sizes_within_the_measured_range() -> None:
    points = offered(bounds=Bounds(batch_sizes=(3, 6, 12)), source=LatencySource.FITTED)
    assert {p.batch_size for p in points} == {3, 6}
    assert offered(bounds=Bounds(batch_sizes=(3, 6, 12))) == ()


@pytest.mark.parametrize(
    ("whole", "own", "pinned", "expected"),
    [
        (None, (3, 6), None, {3, 6}),
        ((2, 3), (3, 6), None, {3}),
        ((2, 4), (3, 6), None, set()),
        (None, None, 5, {1, 2, 4, 5, 8}),
        ((2, 3), None, 5, {2, 3}),
    ],
)
def test_fitted_batch_sizes_are_those_of_both_bounds_else_the_powers_and_the_pinned_one(
    whole: tuple[int, ...] | None, own: tuple[int, ...] | None, pinned: int | None, expected: set[int]
) -> None:
    stage = replace(STAGE, bounds=StageBounds(batch_sizes=own), pin=Pin(batch_size=pinned))
    points = operating_points(
        PROFILE,
        stage,
        Objective(),
        Bounds(batch_sizes=whole),
        allocation=Allocation.FREE,
        source=LatencySource.FITTED,
    )
    assert {point.batch_size for point in points} == expected


@pytest.mark.parametrize("source", LatencySource)
def test_base_allocation_fixes_the_cores(source: LatencySource) -> None:
    objective = Objective(threshold_rps=5.0)
    points = offered(objective, allocation=Allocation.BASE, source=source)
    assert {(p.variant, p.cores) for p in points} == {("small", 1), ("large", 2)}


def test_unused_variants_of_the_profile_do_not_matter() -> None:
    """The slow one would move the stage's SLA, and with it the base allocation."""
    strict = Objective(threshold_rps=0.1)
    points = offered(strict, allocation=Allocation.BASE)
    assert {p.variant for p in points} == {"small", "large"}


def test_a_variant_without_a_profile_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="has no variant 'absent'"):
        operating_points(
            PROFILE,
            Stage("detect", (Variant("absent"),)),
            Objective(),
            Bounds(),
            allocation=Allocation.FREE,
            source=LatencySource.MEASURED,
        )
