"""The pipelines of the service, as their owners wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.pipeline import Bounds, CombineRule, Edge, Objective, Pin, Pipeline, StageBounds, StageKind


@dataclass(frozen=True, slots=True)
class EdgeView:
    """Where a stage's input comes from.

    `fan_out` is how many items for each one that the parent handles, by its variant where it is a mapping;
    `share` is the share of a router's requests that come this way.
    """

    parent: str
    fan_out: float | dict[str, float]
    share: float


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage as its owner wrote it: what it is, its variants in order, and the stages it comes after."""

    stage: str
    kind: StageKind
    variants: tuple[str, ...]
    after: tuple[EdgeView, ...]
    combine: CombineRule
    bounds: StageBounds
    pin: Pin
    batch_timeout_s: float


class Origin(StrEnum):
    """Where a pipeline was given: in a file, which the service only reads, or over the API."""

    FILE = "file"
    API = "api"


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A pipeline as its owner wrote it. `not_controlled`: why no loop runs for it; empty where one does."""

    pipeline: str
    description: str
    sla_s: float
    sla_percentile: float
    bounds: Bounds
    objectives: dict[str, Objective]
    default_objective: str
    stages: tuple[StageView, ...]
    endpoint: str | None
    origin: Origin = Origin.FILE
    not_controlled: str = ""


@dataclass(frozen=True, slots=True)
class PipelineList:
    """Every pipeline, by name."""

    pipelines: tuple[PipelineView, ...]


def pipeline_view(
    pipeline: Pipeline, endpoint: str | None, origin: Origin = Origin.FILE, not_controlled: str = ""
) -> PipelineView:
    """The pipeline without how its containers are run."""
    return PipelineView(
        pipeline=pipeline.name,
        description=pipeline.description,
        sla_s=pipeline.sla.latency_s,
        sla_percentile=pipeline.sla.percentile,
        bounds=pipeline.bounds,
        objectives=dict(pipeline.objectives),
        default_objective=pipeline.default_objective,
        stages=tuple(
            StageView(
                stage=stage.name,
                kind=stage.kind,
                variants=tuple(variant.name for variant in stage.variants),
                after=tuple(_edge_view(edge) for edge in stage.after),
                combine=stage.combine,
                bounds=stage.bounds,
                pin=stage.pin,
                batch_timeout_s=stage.batch_timeout_s,
            )
            for stage in pipeline.stages
        ),
        endpoint=endpoint,
        origin=origin,
        not_controlled=not_controlled,
    )


def _edge_view(edge: Edge) -> EdgeView:
    fan_out = dict(edge.fan_out) if isinstance(edge.fan_out, Mapping) else edge.fan_out
    return EdgeView(edge.parent, fan_out, edge.share)
