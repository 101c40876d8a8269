"""Shared parts of the autoscalers' rules: the load of each stage, and a plan from desired replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite

from ipa.model.errors import InputError
from ipa.model.observation import Forecast, Measured, Missing, Observation
from ipa.model.parts import is_shared, parts_of
from ipa.model.pipeline import Bounds, Pipeline
from ipa.model.plan import Plan, StageConfig, in_words
from ipa.model.resources import CORES, NO_RESOURCES
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.policies.base import Configs, PolicyState, constrained, lacking
from ipa.policies.ours import upper_rate_rps
from ipa.policies.profiled import Profiled

# Sums of cores and shares of replicas are sums of fractions such as 0.1.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class StageLoad:
    """The arrivals of a stage, in items a second, and its replicas. A rate of None is missing.

    `items` are those at the stage for each request of the pipeline, `capacity_rps` is that of one replica.
    """

    config: StageConfig
    ready: int
    rate_rps: float | None
    queued: float
    items: float
    capacity_rps: float


def _sane(observed: Measured[float] | Missing) -> float | None:
    if isinstance(observed, Missing) or not isfinite(observed.value) or observed.value < 0:
        return None
    return observed.value


def busy_replicas(load: StageLoad, over_s: float) -> float | None:
    """The number of replicas that the stage keeps fully busy, at most those that are ready.

    Queued items are added, spread over `over_s`. None if the load is missing or nothing is ready.
    """
    if load.rate_rps is None or load.ready < 1:
        return None
    return min((load.rate_rps + load.queued / over_s) / load.capacity_rps, float(load.ready))


def whole(replicas: float) -> int:
    """Replicas rounded up, except for rounding errors; at least one."""
    return max(1, ceil(replicas - ROUNDING))


@dataclass(frozen=True, slots=True)
class RulePlanner:
    """Makes plans from desired replicas: within bounds, pins and budget, described by the profiles."""

    pipeline: Pipeline
    profiled: Profiled
    rolling: Rolling = SIDE_BY_SIDE

    def loads(self, observation: Observation, state: PolicyState) -> tuple[StageLoad, ...]:
        """The load of each stage while the running configuration continues; InputError if not measured.

        If another configuration is observed (in shadow mode), all replicas count as ready, and a stage's load
        follows from its place in the graph. Also InputError if several configurations share the load: a rule
        scales one.
        """
        running = state.running
        if is_shared(running):
            hint = "Run one of them alone with `ipa apply`, or a policy that plans sets, such as infadapter."
            words = f"{len(parts_of(running))} configurations share the load, and this rule scales one"
            raise InputError(words, hint=hint)
        plan = self.profiled.describe(running, 1.0)
        if plan is None:
            raise InputError(f"the running configuration has no profile: {in_words(running)}")
        is_observed = observation.running() == running
        observed = {stage.stage: stage for stage in observation.stages} if is_observed else {}
        loads = []
        for config, known in zip(running, plan.stages, strict=True):
            stage = observed.get(config.stage)
            rate_rps = _sane(stage.arrival_rate_rps) if stage else None
            if rate_rps is None:
                requests_rps = _sane(observation.arrival_rate_rps)
                rate_rps = None if requests_rps is None else requests_rps * known.rate_rps
            ready = stage.ready_replicas if stage else None
            loads.append(
                StageLoad(
                    config=config,
                    ready=max(ready.value, 0) if isinstance(ready, Measured) else config.replicas,
                    rate_rps=rate_rps,
                    queued=(_sane(stage.queue_length) if stage else None) or 0.0,
                    items=known.rate_rps,
                    capacity_rps=known.capacity_rps,
                )
            )
        return tuple(loads)

    def plan(self, wanted: Configs, forecast: Forecast, state: PolicyState, name: str) -> Plan:
        """A plan with the allowed part of `wanted`, for the forecast or the part of it that it carries."""
        fitted = fit(constrained(self.pipeline, state), wanted, state, self.rolling)
        return plan_of(self.profiled, fitted, forecast, name)


def plan_of(profiled: Profiled, configs: Configs, forecast: Forecast, name: str) -> Plan:
    """The configurations as a plan for the forecast, or for the part of it that they carry.

    InputError if they were not profiled.
    """
    rate_rps = upper_rate_rps(forecast)
    prediction = profiled.predict(configs, rate_rps)
    carried_rps = rate_rps if prediction is None or prediction.carries else prediction.capacity_rps
    plan = profiled.describe(configs, carried_rps)
    if plan is None:
        raise InputError(f"the {name} configuration was not measured: {in_words(configs)}")
    note = "" if carried_rps == rate_rps else f"the {name} plan carries {carried_rps:.3g} rps"
    return replace(plan, solver=name, note=note)


def fit(pipeline: Pipeline, wanted: Configs, state: PolicyState, rolling: Rolling = SIDE_BY_SIDE) -> Configs:
    """Return the desired configurations with their pins, within the bounds on replicas and resources.

    Above a budget additions are left out, the largest first, like pods that find no room. If the plan must be
    reachable and this one is not, the running configuration stays.
    """
    bounds = pipeline.bounds
    now = {config.stage: config for config in state.running}
    fitted, least, present = [], [], []
    for config in wanted:
        stage = pipeline.stage(config.stage)
        pin, limits = stage.pin, stage.limits(bounds)
        low = pin.replicas or limits.min_replicas or 1
        high = pin.replicas or limits.max_replicas or inf
        one = replace(
            config,
            variant=pin.variant or config.variant,
            batch_size=pin.batch_size or config.batch_size,
            cores=config.cores if pin.cores is None else pin.cores,
        )
        # At most as many as fill the whole budget, so that few are left to cut.
        each = bounds.replica(one).amounts | {CORES: one.cores}
        high = min([high, *(most // each[name] for name, most in bounds.limits.items() if name in each)])
        fitted.append(replace(one, replicas=int(min(max(config.replicas, low), max(low, high)))))
        least.append(low)
        present.append(max(low, now[config.stage].replicas) if config.stage in now else low)
    for floors in (present, least):
        fitted = _cut(bounds, fitted, floors)
    if state.reachable and lacking(state.running, fitted, rolling, bounds) != NO_RESOURCES:
        return state.running
    return tuple(fitted)


def _cut(bounds: Bounds, configs: Sequence[StageConfig], floors: Sequence[int]) -> list[StageConfig]:
    """Return the configurations with replicas removed until they fit, or all are at their minimum."""
    cut = list(configs)
    while scarce := bounds.held(cut).beyond(bounds.limits).amounts:
        above = [
            (config.replicas - floor if scarce.keys() & bounds.replica(config).amounts.keys() else 0, -at)
            for at, (config, floor) in enumerate(zip(cut, floors, strict=True))
        ]
        most, place = max(above)
        if most <= 0:
            break
        cut[-place] = replace(cut[-place], replicas=cut[-place].replicas - 1)
    return cut


def with_replicas(running: Configs, replicas: Sequence[int]) -> Configs:
    """The running configuration with other numbers of replicas."""
    return tuple(replace(config, replicas=n) for config, n in zip(running, replicas, strict=True))


@dataclass(frozen=True, slots=True)
class Static:
    """Keeps `configs`, or the running configuration if none are given."""

    profiled: Profiled
    configs: tuple[StageConfig, ...] = ()
    name: str = "static"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration as a plan for the forecast, or for the part of it that it carries.

        InputError if the configuration was not profiled.
        """
        return plan_of(self.profiled, self.configs or state.running, forecast, self.name)
