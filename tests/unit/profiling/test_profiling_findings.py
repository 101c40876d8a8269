"""The findings on the profiles of a pipeline, and their remedies."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from ipa.files import load_pipeline, load_profiles
from ipa.model.pipeline import Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling.findings import OLD, Oddity, ProfileFinding, ProfileStatus, findings, overview, unmeasured
from ipa.profiling.fit import Form

TODAY = date(2026, 11, 24)
SLA_S = 1.0


def variant(
    name: str, accuracy: float, latency_s: float, batches: tuple[int, ...] = (1, 2, 4)
) -> VariantProfile:
    points = tuple(
        ProfilePoint(cores, batch, latency_s * batch / cores) for cores in (1.0, 2.0) for batch in batches
    )
    return VariantProfile(name, accuracy, points)


SMALL, LARGE = variant("small", 0.5, 0.1), variant("large", 0.8, 0.2)


def profile(*variants: VariantProfile, stage: str = "detect") -> StageProfile:
    return StageProfile("shop", stage, variants, "2 cores", TODAY, "made up", "ipa profile shop")


def stage(*names: str, name: str = "detect") -> Stage:
    return Stage(name, tuple(Variant(each) for each in names))


BOTH = (stage("small", "large"),)


def found_in(
    *profiles: StageProfile, stages: tuple[Stage, ...] = (), only: tuple[str, ...] = ()
) -> list[ProfileFinding]:
    known = stages or (stage("small", "large"),)
    by_stage = {each.stage: each for each in profiles}
    return list(findings("shop", known, SLA_S, by_stage, TODAY, only))


def test_nothing_is_found_on_a_sound_profile() -> None:
    assert found_in(profile(SMALL, LARGE)) == []


def test_a_profile_is_old_a_day_after_the_limit() -> None:
    sound = profile(SMALL, LARGE)
    assert found_in(replace(sound, measured_on=TODAY - OLD)) == []
    (one,) = found_in(replace(sound, measured_on=TODAY - OLD - timedelta(days=1)))
    assert (one.kind, one.variant, one.places) == (ProfileStatus.OLD, None, ("91 days, on 2026-08-25",))
    assert one.remedy.endswith("ipa profile shop --write")
    assert found_in(replace(sound, measured_on=TODAY + timedelta(days=1))) == []


def test_what_only_the_pipeline_or_only_the_profiles_have() -> None:
    stages = (stage("small", "other"), stage("base", name="read"), Stage("join", ()))
    odd = profile(variant("x", 0.5, 0.1), stage="old")
    kinds = [
        (each.kind, each.stage, each.variant) for each in found_in(profile(SMALL, LARGE), odd, stages=stages)
    ]
    assert kinds == [
        (ProfileStatus.NOT_MEASURED, "detect", "other"),
        (ProfileStatus.NOT_IN_PIPELINE, "detect", "large"),
        (ProfileStatus.NOT_MEASURED, "read", None),
        (ProfileStatus.NOT_IN_PIPELINE, "old", None),
    ]
    only = found_in(profile(SMALL, LARGE), odd, stages=stages, only=("read",))
    assert [(each.kind, each.stage) for each in only] == [(ProfileStatus.NOT_MEASURED, "read")]
    assert list(unmeasured(stages, {})) == [("detect", None), ("read", None)]


def test_few_batches_are_a_finding_where_a_larger_one_would_be_in_time() -> None:
    few = variant("large", 0.8, 0.2, batches=(1, 2))
    (one,) = found_in(profile(SMALL, few))
    assert (one.kind, one.variant) == (ProfileStatus.FEW_BATCHES, "large")
    assert one.places == ("1 core batch 1 and 2 only", "2 cores batch 1 and 2 only")
    by_stage = {"detect": profile(SMALL, few)}
    places = [
        each.places
        for each in findings("shop", (stage("small", "large"),), 0.4, by_stage, TODAY)
        if each.places
    ]
    assert places == [("2 cores batch 1 and 2 only",)], "on 1 core a batch of 4 would take 0.72 s"
    assert findings("shop", BOTH, 0.3, by_stage, TODAY) == ()


def test_oddities_of_variants_that_are_not_used_are_left_out() -> None:
    falling = VariantProfile("odd", 0.9, tuple(ProfilePoint(1.0, b, 1.0 / b) for b in (1, 2, 4)))
    used = found_in(profile(SMALL, falling), stages=(stage("small", "odd"),))
    assert {(each.kind, each.variant) for each in used} == {
        (Oddity.FALLS_WITH_BATCH, "odd"),
        (Oddity.POOR_FIT, "odd"),
    }
    assert "ipa profile shop --write --repeats" in used[0].remedy
    unused = found_in(profile(SMALL, falling), stages=(stage("small"),))
    assert [(each.kind, each.variant) for each in unused] == [(ProfileStatus.NOT_IN_PIPELINE, "odd")]


def test_what_is_found_on_the_profiles_that_come_with_us(root: Path) -> None:
    kinds: dict[str, set[str]] = {}
    for path in sorted((root / "pipelines").glob("*/pipeline.yaml")):
        pipeline = load_pipeline(path)
        profiles = load_profiles(root / "profiles", pipeline.name)
        today = max(each.measured_on for each in profiles.values())
        one = findings(pipeline.name, pipeline.stages, pipeline.sla.latency_s, profiles, today)
        kinds[pipeline.name] = {each.kind.value for each in one}
    assert kinds["ocr"] == set(), "nothing else disturbed it"
    assert kinds["resnets"] == {"few_batches", "rises_with_cores"}, "single images, p99 at the largest load"
    scatter = {"falls_with_batch", "rises_with_cores", "poor_fit"}
    assert kinds["digits"] == {"poor_fit"}, "measured in rounds, but for batches of milliseconds"
    for name in ("video", "audio-qa", "audio-sent", "sum-qa", "nlp"):
        assert "censored" in kinds[name], "measured at an offered load"
        assert kinds[name] - {"censored"} <= scatter


def test_the_overview_has_a_row_a_variant_and_number_of_cores() -> None:
    made = overview(profile(SMALL, LARGE), TODAY + timedelta(days=2))
    assert (made["age_days"], made["hardware"], made["source"]) == (2, "2 cores", "ipa profile shop")
    assert [(row["variant"], row["cores"]) for row in made["fits"]] == [
        ("small", 1.0),
        ("small", 2.0),
        ("large", 1.0),
        ("large", 2.0),
    ]
    row = made["fits"][3]
    assert (row["form"], row["batch_sizes"]) == (Form.QUADRATIC, (1, 2, 4))
    assert (row["latencies_s"][0], row["latencies_s"][-1]) == (pytest.approx(0.1), pytest.approx(0.4))
    assert row["throughput_rps"] == pytest.approx(10)
    assert row["max_error_ratio"] < 1e-9 and row["loo_error_ratio"] == pytest.approx(0, abs=1e-9)
