"""The pipelines that the contract suites use: two stages of two variants, with made-up profiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from ipa.model.pipeline import Bounds, Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

PIPELINE = Pipeline(
    name="pages",
    stages=chain(
        [Stage(name, (Variant("small"), Variant("big")), batch_timeout_s=0.05) for name in ("detect", "read")]
    ),
    sla=Sla(0.8),
    objectives={"default": Objective(beta=0.02)},
    bounds=Bounds(cores=12, max_replicas=8, batch_sizes=(1, 2, 4, 8)),
)
# The same without its second stage, for policies of one task.
ONE_STAGE = replace(PIPELINE, name="task", stages=PIPELINE.stages[:1])

# Accuracy, and seconds of one item on one core.
VARIANTS = {
    "detect": {"small": (0.6, 0.05), "big": (0.9, 0.15)},
    "read": {"small": (0.7, 0.03), "big": (0.95, 0.1)},
}

SMALLEST = (StageConfig("detect", "small", 1, 1.0, 1), StageConfig("read", "small", 1, 1.0, 1))
LARGE = (StageConfig("detect", "big", 4, 2.0, 4), StageConfig("read", "small", 2, 1.0, 3))


def _profile(stage: str) -> StageProfile:
    variants = tuple(
        VariantProfile(
            name,
            accuracy,
            tuple(
                # Two fifths of a batch cost the same however large it is; cores help by their power 0.8.
                ProfilePoint(cores, batch, item_s * (0.4 + 0.6 * batch) / cores**0.8)
                for cores in (1.0, 2.0)
                for batch in (1, 2, 4, 8)
            ),
        )
        for name, (accuracy, item_s) in VARIANTS[stage].items()
    )
    return StageProfile("pages", stage, variants, "made up", date(2026, 1, 1), "made up")


PROFILES = {stage: _profile(stage) for stage in VARIANTS}
