"""Fits, base allocations, operating points and findings, whatever was measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.pipeline import Bounds, Objective, Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.findings import Oddity, findings, lint_profile
from ipa.profiling.fit import Form, fit_variant
from ipa.profiling.points import (
    Allocation,
    LatencySource,
    base_allocation,
    operating_points,
    point_capacity_rps,
    point_latency_s,
    stage_sla_s,
)
from tests.amounts import many
from tests.fakes.policy_contract import with_points

# No time limit on a busy machine, and the same examples on every one.
STEADY = settings(deadline=None, derandomize=True, max_examples=many(30))

LATENCIES = st.floats(min_value=1e-4, max_value=100)
TODAY = date(2026, 11, 24)
RATES = st.none() | st.floats(min_value=0.01, max_value=1000)


@st.composite
def variants(draw: st.DrawFn, name: str = "small") -> VariantProfile:
    """Any figures at all, on one to three core counts, with a batch of 1 always among them."""
    sizes = draw(st.sets(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=3))
    batches = {1, *draw(st.sets(st.sampled_from([2, 4, 8, 16, 64]), max_size=4))}
    points = tuple(
        ProfilePoint(cores, batch, draw(LATENCIES), throughput_rps=draw(RATES))
        for cores in sorted(sizes)
        for batch in sorted(batches)
    )
    return VariantProfile(name, draw(st.floats(min_value=0.01, max_value=1)), points)


@st.composite
def profiles(draw: st.DrawFn) -> StageProfile:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    measured = tuple(draw(variants(name)) for name in names)
    return StageProfile("shop", "detect", measured, "none", TODAY, "made up")


OBJECTIVES = st.builds(
    Objective,
    latency_margin_ratio=st.floats(min_value=-0.5, max_value=1),
    throughput_margin_ratio=st.floats(min_value=-0.5, max_value=1),
    threshold_rps=st.floats(min_value=0.01, max_value=50),
    max_batch_size=st.none() | st.integers(1, 64),
)


@STEADY
@given(variants())
def test_a_fitted_latency_is_positive_and_never_falls(variant: VariantProfile) -> None:
    for fit in fit_variant(variant).fits.values():
        values = [fit.latency_s(batch) for batch in range(fit.batch_min, fit.batch_max + 1)]
        assert min(values) > 0
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(values))
        assert fit.r2_ratio <= 1
        assert fit.max_error_ratio >= 0
        if fit.form is Form.CONSTANT:
            assert fit.coefficients[1:] == (0, 0)


@STEADY
@given(profiles(), OBJECTIVES)
def test_base_cores_rise_with_accuracy_and_carry_the_threshold(
    profile: StageProfile, objective: Objective
) -> None:
    allocation = base_allocation(profile, objective)
    limit_s = stage_sla_s(profile, objective)
    order = [
        each for each in sorted(profile.variants, key=lambda v: v.accuracy) if each.variant in allocation
    ]
    cores = [allocation[each.variant] for each in order]
    assert cores == sorted(cores)
    for variant in order:
        assert any(
            point.cores == allocation[variant.variant]
            and point_capacity_rps(point, objective) >= objective.threshold_rps
            and point_latency_s(point, objective) <= limit_s
            for point in variant.points
        )


@pytest.mark.parametrize("source", LatencySource)
@STEADY
@given(profile=profiles(), objective=OBJECTIVES)
def test_operating_points_are_usable_and_those_of_base_a_part_of_all(
    source: LatencySource, profile: StageProfile, objective: Objective
) -> None:
    stage = Stage("detect", tuple(Variant(each.variant) for each in profile.variants))
    free, base = (
        operating_points(profile, stage, objective, Bounds(), allocation=allocation, source=source)
        for allocation in (Allocation.FREE, Allocation.BASE)
    )
    assert set(base) <= set(free)
    assert len({(p.variant, p.batch_size, p.cores) for p in free}) == len(free)
    for point in free:
        assert point.latency_s > 0
        assert point.capacity_rps > 0
        assert objective.max_batch_size is None or point.batch_size <= objective.max_batch_size
        assert point.accuracy == profile.variant(point.variant).accuracy


@STEADY
@given(profiles(), st.floats(0.001, 0.1))
def test_latencies_that_only_grow_with_the_batch_and_fall_with_cores_are_not_said_to_do_else(
    profile: StageProfile, step: float
) -> None:
    sound = with_points(profile, lambda it: replace(it, latency_s=(step + 0.01 * it.batch_size) / it.cores))
    assert not {each.kind for each in lint_profile(sound)} & {
        Oddity.FALLS_WITH_BATCH,
        Oddity.RISES_WITH_CORES,
        Oddity.POOR_FIT,
    }


@STEADY
@given(profiles(), st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 400))
def test_each_finding_says_of_what_it_is_and_what_mends_it(
    profile: StageProfile, names: set[str], days: int
) -> None:
    stages = (Stage("detect", tuple(Variant(name) for name in sorted(names))),)
    known = {"detect": replace(profile, measured_on=TODAY - timedelta(days))}
    listed = findings("shop", stages, 0.6, known, TODAY)
    keys = [(each.kind, each.variant) for each in listed]
    assert len(set(keys)) == len(keys)
    measured = {each.variant for each in profile.variants}
    for each in listed:
        assert each.remedy and each.topic
        assert each.variant is None or each.variant in names | measured
    kinds = {each.kind.value for each in listed}
    assert ("old" in kinds) == (days > 90)
    assert ("not_measured" in kinds) == bool(names - measured)
    assert ("not_in_pipeline" in kinds) == bool(measured - names)
