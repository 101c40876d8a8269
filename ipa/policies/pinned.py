"""Rivals that decide less than our policy: FA2 with pinned variants, RIM with pinned replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.model.pipeline import Bounds, Pipeline, Stage
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled

# RIM over-provisions statically; four of each is our choice, not a published figure.
RIM_REPLICAS = 4


def fa2(pipeline: Pipeline, profiled: Profiled, *, heavy: bool) -> Ours:
    """FA2: decides batch sizes and replicas; every stage has its least or its most accurate variant.

    Only variants with a base allocation count: without one no replica carries the threshold.
    """
    stages = tuple(_lone(stage, profiled.variants(stage.name), heavy) for stage in pipeline.stages)
    name = "fa2-high" if heavy else "fa2-low"
    return Ours(replace(pipeline, stages=stages), profiled.plan, name, profiled.offers, profiled.probe)


def _lone(stage: Stage, ranked: Sequence[str], heavy: bool) -> Stage:
    return replace(stage, variants=(stage.variant(ranked[-1 if heavy else 0]),)) if ranked else stage


def rim(pipeline: Pipeline, profiled: Profiled, replicas: int = RIM_REPLICAS) -> Ours:
    """RIM: decides variants and batch sizes; every stage has `replicas`, or the nearest allowed number."""
    stages = tuple(_fixed(stage, pipeline.bounds, replicas) for stage in pipeline.stages)
    return Ours(replace(pipeline, stages=stages), profiled.plan, "rim", profiled.offers, profiled.probe)


def _fixed(stage: Stage, bounds: Bounds, replicas: int) -> Stage:
    limits = stage.limits(bounds)
    count = max(replicas, limits.min_replicas or 1)
    count = count if limits.max_replicas is None else min(count, limits.max_replicas)
    return replace(stage, bounds=replace(stage.bounds, min_replicas=count, max_replicas=count))
