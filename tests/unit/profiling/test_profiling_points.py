"""The points offered to a planner; base allocation and stage SLAs, also on the shipped profiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import DomainError, NotFoundError
from ipa.model.pipeline import Bounds, Objective, Pin, Stage, StageBounds, Variant
from ipa.model.profile import OperatingPoint, ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.points import (
    SLA_FACTOR,
    Allocation,
    LatencySource,
    base_allocation,
    operating_points,
    point_capacity_rps,
    stage_sla_s,
)
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
    ("profiled", "requested", "expected"),
    [(1.5, 2.0, 2.0), (2.5, 2.0, 2.5), (None, 2.0, 2.0), (None, None, 0.0), (0.25, None, 0.25)],
)
@pytest.mark.parametrize("source", LatencySource)
def test_memory_and_readiness_come_along(
    source: LatencySource, profiled: float | None, requested: float | None, expected: float
) -> None:
    profile = replace(
        PROFILE, variants=(replace(PROFILE.variant("small"), memory_gib=profiled, readiness_s=profiled),)
    )
    stage = Stage("detect", (Variant("small", targets={"seldon": SeldonRun(memory_gib=requested)}),))
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


SPEECH = {
    "facebook-s2t-small-librispeech-asr": 1,
    "facebook-s2t-medium-librispeech-asr": 2,
    "facebook-s2t-large-librispeech-asr": 4,
}
ANSWERS = {"deepset-xlm-roberta-base-squad2": 1, "deepset-roberta-base-squad2": 1}
SUMMARIES = {
    "sshleifer-distilbart-xsum-1-1": 1,
    "sshleifer-distilbart-xsum-12-1": 2,
    "sshleifer-distilbart-xsum-6-6": 4,
    "sshleifer-distilbart-xsum-12-3": 8,
    "sshleifer-distilbart-xsum-9-6": 8,
    "sshleifer-distilbart-xsum-12-6": 16,
}
VIDEO = {
    "crop": {"yolov5n": 1, "yolov5s": 1, "yolov5m": 2, "yolov5l": 4, "yolov5x": 8},
    "classification": {"resnet18": 1, "resnet34": 1, "resnet50": 1, "resnet101": 1, "resnet152": 2},
}
SENTIMENT = {
    "audio": {**SPEECH, "facebook-s2t-large-librispeech-asr": 8},
    "nlp-sent": {
        "Souvikcmsa-SentimentAnalysisDistillBERT": 1,
        "Souvikcmsa-BERT_sentiment_analysis": 1,
        "Souvikcmsa-Roberta_Sentiment_Analysis": 1,
        "distilbert-base-uncased-finetuned-sst-2-english": 1,
    },
}
LANGUAGE = {"dinalzein-xlm-roberta-base-finetuned-language-identification": 1}
FRENCH, BIG_FRENCH = "Helsinki-NLP-opus-mt-fr-en", "Helsinki-NLP-opus-mt-tc-big-fr-en"
# What the authors' logs show, by pipeline and objective.
PUBLISHED = {
    ("video", "paper-v1"): VIDEO,
    ("video", "paper-v3"): VIDEO,
    ("audio-qa", "paper-v1"): {"audio": SPEECH, "nlp-qa": ANSWERS},
    ("audio-qa", "paper-v3"): {"audio": SPEECH, "nlp-qa": ANSWERS},
    ("audio-sent", "paper-v1"): SENTIMENT,
    ("audio-sent", "paper-v3"): SENTIMENT,
    ("sum-qa", "paper-v1"): {"nlp-sum": SUMMARIES, "nlp-qa": ANSWERS},
    ("sum-qa", "paper-v3"): {"nlp-sum": SUMMARIES, "nlp-qa": ANSWERS},
    ("nlp", "paper-v1"): {
        "nlp-li": LANGUAGE,
        "nlp-trans": {FRENCH: 4, BIG_FRENCH: 16},
        "nlp-sum": {**SUMMARIES, "sshleifer-distilbart-xsum-12-6": 8},
    },
    ("nlp", "paper-v3"): {
        "nlp-li": LANGUAGE,
        "nlp-trans": {FRENCH: 8, BIG_FRENCH: 16},
        "nlp-sum": SUMMARIES,
    },
}


@pytest.mark.parametrize(("pipeline", "objective"), PUBLISHED)
def test_the_shipped_profiles_give_the_published_allocations(
    pipeline: str, objective: str, root: Path
) -> None:
    weights = load_pipeline(root / "pipelines" / pipeline / "pipeline.yaml").objective(objective)
    profiles = load_profiles(root / "profiles", pipeline)
    allocations = {stage: dict(base_allocation(profile, weights)) for stage, profile in profiles.items()}
    assert allocations == PUBLISHED[pipeline, objective]
    assert weights.sla_s is not None
    slas_s = [stage_sla_s(profile, weights) for profile in profiles.values()]
    # Four digits of each latency leave this much open.
    assert sum(slas_s) == pytest.approx(weights.sla_s, rel=5e-4)


def stage(**variants: dict[float, tuple[float, float]]) -> StageProfile:
    """A profile: variants by rising accuracy, cores -> (latency_s, throughput_rps) at a batch of 1."""
    profiles = tuple(
        VariantProfile(
            name,
            0.1 * (index + 1),
            tuple(
                ProfilePoint(cores, 1, latency_s, throughput_rps=rate_rps)
                for cores, (latency_s, rate_rps) in points.items()
            ),
        )
        for index, (name, points) in enumerate(variants.items())
    )
    return StageProfile("shop", "detect", profiles, "none", date(2026, 11, 24), "made up")


TWO = stage(
    small={1.0: (0.10, 5.0), 2.0: (0.06, 9.0), 4.0: (0.04, 14.0)},
    large={1.0: (0.40, 2.0), 2.0: (0.24, 4.0), 4.0: (0.16, 6.0)},
)


def test_the_stage_sla_is_taken_at_the_largest_cores() -> None:
    assert stage_sla_s(TWO, Objective()) == pytest.approx(SLA_FACTOR * 0.10)
    assert stage_sla_s(TWO, Objective(latency_margin_ratio=1.0)) == pytest.approx(5.0)


def test_the_least_cores_that_carry_the_threshold() -> None:
    assert base_allocation(TWO, Objective(threshold_rps=4.0)) == {"small": 1, "large": 2}
    assert base_allocation(TWO, Objective(threshold_rps=6.0)) == {"small": 2, "large": 4}


def test_margins_count() -> None:
    assert base_allocation(TWO, Objective(threshold_rps=4.0, throughput_margin_ratio=-0.5)) == {"small": 2}


def test_a_tight_sla_asks_for_more_cores() -> None:
    assert base_allocation(TWO, Objective(threshold_rps=1.0), sla_s=0.2) == {"small": 1, "large": 4}


def test_the_pointer_never_moves_back() -> None:
    backward = replace(TWO, variants=(replace(TWO.variants[1], accuracy=0.05), TWO.variants[0]))
    assert base_allocation(backward, Objective(threshold_rps=6.0)) == {"large": 4, "small": 4}


def test_a_variant_that_nothing_sustains_is_left_out_and_hinders_no_other() -> None:
    hopeless = stage(
        small={1.0: (0.1, 5.0)}, broken={1.0: (0.1, 0.1), 2.0: (0.1, 0.1)}, large={1.0: (0.1, 5.0)}
    )
    assert base_allocation(hopeless, Objective(threshold_rps=4.0)) == {"small": 1, "large": 1}


def test_without_a_batch_of_one_there_is_no_stage_sla() -> None:
    point = ProfilePoint(1.0, 2, 0.1)
    bare = replace(TWO, variants=(VariantProfile("odd", 0.5, (point,)),))
    with pytest.raises(DomainError, match="variant 'odd' was not measured with a batch of 1 on 1 core"):
        stage_sla_s(bare, Objective())


def test_throughput_falls_back_to_latency() -> None:
    assert point_capacity_rps(ProfilePoint(1.0, 2, 0.4), Objective()) == 5
    assert point_capacity_rps(ProfilePoint(1.0, 2, 0.4, latency_mean_s=0.2), Objective()) == 10
