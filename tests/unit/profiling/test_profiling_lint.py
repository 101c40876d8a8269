"""Remarks on odd profiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ipa.control.engine.correction import ALARM, DEAD_BAND
from ipa.files import load_profiles
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.fit import fit_variant
from ipa.profiling.lint import (
    POOR_ERROR_RATIO,
    POOR_R2_RATIO,
    SCATTER_RATIO,
    Oddity,
    lint_profile,
    summarise_fit,
)


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


def test_tolerances_are_those_at_which_profiles_are_corrected_and_people_told() -> None:
    assert pytest.approx(DEAD_BAND - 1) == SCATTER_RATIO
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
