"""The status of a pipeline: its live state, what people have set, and where its requests go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from ipa.control.canonical import digest
from ipa.control.election import ALONE, LeaderStatus
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.guards import end_of_freeze
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import Freeze, PipelineControl, SimulatedClock, StagePin
from ipa.model.decision import Mode
from ipa.model.errors import ConflictError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import NO_ADDRESS, RequestAddress
from ipa.service.live_state import BesideLive, LiveState, beside_live, live_state
from ipa.service.service import Loop, PipelineEdit, Service


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
    """The overrides of a pipeline in force now: an expired pause is omitted.

    `profile_doubts` tells by stage, with figures, what makes the plans that are written unbelievable.
    """

    mode: Mode
    mode_reason: str
    mode_by: str
    paused: bool
    paused_until: datetime | None
    paused_reason: str
    paused_by: str
    pins: tuple[StagePin, ...]
    freezes: tuple[FreezeView, ...]
    profile_doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusView:
    """A pipeline now. `healthy` is false where `live.degraded` says why.

    A pipeline that is not `runnable` is only planned; `not_runnable_because` says why.
    `standing` is that of the replica that answers: one that does not lead only looks on. `beside` are the
    policies that only say what they would do. `address` is where clients send its requests. `edit` is the
    latest change of its files.
    `simulated_speed` are the simulated seconds in a real one, None if the pipeline is real.
    """

    pipeline: str
    description: str
    sla_s: float
    sla_percentile: float
    control: ControlView
    healthy: bool
    live: LiveState
    standing: LeaderStatus
    beside: tuple[BesideLive, ...]
    runnable: bool = True
    not_runnable_because: str = ""
    address: RequestAddress = NO_ADDRESS
    simulated_speed: float | None = None
    edit: PipelineEdit | None = None


def control_view(control: PipelineControl, now: datetime) -> ControlView:
    """Return the overrides in force at `now`."""
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
            FreezeView(
                id=freeze_id(freeze),
                start=freeze.start,
                end=freeze.end,
                weekly=freeze.weekly,
                active=end_of_freeze(freeze, now) is not None,
                reason=freeze.reason,
                by=freeze.by,
            )
            for freeze in control.freezes
            if freeze.weekly or now < freeze.end
        ),
    )


def freeze_id(freeze: Freeze) -> str:
    """A short name for the window, the same wherever it is asked for."""
    return digest(f"{freeze.start.isoformat()} {freeze.end.isoformat()} {freeze.weekly}")[:8]


def status_view(
    pipeline: Pipeline,
    control: PipelineControl,
    live: LiveState,
    now: datetime,
) -> StatusView:
    """Return the status of a pipeline by its loop and overrides alone."""
    return StatusView(
        pipeline=pipeline.name,
        description=pipeline.description,
        sla_s=pipeline.sla.latency_s,
        sla_percentile=pipeline.sla.percentile,
        control=control_view(control, now),
        healthy=not live.degraded,
        live=live,
        standing=ALONE,
        beside=(),
        runnable=pipeline.runnable,
        not_runnable_because=pipeline.not_runnable_because,
    )


def status(service: Service, pipeline: Pipeline) -> StatusView:
    """The status of a pipeline now."""
    name, clock = pipeline.name, service.clock
    control, live = service.controls.control(name), live_of(service, name)
    found = status_view(pipeline, control, live, clock.now())
    beside = service.registry.beside.get(name)
    return replace(
        found,
        control=replace(found.control, profile_doubts=service.profile_doubts(pipeline)),
        standing=service.standing(),
        beside=(beside_live(beside.policy, pipeline, service.profiles(name), beside.snapshot()),)
        if beside
        else (),
        address=service.registry.address(pipeline),
        simulated_speed=clock.speed if isinstance(clock, SimulatedClock) else None,
        edit=service.registry.edit(name),
    )


def live_of(service: Service, name: str) -> LiveState:
    """The live state of a pipeline; NotFoundError if it was removed since the request came."""
    pipeline = service.registry.pipelines.get(name)
    if pipeline is None:
        raise NotFoundError(f"pipeline {name!r} no longer exists", hint="It was removed just now.")
    loop = service.registry.loops.get(name)
    found = live_state(
        pipeline,
        service.profiles(name),
        loop.snapshot() if loop else Snapshot(name, 0, PipelineControl(), ActuationPhase.IDLE),
        now=service.clock.now(),
        tick_s=service.settings.tick_s,
    )
    return found if loop else replace(found, degraded=(_not_controlled(service, name),))


def revision_of(service: Service, name: str) -> str:
    """The revision of the running workload, as `live_of` has it; empty if it was not seen."""
    loop = service.registry.loops.get(name)
    observation = loop.snapshot().observation if loop else None
    return observation.revision if observation else ""


def loop_of(service: Service, name: str) -> Loop:
    """The loop of the pipeline; ConflictError says why none controls it."""
    loop = service.registry.loops.get(name)
    if loop is None:
        raise ConflictError(f"pipeline {name!r} is {_not_controlled(service, name)}")
    return loop


def _not_controlled(service: Service, name: str) -> str:
    return f"not controlled here: {service.registry.unfit(name)}"
