"""The questions: measured pipelines at several rates, and random pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random

from ipa.files import load_pipelines, load_profiles
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

RATES_RPS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
CORES = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Case:
    """A pipeline to plan for at a rate."""

    group: str
    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    rate_rps: float


def measured() -> Iterator[Case]:
    """The pipelines that come with the project, each at each rate."""
    for name, pipeline in load_pipelines(Path("pipelines")).items():
        profiles = load_profiles(Path("profiles"), name)
        for rate_rps in RATES_RPS:
            yield Case("measured", pipeline, profiles, rate_rps)


def drawn(seed: int, count: int) -> Iterator[Case]:
    """Random chains of two to four stages that gain much by batches, so that their plans have large ones."""
    for number in range(count):
        random = Random(f"{seed} {number}")
        names = [f"s{at}" for at in range(random.randint(2, 4))]
        profiles = {name: random_profile(random, name) for name in names}
        fan_outs = [random.choice([1.0, 1.0, 1.0, 3.0, 5.5]) for _ in names[1:]]
        stages = chain(
            [
                Stage(
                    name,
                    tuple(Variant(each.variant) for each in profiles[name].variants),
                    batch_timeout_s=random.choice([0.0, 0.005, 0.02, 0.1]),
                )
                for name in names
            ],
            fan_outs,
        )
        pipeline = random_pipeline(random, number, stages, profiles)
        yield Case("random", pipeline, profiles, 10 ** random.uniform(0.7, 2.5))


def random_pipeline(
    random: Random, number: int, stages: tuple[Stage, ...], profiles: Mapping[str, StageProfile]
) -> Pipeline:
    """The pipeline of these stages, its SLA and weights at random.

    The SLA is a tenth to twice what a batch of 16 takes of the slowest variant at each stage.
    """
    whole_s = sum(max(it.points[4].latency_s for it in profiles[stage.name].variants) for stage in stages)
    return Pipeline(
        f"random-{number}",
        stages,
        Sla(whole_s * 10 ** random.uniform(-1.0, 0.3)),
        {"default": Objective(alpha=10 ** random.uniform(0.0, 2.0), beta=1.0)},
    )


def random_profile(random: Random, stage: str) -> StageProfile:
    """Variants, slower the better they are; a batch's start is a third to nearly all of one item's time."""
    lightest_s = 10 ** random.uniform(-2.3, -1.3)
    tail = random.uniform(1.05, 2.0)
    variants = []
    for rank in range(random.randint(2, 3)):
        item_s, start = lightest_s * random.uniform(1.5, 3.0) ** rank, random.uniform(0.3, 0.97)
        points = tuple(
            ProfilePoint(cores, size, mean_s * tail, mean_s)
            for cores in CORES
            for size in BATCH_SIZES
            for mean_s in [item_s * (start + (1 - start) * size) / cores**0.75]
        )
        variants.append(VariantProfile(f"v{rank}", 0.6 + 0.12 * rank + random.uniform(0.0, 0.1), points))
    return StageProfile("random", stage, tuple(variants), "made up", date(2026, 1, 1), "made up")
