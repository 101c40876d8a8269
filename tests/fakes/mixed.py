"""A pipeline of two stages whose cores are too few for its best variants."""

from __future__ import annotations

from datetime import date

from ipa.model.pipeline import Bounds, Edge, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.targets.seldon.section import SeldonRun, SeldonTarget

# Accuracy, and seconds of one item on one core.
SPEEDS = {
    "detect": {"only": (0.95, 0.01)},
    "classify": {"low": (0.6, 0.01), "middle": (0.75, 0.03), "high": (0.9, 0.06)},
}


def _variant(name: str) -> Variant:
    return Variant(name, targets={"seldon": SeldonRun(image="model:1", env={"MODEL_VARIANT": name})})


def _stage(name: str, *after: str) -> Stage:
    variants = tuple(_variant(each) for each in SPEEDS[name])
    return Stage(name, variants, tuple(Edge(each) for each in after), batch_timeout_s=0.01)


def _profile(stage: str) -> StageProfile:
    variants = tuple(
        VariantProfile(
            name,
            accuracy,
            tuple(ProfilePoint(1.0, b, one_s * (0.3 + 0.7 * b), one_s * (0.3 + 0.7 * b)) for b in (1, 2, 4)),
            readiness_s=6.0,
        )
        for name, (accuracy, one_s) in SPEEDS[stage].items()
    )
    return StageProfile("shop", stage, variants, "made up", date(2026, 1, 1), "made up")


SHOP = Pipeline(
    "shop",
    (_stage("detect"), _stage("classify", "detect")),
    Sla(0.75),
    {"default": Objective(alpha=100.0, beta=0.1)},
    bounds=Bounds(cores=10.0, transition_cores=24.0, batch_sizes=(1,)),
    targets={"seldon": SeldonTarget("shop")},
)
PROFILES = {stage: _profile(stage) for stage in SPEEDS}
