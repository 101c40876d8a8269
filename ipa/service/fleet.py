"""The fleet: the pipelines' use of resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.model.decision import Mode, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.model.resources import CORES, NO_RESOURCES, by_field, dimension, total
from ipa.service.live_state import LiveState
from ipa.service.service import Service
from ipa.service.status import control_view, live_of


@dataclass(frozen=True, slots=True)
class Share:
    """A pipeline's share of the fleet. `cores` is None if the running configuration is unknown.

    `latency_s` is at the percentile of its SLA, `sla_s`; `in_time_ratio` the share of its requests that were
    answered within it, `lost_rps` those without an answer; None where it was not seen.
    `budget_cores` is its own bound, `share_ratio` its part of the cores that were seen of all pipelines.
    `held` and `budget` are the use and the bound of each resource, such as `cpu_cores`, `memory_gib` or
    `nvidia.com/gpu`.
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

    `held` and `budget` are the same of each resource; `budget` has none of which a pipeline is unbounded.
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
    found = [(each, live_of(service, each.name)) for each in pipelines if each is not None]
    cores = sum(live.cost_cores or 0.0 for _, live in found)
    budget = _bounds_together([pipeline for pipeline, _ in found])
    shares = tuple(_share(service, pipeline, live, cores) for pipeline, live in found)
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
    """The sums of the bounds by name of resource, without those of which a pipeline is unbounded."""
    limits = [pipeline.bounds.limits for pipeline in pipelines]
    names = dict.fromkeys((CORES, *(name for each in limits for name in each)))
    for own, pipeline in zip(limits, pipelines, strict=True):
        used = {name for each in pipeline.bounds.measured.values() for name in each.beside.amounts}
        # A resource that none of its variants has needs no bound.
        own |= {name: 0.0 for name in names if name not in own and name not in (CORES, *used)}
    return {
        name: sum(each[name] for each in limits) for name in names if all(name in each for each in limits)
    }


def _held(live: LiveState) -> dict[str, float] | None:
    """The resources of the running configuration by field; None if it is unknown."""
    if live.cost_cores is None:
        return None
    known = [stage for stage in live.stages if stage.config and stage.beside != NO_RESOURCES]
    beside = total(stage.beside * stage.config.replicas for stage in known if stage.config)
    return by_field({CORES: live.cost_cores, **(beside.amounts if known else {})})
