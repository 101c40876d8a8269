"""What the API answers with, beside the values of `ipa.model` and `ipa.api.live` themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import TypeAdapter

import ipa
from ipa.api.live import BesideLive, LiveState
from ipa.control.audit import Verified
from ipa.control.canonical import digest
from ipa.control.election import ALONE, Standing
from ipa.control.ports import Freeze, PipelineControl, StagePin
from ipa.control.said import ends
from ipa.model.decision import Decision, Mode
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


@dataclass(frozen=True, slots=True)
class FreezeView:
    """A window in which nothing is written; `active` says whether that is now. `id` names it."""

    id: str
    start: datetime
    end: datetime
    weekly: bool
    active: bool
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class ControlView:
    """What people have said about a pipeline, as it holds now: an expired pause is no pause."""

    mode: Mode
    mode_reason: str
    mode_by: str
    paused: bool
    paused_until: datetime | None
    paused_reason: str
    paused_by: str
    pins: tuple[StagePin, ...]
    freezes: tuple[FreezeView, ...]


@dataclass(frozen=True, slots=True)
class StatusView:
    """A pipeline now. `healthy` is false where `live.degraded` says why.

    `standing` is that of the replica that answers: one that does not lead only looks on. `beside` are the
    policies that only say what they would do.
    """

    pipeline: str
    description: str
    sla_s: float
    sla_percentile: float
    control: ControlView
    healthy: bool
    live: LiveState
    standing: Standing
    beside: tuple[BesideLive, ...]


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """Decisions, newest first. `next_before` asks for the page after this one; null on the last."""

    decisions: tuple[Decision, ...]
    next_before: str | None


# The decision as the API writes it. The store's own text of it is canonical, for its digest.
DECISION = TypeAdapter(Decision)


@dataclass(frozen=True, slots=True)
class RecordView:
    """What is in the record, every entry as it was written. `head` names the newest: NUMBER:DIGEST.

    Kept elsewhere, the head shows later whether entries at the end were cut off or all were written anew.
    """

    pipeline: str
    decisions: int
    entries: int
    head: str
    # Holds that retention removed, and checkpoints whose signature there was no key to check with.
    removed: int = 0
    unchecked: int = 0


def record_view(pipeline: str, found: Verified) -> RecordView:
    """What was found of the pipeline's record."""
    head = str(found.head)
    return RecordView(pipeline, found.decisions, found.entries, head, found.removed, found.unchecked)


@dataclass(frozen=True, slots=True)
class CheckView:
    """One thing the service depends on."""

    name: str
    ok: bool
    required: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the API can serve; `degraded` where something that is not required fails."""

    ready: bool
    degraded: bool
    checks: tuple[CheckView, ...] = ()
    version: str = ipa.__version__


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


def control_view(control: PipelineControl, now: datetime) -> ControlView:
    """What was said, as it holds at `now`."""
    until = control.paused_until
    paused = control.paused and (until is None or now < until)
    return ControlView(
        mode=control.mode,
        mode_reason=control.mode_reason,
        mode_by=control.mode_by,
        paused=paused,
        paused_until=until if paused else None,
        paused_reason=control.paused_reason if paused else "",
        paused_by=control.paused_by if paused else "",
        pins=control.pins,
        freezes=tuple(
            _freeze_view(freeze, now) for freeze in control.freezes if freeze.weekly or now < freeze.end
        ),
    )


def freeze_id(freeze: Freeze) -> str:
    """A short name for the window, the same wherever it is asked for."""
    return digest(f"{freeze.start.isoformat()} {freeze.end.isoformat()} {freeze.weekly}")[:8]


def _freeze_view(freeze: Freeze, now: datetime) -> FreezeView:
    return FreezeView(
        id=freeze_id(freeze),
        start=freeze.start,
        end=freeze.end,
        weekly=freeze.weekly,
        active=ends(freeze, now) is not None,
        reason=freeze.reason,
        by=freeze.by,
    )


def status_view(
    pipeline: Pipeline,
    control: PipelineControl,
    live: LiveState,
    now: datetime,
    standing: Standing = ALONE,
    beside: tuple[BesideLive, ...] = (),
) -> StatusView:
    """All that the page shows of a pipeline but its decisions."""
    return StatusView(
        pipeline=pipeline.name,
        description=pipeline.description,
        sla_s=pipeline.sla.latency_s,
        sla_percentile=pipeline.sla.percentile,
        control=control_view(control, now),
        healthy=not live.degraded,
        live=live,
        standing=standing,
        beside=beside,
    )
