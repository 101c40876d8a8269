"""Profiles that is not credible: the reasons, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from ipa.model.pipeline import Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.lint import doubt_of, doubts, summarise_fit

BATCHES = (1, 2, 4, 8)


def stage_profile(*variants: VariantProfile) -> StageProfile:
    return StageProfile("shop", "detect", variants, "none", date(2026, 11, 24), "made up")


def variant(name: str, *rows: Sequence[float]) -> VariantProfile:
    """A row of p99s over the batch sizes for each of 1, 2, ... cores."""
    points = tuple(
        ProfilePoint(float(cores), batch, latency_s)
        for cores, row in enumerate(rows, 1)
        for batch, latency_s in zip(BATCHES, row, strict=False)
    )
    return VariantProfile(name, 0.5, points)


SOUND = variant("small", (0.1, 0.2, 0.4, 0.8), (0.06, 0.11, 0.21, 0.41))
NOISE = variant("noisy", (0.1, 0.3, 0.09, 0.2), (0.2, 0.1, 0.3, 0.16))


def reasons(profile: StageProfile) -> tuple[str, ...]:
    doubt = doubt_of(profile)
    return doubt.reasons if doubt else ()


def test_a_sound_profile_is_believed() -> None:
    assert doubt_of(stage_profile(SOUND)) is None


def test_noise_is_not_believed() -> None:
    profile = stage_profile(NOISE)
    assert (summarise_fit(profile).r2_ratio or 0) < 0.1
    poor, rises, falls = reasons(profile)
    assert poor.startswith("poor latency fits: 2 of 2, mean R² ")
    assert rises == "latency rises with more cores at 2 of 4 steps"
    assert falls == "latency falls as the batch grows at 3 of 6 steps"


def test_the_doubt_names_its_stage() -> None:
    doubt = doubt_of(stage_profile(NOISE))
    assert doubt is not None
    assert str(doubt).startswith("the profile of detect is not credible: poor latency fits")


def test_a_latency_that_does_not_depend_on_the_batch_is_believed_though_its_r2_is_0() -> None:
    flat = stage_profile(variant("flat", (0.100, 0.112, 0.095, 0.104)))
    assert doubt_of(flat) is None
    assert str(summarise_fit(flat)).startswith("1 fit, flat, error up to ")


def test_a_few_poor_fits_among_good_ones_are_no_doubt() -> None:
    sound = [replace(SOUND, variant=f"v{number}") for number in range(4)]
    assert doubt_of(stage_profile(*sound, NOISE)) is None


@pytest.mark.parametrize(("disturbed", "is_doubted"), [(2, False), (3, True)])
def test_many_disturbed_points_are_a_doubt(disturbed: int, is_doubted: bool) -> None:
    points = tuple(
        replace(point, foreign_cpu_ratio=0.48 if number < disturbed else None)
        for number, point in enumerate(SOUND.points)
    )
    found = reasons(stage_profile(replace(SOUND, points=points)))
    assert found == (
        ("others used up to 48% of the CPUs while 3 of 8 points were measured",) if is_doubted else ()
    )


def test_few_points_and_means_above_the_p99_are_doubts() -> None:
    assert reasons(stage_profile(replace(SOUND, points=SOUND.points[:1]))) == ("a single point of small",)
    high = tuple(replace(point, latency_mean_s=2 * point.latency_s) for point in SOUND.points)
    assert "the mean is above the p99 at 8 of 8 points" in reasons(stage_profile(replace(SOUND, points=high)))


def test_only_variants_of_the_pipeline_count() -> None:
    profiles = {"detect": stage_profile(SOUND, NOISE)}
    assert doubts([Stage("detect", (Variant("small"),)), Stage("read", (Variant("x"),))], profiles) == ()
    (doubt,) = doubts([Stage("detect", (Variant("noisy"),))], profiles)
    assert doubt.stage == "detect"
