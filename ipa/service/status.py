"""The status of a pipeline: its live state, people's overrides, its address; and the status of the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ipa.control.canonical import digest
from ipa.control.election import LeaderStatus
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.guards import end_of_freeze
from ipa.control.loop.control_loop import ControlLoop
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import Freeze, PipelineControl, SimulatedClock, StagePin
from ipa.model.decision import Mode, ReasonCode
from ipa.model.errors import ConflictError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import NO_ADDRESS, RequestAddress
from ipa.model.resources import CORES, NO_RESOURCES, by_field, dimension, total
from ipa.service.live_state import BesideLive, LiveState, beside_live, live_state
from ipa.service.service import PipelineEdit, Service


@dataclass(frozen=True, slots=True)
class FreezeView:
    """A window in which nothing is written; `active` is true if that is now. `id` names the window."""

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

    `profile_doubts` are the reasons by stage, with figures, why plans are not credible; only in a mode that
    writes.
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
    """A pipeline now. `healthy` is false if `live.degraded` gives a reason.

    A pipeline that is not `runnable` is only planned; `not_runnable_because` tells why. `standing` is the
    leadership of the replica that answers: a standby does not decide. `beside` are the shadow policies.
    `address` is where clients send its requests. `edit` is the latest change of its files. `simulated_speed`
    are the simulated seconds in a real one, None if the pipeline is real.
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
    """A short id of the window: equal windows have equal ids."""
    return digest(f"{freeze.start.isoformat()} {freeze.end.isoformat()} {freeze.weekly}")[:8]


def status(service: Service, pipeline: Pipeline) -> StatusView:
    """The status of a pipeline now."""
    name, clock = pipeline.name, service.clock
    control, live = control_view(service.controls.control(name), clock.now()), live_of(service, name)
    beside = service.registry.beside.get(name)
    return StatusView(
        pipeline=name,
        description=pipeline.description,
        sla_s=pipeline.sla.latency_s,
        sla_percentile=pipeline.sla.percentile,
        control=replace(control, profile_doubts=service.profile_doubts(pipeline)),
        healthy=not live.degraded,
        live=live,
        standing=service.standing(),
        beside=(beside_live(beside.policy, pipeline, service.profiles(name), beside.snapshot()),)
        if beside
        else (),
        runnable=pipeline.runnable,
        not_runnable_because=pipeline.not_runnable_because,
        address=service.registry.address(pipeline),
        simulated_speed=clock.speed if isinstance(clock, SimulatedClock) else None,
        edit=service.registry.edit(name),
    )


def live_of(service: Service, name: str) -> LiveState:
    """The live state of a pipeline; NotFoundError if it was removed since the request arrived."""
    pipeline = service.registry.pipelines.get(name)
    if pipeline is None:
        raise NotFoundError(f"pipeline {name!r} no longer exists", hint="It was removed just now.")
    loop = service.registry.loops.get(name)
    live = live_state(
        pipeline,
        service.profiles(name),
        loop.snapshot() if loop else Snapshot(name, 0, PipelineControl(), ActuationPhase.IDLE),
        now=service.clock.now(),
        tick_s=service.settings.tick_s,
    )
    return live if loop else replace(live, degraded=(_not_controlled(service, name),))


def revision_of(service: Service, name: str) -> str:
    """The revision of the running workload, as in `live_of`; empty if it was not observed."""
    loop = service.registry.loops.get(name)
    observation = loop.snapshot().observation if loop else None
    return observation.revision if observation else ""


def loop_of(service: Service, name: str) -> ControlLoop:
    """The loop of the pipeline; ConflictError tells why none controls it."""
    loop = service.registry.loops.get(name)
    if loop is None:
        raise ConflictError(f"pipeline {name!r} is {_not_controlled(service, name)}")
    return loop


def _not_controlled(service: Service, name: str) -> str:
    return f"not controlled here: {service.registry.unfit(name)}"


@dataclass(frozen=True, slots=True)
class Share:
    """A pipeline's share of the fleet. `cores` is None if the running configuration is unknown.

    `latency_s` is at the percentile of its SLA, `sla_s`; `in_time_ratio` the share of its requests that were
    answered within it, `lost_rps` those without an answer; None if not observed. `budget_cores` is its own
    bound, `share_ratio` its part of the observed cores of all pipelines. `held` and `budget` are the use and
    the bound of each resource, such as `cpu_cores`, `memory_gib` or `nvidia.com/gpu`.
    """

    pipeline: str
    mode: Mode
    paused: bool
    healthy: bool
    rate_rps: float | None
    forecast_upper_rps: float | None
    latency_s: float | None
    sla_s: float
    cores: float | None
    share_ratio: float | None
    budget_cores: float | None
    pas: float | None
    reason: ReasonCode | None
    held: Mapping[str, float] | None
    budget: Mapping[str, float]
    runnable: bool = True
    in_time_ratio: float | None = None
    sla_percentile: float = 99.0
    slo_broken: bool = False
    lost_rps: float | None = None
    retried_rps: float | None = None


@dataclass(frozen=True, slots=True)
class FleetView:
    """Totals over all pipelines. `cores` are the observed ones, `budget_cores` the sum of the pipelines'
    bounds, or None if one of them is unbounded.

    `held` and `budget` are the same by resource; `budget` omits a resource that is unbounded for some
    pipeline.
    """

    at: str
    cores: float
    budget_cores: float | None
    pipelines: tuple[Share, ...]
    held: Mapping[str, float]
    budget: Mapping[str, float]


def fleet_use(service: Service) -> FleetView:
    """The resources of all pipelines, their bounds, and the share of each."""
    pipelines = [service.pipelines.get(name) for name in sorted(service.pipelines)]
    states = [(each, live_of(service, each.name)) for each in pipelines if each is not None]
    cores = sum(live.cost_cores or 0.0 for _, live in states)
    budget = _bounds_together([pipeline for pipeline, _ in states])
    shares = tuple(_share(service, pipeline, live, cores) for pipeline, live in states)
    held = dict.fromkeys((dimension(name).attribute for name in budget), 0.0)
    for share in shares:
        for name, amount in (share.held or {}).items():
            held[name] = held.get(name, 0.0) + amount
    return FleetView(
        at=service.clock.now().isoformat(),
        cores=cores,
        budget_cores=budget.get(CORES),
        pipelines=shares,
        held=held,
        budget=by_field(budget),
    )


def _share(service: Service, pipeline: Pipeline, live: LiveState, cores: float) -> Share:
    control = control_view(service.controls.control(pipeline.name, may_lag=True), service.clock.now())
    own = live.cost_cores
    return Share(
        pipeline=pipeline.name,
        mode=control.mode,
        paused=control.paused,
        healthy=not live.degraded,
        rate_rps=live.rate_rps,
        forecast_upper_rps=live.forecast.upper_rps if live.forecast else None,
        latency_s=live.latency_s,
        sla_s=pipeline.sla.latency_s,
        cores=own,
        share_ratio=own / cores if own is not None and cores else None,
        budget_cores=pipeline.bounds.cores,
        pas=live.pas,
        reason=live.reason,
        held=_held(live),
        budget=by_field(pipeline.bounds.limits),
        runnable=pipeline.runnable,
        in_time_ratio=live.in_time_ratio,
        sla_percentile=pipeline.sla.percentile,
        slo_broken=live.slo_broken,
        lost_rps=None if live.dropped_rps is None else live.dropped_rps + (live.failed_rps or 0.0),
        retried_rps=live.retried_rps,
    )


def _bounds_together(pipelines: Sequence[Pipeline]) -> dict[str, float]:
    """The sums of the bounds by resource, without resources that some pipeline does not bound."""
    limits = [pipeline.bounds.limits for pipeline in pipelines]
    names = dict.fromkeys((CORES, *(name for each in limits for name in each)))
    for own, pipeline in zip(limits, pipelines, strict=True):
        used = {name for each in pipeline.bounds.measured.values() for name in each.beside.amounts}
        # A resource that none of its variants has needs no bound.
        own |= {name: 0.0 for name in names if name not in own and name not in (CORES, *used)}
    bounded = [name for name in names if all(name in each for each in limits)]
    return {name: sum(each[name] for each in limits) for name in bounded}


def _held(live: LiveState) -> dict[str, float] | None:
    """The resources of the running configuration by field; None if it is unknown."""
    if live.cost_cores is None:
        return None
    known = [stage for stage in live.stages if stage.config and stage.beside != NO_RESOURCES]
    beside = total(stage.beside * stage.config.replicas for stage in known if stage.config)
    return by_field({CORES: live.cost_cores, **(beside.amounts if known else {})})
