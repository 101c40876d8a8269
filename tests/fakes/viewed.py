"""Services for the page's views: plans are solved for, and slower variants are the more accurate ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.api.context import ApiContext
from ipa.model.profile import ProfilePoint, StageProfile
from tests.fakes.services import FakeWorld, a_profile, over, solving

CORES = (0.5, 1.0, 2.0)
BATCHES = (1, 2, 4, 8)


def a_measured_profile(stage: str) -> StageProfile:
    """Of the ladder's variants, each the slower the more accurate it is; two cores do not halve it."""
    profile = a_profile(stage)

    def latency_s(at: int, cores: float, batch: int) -> float:
        noise = 1 + 0.04 * ((at * 7 + batch * 3 + int(cores * 2) * 5) % 5 - 2)
        return (0.014 + 0.022 * at) * (0.45 + 0.55 * batch) / cores**0.8 * noise

    variants = tuple(
        replace(
            variant,
            points=tuple(
                ProfilePoint(cores, batch, latency_s(at, cores, batch), 0.9 * latency_s(at, cores, batch))
                for cores in CORES
                for batch in BATCHES
            ),
        )
        for at, variant in enumerate(sorted(profile.variants, key=lambda each: each.accuracy))
    )
    return replace(profile, variants=variants)


PROFILES: Mapping[str, StageProfile] = {stage: a_measured_profile(stage) for stage in ("detect", "recognise")}


def viewed(world: FakeWorld) -> ApiContext:
    """The world's services over those profiles."""
    return solving(over(world.services(), profiles=PROFILES))
