"""The rivals that decide less than we do: FA2 with the variants pinned, RIM with the replicas pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.model.pipeline import Bounds, Pipeline, Stage
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled

# RIM over-provisions statically; four of each is our choice, no published figure.
RIM_REPLICAS = 4


def fa2(pipeline: Pipeline, profiled: Profiled, *, heavy: bool) -> Ours:
    """FA2: batch and replicas are decided, every stage's variant is its least or its most accurate one.

    Of those that have a base allocation: without one no replica of a variant carries the threshold.
    """
    stages = tuple(_lone(stage, profiled.variants(stage.name), heavy) for stage in pipeline.stages)
    name = "fa2-high" if heavy else "fa2-low"
    return Ours(replace(pipeline, stages=stages), profiled.plan, name, profiled.offers, profiled.probe)


def _lone(stage: Stage, ranked: Sequence[str], heavy: bool) -> Stage:
    return replace(stage, variants=(stage.variant(ranked[-1 if heavy else 0]),)) if ranked else stage


def rim(pipeline: Pipeline, profiled: Profiled, replicas: int = RIM_REPLICAS) -> Ours:
    """RIM: variant and batch are decided, every stage has so many replicas, or as near as it may."""
    stages = tuple(_fixed(stage, pipeline.bounds, replicas) for stage in pipeline.stages)
    return Ours(replace(pipeline, stages=stages), profiled.plan, "rim", profiled.offers, profiled.probe)


def _fixed(stage: Stage, bounds: Bounds, replicas: int) -> Stage:
    limits = stage.limits(bounds)
    count = max(replicas, limits.min_replicas or 1)
    count = count if limits.max_replicas is None else min(count, limits.max_replicas)
    return replace(stage, bounds=replace(stage.bounds, min_replicas=count, max_replicas=count))
