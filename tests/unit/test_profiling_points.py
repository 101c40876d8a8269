"""The points offered to a planner."""

from __future__ import annotations

from datetime import date

import pytest

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Bounds, Objective, Stage, Variant
from ipa.model.profile import OperatingPoint, ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.points import Allocation, LatencySource, operating_points


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
