"""A pipeline for the stories: two stages, made-up profiles, and the policies that the stories use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

from ipa.model.pipeline import Bounds, Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import ProfilePoint
from ipa.optimize.problem import Compat
from ipa.policies.base import Policy
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.policies.rules import Static
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from tests.fakes.policy_contract import made_up_profile

Configs = tuple[StageConfig, ...]

NAME = "ipa-stories"
STAGES = ("detect", "read")
# Accuracy, and seconds of one item on one replica of a tenth of a core. `broken` has an image that does not
# start, and is too bad for any plan.
VARIANTS = {"small": (0.6, 0.05), "big": (0.9, 0.15), "broken": (0.1, 0.4)}
# So few cores that any cluster has them.
CORES = (0.1, 0.2)
SMALLEST: Configs = tuple(StageConfig(stage, "small", 1, 0.1, 1) for stage in STAGES)
# What a variant of a stage runs.
RunOf = Callable[[str, str], SeldonRun]


def runs_of(image: str, crash_image: str) -> RunOf:
    """Sound variants that differ by env alone, so that any image serves."""

    def run(_: str, name: str) -> SeldonRun:
        return SeldonRun(image=crash_image if name == "broken" else image, env={"MODEL_VARIANT": name})

    return run


def pipeline(namespace: str, run_of: RunOf) -> Pipeline:
    """Two stages of three variants."""

    def variant(stage: str, name: str) -> Variant:
        return Variant(name, targets={"seldon": run_of(stage, name)})

    return Pipeline(
        name=NAME,
        stages=chain(
            [
                Stage(stage, tuple(variant(stage, name) for name in VARIANTS), batch_timeout_s=0.05)
                for stage in STAGES
            ]
        ),
        sla=Sla(0.8),
        objectives={"default": Objective(beta=0.2)},
        bounds=Bounds(max_replicas=8, batch_sizes=(1, 2, 4, 8)),
        targets={"seldon": SeldonTarget(NAME, namespace)},
    )


def _points(item_s: float) -> Iterator[ProfilePoint]:
    for cores in CORES:
        for batch in (1, 2, 4, 8):
            yield ProfilePoint(cores, batch, item_s * (0.4 + 0.6 * batch) / (10 * cores) ** 0.8)


@cache
def profiled() -> Profiled:
    """Planner and predictor of the pipeline, which do not ask where it runs."""
    made = pipeline("any", runs_of("any", "any"))
    profiles = {stage: made_up_profile(NAME, stage, VARIANTS, _points) for stage in STAGES}
    return Profiled(PlannerInputs(made, profiles, solver="exact"), compat=Compat.PAPER)


def ours(made: Pipeline) -> Policy:

    def plan(narrowed: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        return replace(profiled().plan(narrowed, rate_rps, running), solve_s=0.0)

    return Ours(made, plan)


def keep() -> Policy:
    """The policy that wants what runs: what happens is what the story asks for."""
    return Static(profiled())
