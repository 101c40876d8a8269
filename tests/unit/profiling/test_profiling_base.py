"""Base allocation and stage SLAs, on small examples and on the shipped profiles of IPA's pipelines."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import DomainError
from ipa.model.pipeline import Objective
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.points import (
    SLA_FACTOR,
    base_allocation,
    point_capacity_rps,
    stage_sla_s,
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
    found = {stage: dict(base_allocation(profile, weights)) for stage, profile in profiles.items()}
    assert found == PUBLISHED[pipeline, objective]
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
