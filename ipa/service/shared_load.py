"""Several configurations side by side as the status shows them: each part, the gain of all, and a canary."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.control.loop.snapshot import Snapshot
from ipa.model.observation import Measured, Observation
from ipa.model.parts import parts_of, share_of
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig


@dataclass(frozen=True, slots=True)
class PartLive:
    """One of several configurations side by side, with its share of the requests.

    `latency_s` is at the SLA's percentile, `in_time_ratio` the share of its ended requests within the SLA;
    None if they were not seen. `is_canary`: it is measured before it may have more.
    """

    share_percent: int
    configs: tuple[StageConfig, ...]
    latency_s: float | None = None
    in_time_ratio: float | None = None
    is_canary: bool = False


@dataclass(frozen=True, slots=True)
class MixtureLive:
    """The worth of the latest plan, whose parts share the load, beside that of the best single configuration.

    `gain` is the difference of the objectives at `rate_rps`.
    """

    rate_rps: float
    parts: int
    objective: float
    gain: float
    pas: float | None
    cost_cores: float | None
    single_objective: float
    single_pas: float
    single_cost_cores: float
    single: tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class CanaryLive:
    """The measurement of a new configuration on `share_percent` of the requests, before `wanted` runs.

    It was measured for `measured_s` of `measure_s`: of its `requests` the share `in_time_ratio` was answered
    within the SLA, of those of the others `others_in_time_ratio`, and `failed` had no answer. `latency_s` is
    at the SLA's percentile. None if nothing was measured yet.
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


def parts_live(observation: Observation | None, snapshot: Snapshot) -> tuple[PartLive, ...]:
    """The parts that run; none if one configuration runs alone, or it is not known."""
    running = (observation.running() if observation else None) or ()
    parts = parts_of(running)
    if observation is None or len(parts) < 2:
        return ()
    seen = observation.parts if len(observation.parts) == len(parts) else ()
    found = []
    for at, part in enumerate(parts):
        latency = seen[at].latency_s if seen else None
        ended = seen[at].attainment if seen else None
        found.append(
            PartLive(
                share_percent=share_of(part),
                configs=part,
                latency_s=latency.value if isinstance(latency, Measured) else None,
                in_time_ratio=ended.value.in_time_ratio if isinstance(ended, Measured) else None,
                is_canary=snapshot.trial is not None and snapshot.trial.of(part),
            )
        )
    return tuple(found)


def mixture_live(plan: Plan | None) -> MixtureLive | None:
    """The gain of the plan over the best single configuration; None if it is one itself."""
    if plan is None or plan.single is None or plan.gain is None or plan.objective is None:
        return None
    single = plan.single
    return MixtureLive(
        rate_rps=plan.rate_rps,
        parts=len(parts_of(plan.configs)),
        objective=plan.objective,
        gain=plan.gain,
        pas=plan.pas,
        cost_cores=plan.cost_cores,
        single_objective=single.objective,
        single_pas=single.pas,
        single_cost_cores=single.cost_cores,
        single=single.configs,
    )


def canary_live(pipeline: Pipeline, snapshot: Snapshot) -> CanaryLive | None:
    """The canary that starts or is measured; None without one."""
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
