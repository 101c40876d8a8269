"""A pipeline of one stage with two variants, on figures that can be checked by hand."""

from __future__ import annotations

from datetime import date

from ipa.model.pipeline import Bounds, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.targets.seldon.section import SeldonRun, SeldonTarget

NAMES = {"low": 0.7, "high": 0.8}
# Requests a second on so many cores; four fifths of it are planned with.
RATES = {"low": {2: 40.0, 4: 80.0, 8: 160.0}, "high": {2: 10.0, 4: 20.0, 8: 40.0}}


def _variant(name: str) -> Variant:
    return Variant(name, targets={"seldon": SeldonRun(image="images:1", env={"MODEL_VARIANT": name})})


IMAGES = Pipeline(
    "images",
    (Stage("classify", tuple(_variant(name) for name in NAMES), batch_timeout_s=0.01),),
    Sla(0.75),
    {"default": Objective(alpha=100.0, beta=0.05, throughput_margin_ratio=-0.2)},
    bounds=Bounds(cores=12, batch_sizes=(1,)),
    targets={"seldon": SeldonTarget("images")},
)
PROFILES = {
    "classify": StageProfile(
        "images",
        "classify",
        tuple(
            VariantProfile(
                name,
                accuracy,
                tuple(
                    ProfilePoint(float(cores), batch, 0.2 * batch, throughput_rps=rate)
                    for cores, rate in RATES[name].items()
                    for batch in (1, 2, 4)
                ),
                readiness_s=6.0,
            )
            for name, accuracy in NAMES.items()
        ),
        "made up",
        date(2026, 1, 1),
        "made up",
    )
}
