"""The rivals that decide less than we do: FA2 with the variants pinned, RIM with the replicas pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.base import Planner
from ipa.policies.ours import Ours

# RIM over-provisions statically; four of each is our choice, no published figure.
RIM_REPLICAS = 4


def fa2(pipeline: Pipeline, profiles: Mapping[str, StageProfile], planner: Planner, *, heavy: bool) -> Ours:
    """FA2: batch and replicas are decided, every stage's variant is its least or its most accurate one."""
    stages = []
    for stage in pipeline.stages:
        if not stage.variants:
            stages.append(stage)
            continue
        profile = profiles[stage.name]
        ranked = sorted(stage.variants, key=lambda variant: profile.variant(variant.name).accuracy)
        stages.append(replace(stage, variants=(ranked[-1] if heavy else ranked[0],)))
    name = "fa2-high" if heavy else "fa2-low"
    return Ours(replace(pipeline, stages=tuple(stages)), planner, name=name)


def rim(pipeline: Pipeline, planner: Planner, replicas: int = RIM_REPLICAS) -> Ours:
    """RIM: variant and batch are decided, every stage has so many replicas."""
    bounds = replace(pipeline.bounds, min_replicas=replicas, max_replicas=replicas)
    return Ours(replace(pipeline, bounds=bounds), planner, name="rim")
