"""A pipeline of two stages whose cores are too few for its best variants."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.pipeline import Bounds, Edge, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.profile import ProfilePoint
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from tests.fakes.policy_contract import made_up_profile

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


def _points(item_s: float) -> Iterator[ProfilePoint]:
    for batch in (1, 2, 4):
        latency_s = item_s * (0.3 + 0.7 * batch)
        yield ProfilePoint(1.0, batch, latency_s, latency_s)


SHOP = Pipeline(
    "shop",
    (_stage("detect"), _stage("classify", "detect")),
    Sla(0.75),
    {"default": Objective(alpha=100.0, beta=0.1)},
    bounds=Bounds(cores=10.0, transition_cores=24.0, batch_sizes=(1,)),
    targets={"seldon": SeldonTarget("shop")},
)
PROFILES = {stage: made_up_profile("shop", stage, SPEEDS[stage], _points, 6.0) for stage in SPEEDS}
