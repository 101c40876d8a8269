"""Remarks on odd profiles, and profiles that are not credible: the reasons, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ipa.control.engine.correction import ALARM
from ipa.files import load_profiles
from ipa.model.pipeline import Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.findings import (
    POOR_ERROR_RATIO,
    POOR_R2_RATIO,
    SCATTER_RATIO,
    Oddity,
    doubt_of,
    doubts,
    lint_profile,
    summarise_fit,
)
from ipa.profiling.fit import fit_variant


def profile(*points: ProfilePoint, load_rps: float | None = None) -> StageProfile:
    variant = VariantProfile("small", 0.5, points)
    return StageProfile("shop", "detect", (variant,), "none", date(2026, 11, 24), "made up", "", load_rps)


SOUND = profile(*(ProfilePoint(1.0, b, 0.1 * b, latency_mean_s=0.08 * b) for b in (1, 2, 4)))


def test_a_sound_profile_gets_no_remark() -> None:
    assert lint_profile(SOUND) == ()
    summary = summarise_fit(SOUND)
    assert (summary.fits, summary.r2_ratio) == (1, pytest.approx(1))
    assert str(summary) == "1 fit, R² 1.00, error up to 0%, 0% left out"


def test_scatter_is_no_fall() -> None:
    steps = [(1.0, 1, 0.100), (1.0, 2, 0.092), (2.0, 1, 0.109), (2.0, 2, 0.100)]
    assert lint_profile(profile(*(ProfilePoint(*step) for step in steps))) == ()


def test_a_poor_fit_is_one_of_which_people_would_be_told() -> None:
    assert pytest.approx(ALARM - 1) == POOR_ERROR_RATIO


def test_the_scatter_is_above_that_of_the_steadiest_profile(root: Path) -> None:
    fits = [
        fit.max_error_ratio
        for stage in load_profiles(root / "profiles", "ocr").values()
        for variant in stage.variants
        for fit in fit_variant(variant).fits.values()
    ]
    assert sum(error <= SCATTER_RATIO / 2 for error in fits) / len(fits) == pytest.approx(0.8, abs=0.02)


def test_the_worst_place_comes_first() -> None:
    falling = profile(*(ProfilePoint(1.0, b, s) for b, s in ((1, 1.0), (2, 0.8), (4, 0.4), (8, 0.3))))
    (remark, *_) = lint_profile(falling)
    assert remark.kind is Oddity.FALLS_WITH_BATCH
    assert remark.places == tuple(
        f"1 core batch {step}" for step in ("2→4 (-50%)", "4→8 (-25%)", "1→2 (-20%)")
    )
    assert remark.detail == ", ".join(remark.places)


def test_a_latency_that_stands_still_is_no_poor_fit() -> None:
    still = profile(*(ProfilePoint(1.0, b, s) for b, s in ((1, 0.100), (2, 0.105), (4, 0.098), (8, 0.101))))
    (fit,) = fit_variant(still.variants[0]).fits.values()
    assert fit.r2_ratio < POOR_R2_RATIO
    assert lint_profile(still) == ()


@pytest.mark.parametrize(
    ("odd", "topic", "detail"),
    [
        (
            profile(ProfilePoint(2.0, 4, 0.1), ProfilePoint(2.0, 1, 0.2), ProfilePoint(1.0, 1, 0.9)),
            "latency falls as the batch grows",
            "2 cores batch 1→4 (-50%)",
        ),
        (
            profile(ProfilePoint(2.0, 1, 0.3), ProfilePoint(0.5, 1, 0.2), ProfilePoint(1.0, 1, 0.21)),
            "latency rises with more cores",
            "batch 1 1→2 cores (+43%)",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.05, throughput_rps=19.5), load_rps=20.0),
            "throughput is censored at the offered load of 20 rps",
            "1 of 1 points",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.1), ProfilePoint(1.0, 2, 0.5), ProfilePoint(1.0, 4, 0.2)),
            "poor fit of latency",
            "1 core R² ",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.1, latency_mean_s=0.2)),
            "mean latency above the p99",
            "1 core batch 1",
        ),
    ],
)
def test_each_oddity_gets_its_remark(odd: StageProfile, topic: str, detail: str) -> None:
    remarks = [remark for remark in lint_profile(odd) if remark.topic.startswith(topic)]
    assert len(remarks) == 1
    assert remarks[0].variant == "small"
    assert remarks[0].detail.startswith(detail)


def test_a_throughput_below_the_load_is_not_censored() -> None:
    free = profile(ProfilePoint(1.0, 1, 0.05, throughput_rps=12.0), load_rps=20.0)
    assert lint_profile(free) == ()
    assert lint_profile(replace(SOUND, load_rps=20.0)) == (), "nothing was measured"


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


CALM = variant("small", (0.1, 0.2, 0.4, 0.8), (0.06, 0.11, 0.21, 0.41))
NOISE = variant("noisy", (0.1, 0.3, 0.09, 0.2), (0.2, 0.1, 0.3, 0.16))


def reasons(profile: StageProfile) -> tuple[str, ...]:
    doubt = doubt_of(profile)
    return doubt.reasons if doubt else ()


def test_a_sound_profile_is_believed() -> None:
    assert doubt_of(stage_profile(CALM)) is None


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
    sound = [replace(CALM, variant=f"v{number}") for number in range(4)]
    assert doubt_of(stage_profile(*sound, NOISE)) is None


@pytest.mark.parametrize(("disturbed", "is_doubted"), [(2, False), (3, True)])
def test_many_disturbed_points_are_a_doubt(disturbed: int, is_doubted: bool) -> None:
    points = tuple(
        replace(point, foreign_cpu_ratio=0.48 if number < disturbed else None)
        for number, point in enumerate(CALM.points)
    )
    words = reasons(stage_profile(replace(CALM, points=points)))
    assert words == (
        ("other work used up to 48% of the CPUs while 3 of 8 points were measured",) if is_doubted else ()
    )


def test_few_points_and_means_above_the_p99_are_doubts() -> None:
    assert reasons(stage_profile(replace(CALM, points=CALM.points[:1]))) == ("a single point of small",)
    high = tuple(replace(point, latency_mean_s=2 * point.latency_s) for point in CALM.points)
    assert "the mean is above the p99 at 8 of 8 points" in reasons(stage_profile(replace(CALM, points=high)))


def test_only_variants_of_the_pipeline_count() -> None:
    profiles = {"detect": stage_profile(CALM, NOISE)}
    assert doubts([Stage("detect", (Variant("small"),)), Stage("read", (Variant("x"),))], profiles) == ()
    (doubt,) = doubts([Stage("detect", (Variant("noisy"),))], profiles)
    assert doubt.stage == "detect"
