"""A pipeline now: its loop's latest observation, forecast and decision, by stage and by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.lateness import breaks_slo, lateness
from ipa.control.loop.snapshot import Sample, Snapshot
from ipa.model.decision import UNHEALTHY, Decision, ReasonCode
from ipa.model.measured import resident_variants
from ipa.model.observation import (
    Forecast,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
    known,
)
from ipa.model.parts import parts_of, share_of
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig, StagePlan
from ipa.model.profile import StageProfile, VariantProfile
from ipa.model.resources import NO_RESOURCES, Resources
from ipa.optimize.graph import graph_of
from ipa.profiling.measured_accuracy import AccuracyInterval

# Of a stage: variant, batch size and cores.
Replica = tuple[str, str, int, float]


@dataclass(frozen=True, slots=True)
class ServedShare:
    """The share of a stage's items that a variant answered lately, be it the wanted one or a stand-in."""

    variant: str
    share_ratio: float


@dataclass(frozen=True, slots=True)
class StageLive:
    """A stage now, or one part's stage if several parts share the load. None stands for an unobserved value.

    `utilisation_ratio` is ρ = λ/(n·h) at the observed rate, `busy_ratio` the measured share of the time in
    which the stage's replicas served batches; at an overload the first exceeds 1. `slowdown_ratio` is the
    variant's time of a batch over its profile's as it is believed, give or take `slowdown_deviation`, None if
    not observed; `planned_slowdown_ratio` the one in plans. `planned_latency_s` is the latest plan's
    prediction, waiting included, None if another configuration runs. `service_s` is the mean time of a batch
    in a replica, of all parts together. `served` are the shares of the items that each variant answered, the
    largest first, and `served_accuracy` is their mean accuracy; empty and None if only one answers, or if
    unknown. `beside` are a replica's resources other than cores, `resident` the other variants that it keeps
    loaded. `measured` are the accuracies of its variants that feedback measured.
    """

    stage: str
    config: StageConfig | None = None
    ready_replicas: int | None = None
    arrival_rate_rps: float | None = None
    latency_s: float | None = None
    service_s: float | None = None
    queue_length: float | None = None
    utilisation_ratio: float | None = None
    busy_ratio: float | None = None
    accuracy: float | None = None
    served: tuple[ServedShare, ...] = ()
    served_accuracy: float | None = None
    slowdown_ratio: float | None = None
    slowdown_deviation: float | None = None
    planned_slowdown_ratio: float = 1.0
    planned_latency_s: float | None = None
    beside: Resources = NO_RESOURCES
    resident: tuple[str, ...] = ()
    measured: tuple[AccuracyInterval, ...] = ()


@dataclass(frozen=True, slots=True)
class InputLive:
    """An input of the last tick. `missing` is the reason if it is missing, else None; `detail` explains it.

    `age_s` was the age of the sample in that tick; None if unknown.
    """

    input: str
    stage: str = ""
    age_s: float | None = None
    missing: MissingReason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LossLive:
    """Requests a second that a stage loses, and the cause."""

    stage: str
    cause: str
    rate_rps: float


@dataclass(frozen=True, slots=True)
class PartLive:
    """One of several configurations side by side, with its share of the requests.

    `latency_s` is at the SLA's percentile, `in_time_ratio` the share of its ended requests within the SLA;
    None if they were not observed. `is_canary`: it is measured before it may take more.
    """

    share_percent: int
    configs: tuple[StageConfig, ...]
    latency_s: float | None = None
    in_time_ratio: float | None = None
    is_canary: bool = False


@dataclass(frozen=True, slots=True)
class CanaryLive:
    """A canary: a new configuration takes `share_percent` of the requests before `wanted` may run.

    It was measured for `measured_s` of `measure_s`. `in_time_ratio` is the share of its `requests` that were
    answered within the SLA, `others_in_time_ratio` that of the other parts; `failed` of them had no answer.
    `latency_s` is at the SLA's percentile. None if nothing was measured yet.
    """

    share_percent: int
    wanted: tuple[StageConfig, ...]
    measured_s: float
    measure_s: float
    requests: float
    failed: float
    in_time_ratio: float | None = None
    others_in_time_ratio: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class LiveState:
    """A pipeline now: the loop's latest observation, forecast and decision, and its recent past.

    `degraded` lists the faults in words (a broken SLO, metrics that do not answer, a rollback); empty means
    healthy, or a pipeline that is only planned. `latency_s` is at the SLA's percentile, `in_time_ratio` the
    share of the ended requests that were answered within the SLA. `slo_broken`: that share is below the
    SLO's, or if it is not observed, the latency is above the SLA. `losses` are the requests without an
    answer, `dropped_rps` and `failed_rps` their rates, `retried_rps` that of batches whose replica was lost;
    None if not observed. `next_tick_in_s` is None
    while no tick is due. `reason` and `detail` are those of the latest decision. `inputs` are its inputs.
    `cost_usd_per_hour` is the price of all resources, overhead included, if the pipeline has prices. `pas` is
    that of the wanted configuration, `served_pas` that of the variants that answered, None if they are the
    same or unknown, `measured_pas` its bounds by feedback, in which unmeasured stages count by their profile.
    `parts` are several configurations side by side, `canary` the new configuration that is measured first.
    """

    at: str
    tick: int
    tick_s: float
    next_tick_in_s: float | None = None
    phase: str = "idle"
    revision: str = ""
    settled: bool = True
    rate_rps: float | None = None
    latency_s: float | None = None
    in_time_ratio: float | None = None
    slo_broken: bool = False
    losses: tuple[LossLive, ...] = ()
    dropped_rps: float | None = None
    failed_rps: float | None = None
    retried_rps: float | None = None
    forecast: Forecast | None = None
    pas: float | None = None
    served_pas: float | None = None
    measured_pas: tuple[float, float] | None = None
    cost_cores: float | None = None
    stages: tuple[StageLive, ...] = ()
    reason: ReasonCode | None = None
    detail: str = ""
    series: tuple[Sample, ...] = ()
    degraded: tuple[str, ...] = ()
    inputs: tuple[InputLive, ...] = ()
    cost_usd_per_hour: float | None = None
    parts: tuple[PartLive, ...] = ()
    canary: CanaryLive | None = None


@dataclass(frozen=True, slots=True)
class BesideLive:
    """The configuration that would run if the shadow policy controlled the pipeline.

    `record` is the name that its decisions are listed under; `reason` and `detail` are its latest decision's.
    `pas` and the costs are None before its first decision.
    """

    policy: str
    record: str
    tick: int
    configs: tuple[StageConfig, ...] = ()
    pas: float | None = None
    cost_cores: float | None = None
    reason: ReasonCode | None = None
    detail: str = ""
    cost_usd_per_hour: float | None = None


def beside_live(
    policy: str, pipeline: Pipeline, profiles: Mapping[str, StageProfile], snapshot: Snapshot
) -> BesideLive:
    """Return the view of a shadow policy's snapshot; `pipeline` is the controlled one."""
    accuracies = {
        (stage, each.variant): each.accuracy
        for stage, profile in profiles.items()
        for each in profile.variants
    }
    stages = tuple(
        StageLive(config.stage, config, accuracy=accuracies.get((config.stage, config.variant)))
        for config in snapshot.would
    ) or tuple(StageLive(stage.name) for stage in pipeline.served)
    cores, usd_per_hour = _costs(pipeline, stages)
    return BesideLive(
        policy=policy,
        record=snapshot.pipeline,
        tick=snapshot.tick,
        configs=snapshot.would,
        pas=_pas(pipeline, stages),
        cost_cores=cores,
        reason=snapshot.decision.reason if snapshot.decision else None,
        detail=snapshot.decision.detail if snapshot.decision else "",
        cost_usd_per_hour=usd_per_hour,
    )


def live_state(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    snapshot: Snapshot,
    *,
    now: datetime,
    tick_s: float,
) -> LiveState:
    """The live state that the loop's snapshot shows at `now`; `tick_s` is the time between ticks."""
    observation, decision = snapshot.observation, snapshot.decision
    planned = {_replica(stage.config): stage for stage in snapshot.plan.stages} if snapshot.plan else {}
    stages = tuple(
        _stage(stage, planned, profiles.get(stage.stage), snapshot, pipeline)
        for stage in (observation.stages if observation else ())
    ) or tuple(StageLive(stage.name) for stage in pipeline.served)
    due = snapshot.next_tick_at
    ended = observation.ended if observation else None
    cores, usd_per_hour = _costs(pipeline, stages)
    lower, upper = (_pas(pipeline, stages, partial(_bound, bound=name)) for name in ("lower", "upper"))
    is_late = observation is not None and breaks_slo(observation, pipeline.sla, GuardSettings())
    return LiveState(
        at=now.isoformat(),
        tick=snapshot.tick,
        tick_s=tick_s,
        next_tick_in_s=max((due - now).total_seconds(), 0.0) if due else None,
        phase=snapshot.phase.value,
        revision=observation.revision if observation else "",
        settled=observation.is_whole if observation else True,
        rate_rps=known(observation.arrival_rate_rps) if observation else None,
        latency_s=known(observation.latency_s) if observation else None,
        in_time_ratio=observation.in_time_ratio if observation else None,
        slo_broken=is_late,
        losses=tuple(LossLive(it.stage, it.cause, it.count / ended.window_s) for it in ended.losses)
        if ended
        else (),
        dropped_rps=ended.dropped_rps if ended else None,
        failed_rps=ended.failed_rps if ended else None,
        retried_rps=ended.retried_rps if ended else None,
        forecast=snapshot.forecast,
        pas=_pas(pipeline, stages),
        served_pas=_pas(pipeline, stages, _as_served) if any(it.served for it in stages) else None,
        measured_pas=None if lower is None or upper is None or lower == upper else (lower, upper),
        cost_cores=cores,
        stages=stages,
        reason=decision.reason if decision else None,
        detail=snapshot.detail or (decision.detail if decision else ""),
        series=snapshot.history,
        degraded=_degraded(pipeline, observation, decision) + snapshot.problems,
        inputs=inputs_of(observation),
        cost_usd_per_hour=usd_per_hour,
        parts=parts_live(observation, snapshot),
        canary=canary_live(pipeline, snapshot),
    )


def _stage(
    observed: StageObservation,
    planned: Mapping[Replica, StagePlan],
    profile: StageProfile | None,
    snapshot: Snapshot,
    pipeline: Pipeline,
) -> StageLive:
    config = known(observed.running)
    rate_rps = known(observed.arrival_rate_rps)
    variants = {each.variant: each for each in profile.variants} if profile else {}
    running = variants.get(config.variant) if config else None
    slowdown = snapshot.correction.of(observed.stage, config.variant) if config else None
    slower = slowdown.planned_ratio if slowdown else 1.0
    plan = planned.get(_replica(config)) if config else None
    capacity_rps = _capacity_rps(config, plan, running, slower) if config else None
    served, served_accuracy = _served(observed, config, variants)
    resident: tuple[str, ...] = ()
    if config and config.variant in {each.name for each in pipeline.stage(config.stage).variants}:
        resident = resident_variants(pipeline, config.stage, config.variant)[1:]
    return StageLive(
        stage=observed.stage,
        config=config,
        ready_replicas=known(observed.ready_replicas),
        arrival_rate_rps=rate_rps,
        latency_s=known(observed.latency_s),
        service_s=observed.service_s,
        queue_length=known(observed.queue_length),
        utilisation_ratio=rate_rps / (capacity_rps * config.replicas)
        if rate_rps is not None and capacity_rps and config and config.replicas
        else None,
        busy_ratio=snapshot.observation.busy().get(observed.stage) if snapshot.observation else None,
        accuracy=running.accuracy if running else None,
        served=served,
        served_accuracy=served_accuracy,
        slowdown_ratio=slowdown.ratio if slowdown else None,
        slowdown_deviation=slowdown.deviation if slowdown else None,
        planned_slowdown_ratio=slower,
        planned_latency_s=plan.latency_s + plan.queue_delay_s
        if plan and config and plan.replicas == config.replicas
        else None,
        beside=pipeline.bounds.beside(config) if config else NO_RESOURCES,
        resident=resident,
        measured=tuple(
            each.interval for each in snapshot.correction.accuracies if each.stage == observed.stage
        ),
    )


def _served(
    observed: StageObservation, config: StageConfig | None, variants: Mapping[str, VariantProfile]
) -> tuple[tuple[ServedShare, ...], float | None]:
    """The shares of the variants that answered, and their mean accuracy.

    Empty and None if only the running variant did; None also if the accuracy of one is unknown.
    """
    if config is None or not any(variant != config.variant for variant, _ in observed.served):
        return (), None
    shares = tuple(ServedShare(*each) for each in observed.served)
    if any(each.variant not in variants for each in shares):
        return shares, None
    whole = sum(each.share_ratio for each in shares)
    return shares, sum(variants[each.variant].accuracy * each.share_ratio for each in shares) / whole


def _capacity_rps(
    config: StageConfig, planned: StagePlan | None, profile: VariantProfile | None, slower: float
) -> float | None:
    """The capacity of a replica: the planned one, else the profile's reduced by the slowdown."""
    if planned:
        return planned.capacity_rps
    for point in profile.points if profile else ():
        if point.batch_size == config.batch_size and point.cores == config.cores:
            alone_rps = point.batch_size / (point.latency_mean_s or point.latency_s)
            return (point.throughput_rps or alone_rps) / slower
    return None


def _replica(config: StageConfig) -> Replica:
    return config.stage, config.variant, config.batch_size, config.cores


def _as_served(stage: StageLive) -> float | None:
    """The mean over the variants that answered."""
    return stage.served_accuracy if stage.served else stage.accuracy


def _bound(stage: StageLive, bound: str) -> float | None:
    """That bound of the accuracy of the running variant if feedback measured it, else its profile's."""
    running = stage.config.variant if stage.config else ""
    measured = next((each for each in stage.measured if each.variant == running and each.labels), None)
    return getattr(measured, bound) if measured else stage.accuracy


def _pas(
    pipeline: Pipeline,
    stages: Sequence[StageLive],
    accuracy_of: Callable[[StageLive], float | None] = attrgetter("accuracy"),
) -> float | None:
    """The accuracy of the running configuration, of parts by their shares of the load; None if unknown."""
    starts = [at for at, stage in enumerate(stages) if stage.stage == stages[0].stage]
    graph, pas = graph_of(pipeline.stages), 0.0
    for first, end in zip(starts, [*starts[1:], None], strict=True):
        part = stages[first:end]
        accuracies = {it.stage: accuracy_of(it) for it in part}
        terms = [accuracies.get(stage.name) if stage.variants else 1.0 for stage in pipeline.stages]
        known = [term for term in terms if term is not None]
        if len(known) < len(terms):
            return None
        config = part[0].config
        share = config.share_percent / WHOLE_PERCENT if config and len(starts) > 1 else 1.0
        pas += share * graph.accuracy(known)
    return pas if starts else None


def _costs(pipeline: Pipeline, stages: Sequence[StageLive]) -> tuple[float | None, float | None]:
    """The cores, and the price in USD an hour; None if a configuration, or the price of one, is unknown."""
    configs = [stage.config for stage in stages if stage.config]
    if len(configs) < len(stages):
        return None, None
    return sum(config.total_cores for config in configs), pipeline.usd_per_hour(configs)


def runs_nothing(pipeline: Pipeline, observation: Observation) -> bool:
    """True if the pipeline is only planned and has no workload, which is then no fault."""
    running = [stage.running for stage in observation.stages]
    is_gone = all(isinstance(it, Missing) and it.reason is MissingReason.ABSENT for it in running)
    return not pipeline.runnable and is_gone


def _degraded(
    pipeline: Pipeline, observation: Observation | None, decision: Decision | None
) -> tuple[str, ...]:
    if observation is None:
        return ("nothing was observed yet",)
    if runs_nothing(pipeline, observation):
        return ()
    problems = [observation.problem] if observation.problem else []
    if breaks_slo(observation, pipeline.sla, GuardSettings()):
        problems.append(f"the SLO is broken: {lateness(observation, pipeline)}")
    if decision and decision.reason in UNHEALTHY:
        problems.append(
            f"{decision.reason.value}: {decision.detail}" if decision.detail else decision.reason.value
        )
    return tuple(problems)


def inputs_of(observation: Observation | None) -> tuple[InputLive, ...]:
    """Load and latency of the pipeline, and each stage's configuration, ready replicas and arrivals."""
    if observation is None:
        return ()
    inputs: list[tuple[str, str, Measured[Any] | Missing]] = [
        ("load", "", observation.load),
        ("arrival_rate", "", observation.arrival_rate_rps),
        ("latency", "", observation.latency_s),
    ]
    for each in observation.stages:
        inputs += [
            ("running", each.stage, each.running),
            ("ready_replicas", each.stage, each.ready_replicas),
            ("arrival_rate", each.stage, each.arrival_rate_rps),
            ("latency", each.stage, each.latency_s),
        ]
    return tuple(
        InputLive(name, stage, it.age_s, it.reason, it.detail)
        if isinstance(it, Missing)
        else InputLive(name, stage, it.age_s)
        for name, stage, it in inputs
    )


def parts_live(observation: Observation | None, snapshot: Snapshot) -> tuple[PartLive, ...]:
    """The running parts; none if one configuration runs alone, or if unknown."""
    running = (observation.running() if observation else None) or ()
    parts = parts_of(running)
    if observation is None or len(parts) < 2:
        return ()
    observed = observation.parts if len(observation.parts) == len(parts) else ()
    live = []
    for at, part in enumerate(parts):
        ended = known(observed[at].attainment) if observed else None
        live.append(
            PartLive(
                share_percent=share_of(part),
                configs=part,
                latency_s=known(observed[at].latency_s) if observed else None,
                in_time_ratio=ended.in_time_ratio if ended else None,
                is_canary=snapshot.trial is not None and snapshot.trial.of(part),
            )
        )
    return tuple(live)


def canary_live(pipeline: Pipeline, snapshot: Snapshot) -> CanaryLive | None:
    """The canary that is starting or being measured; None without one."""
    trial, canary = snapshot.trial, pipeline.canary
    if trial is None or canary is None:
        return None
    is_measured = trial.own.all > 0
    return CanaryLive(
        share_percent=sum(share_of(part) for part in parts_of(trial.canary)),
        wanted=trial.wanted,
        measured_s=trial.measured_s,
        measure_s=canary.measure_s,
        requests=trial.own.all,
        failed=trial.own.failed,
        in_time_ratio=trial.own.in_time_ratio if is_measured else None,
        others_in_time_ratio=trial.others.in_time_ratio if trial.others.all else None,
        latency_s=trial.latency_s,
    )
