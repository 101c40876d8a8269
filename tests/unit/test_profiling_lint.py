"""Remarks on odd profiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.lint import lint_profile, summarise_fit


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
    flat = profile(ProfilePoint(1.0, 1, 0.100), ProfilePoint(1.0, 2, 0.098))
    assert "falls" not in str(lint_profile(flat))


@pytest.mark.parametrize(
    ("odd", "topic", "detail"),
    [
        (
            profile(ProfilePoint(2.0, 4, 0.1), ProfilePoint(2.0, 1, 0.2), ProfilePoint(1.0, 1, 0.9)),
            "latency falls as the batch grows",
            "2 cores batch 1→4",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.05, throughput_rps=19.5), load_rps=20.0),
            "throughput is censored at the offered load of 20 rps",
            "1 of 1 points",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.1), ProfilePoint(1.0, 2, 0.5), ProfilePoint(1.0, 4, 0.2)),
            "poor fit of latency",
            "1 cores R² ",
        ),
        (
            profile(ProfilePoint(1.0, 1, 0.1, latency_mean_s=0.2)),
            "mean latency above the p99",
            "1 cores batch 1",
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
