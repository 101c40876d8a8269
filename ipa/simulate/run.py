"""One run in the simulator: a pipeline under a load, controlled by a policy, and its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from math import ceil
from typing import Any

import numpy as np

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import PeakForecaster
from ipa.control.engine.tick import made_of
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.loop.snapshot import Snapshot
from ipa.control.loop.time_limit import TimeLimit
from ipa.control.ports import Attribution, PipelineControl
from ipa.forecast.arrivals import request_times
from ipa.forecast.base import Forecaster
from ipa.forecast.ladder import FAILED, forecast, last_rung, rungs_of
from ipa.forecast.registry import FORECASTERS, FORESIGHT, LADDER
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import InfeasibleError, InputError, NotFoundError
from ipa.model.measured import with_profiles
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_words
from ipa.model.profile import StageProfile
from ipa.model.resources import CORES, IN_CORES, NO_RESOURCES, Prices, Resources, dimension
from ipa.policies.base import Policy
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.columns import Floats
from ipa.simulate.ground_truth import READINESS_S, GroundTruth, SlowPeriod
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.registry import AS_PROFILED, worlds_in
from ipa.simulate.world import SimWorld

# Runs of several policies or pipelines under one load ask the same: cached answers, those of about thirty
# loads of 20 minutes at ten seconds a tick. An answer with its question takes about 8 kB.
KEPT = 4096
# A plug-in that takes longer than a tick of the service hangs.
PLUGIN_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Foresight:
    """A forecaster that knows the future: the highest rate of the next horizon, as a bound for any other."""

    rates_rps: Sequence[float]
    now_s: Callable[[], float]
    horizon_s: float
    margin_ratio: float = 0.0

    def __call__(self, load: LoadHistory) -> Forecast:
        """The true peak; after the end of the load its last rate."""
        start = min(int(self.now_s()), len(self.rates_rps) - 1)
        stop = ceil(self.now_s() + self.horizon_s)
        peak_rps = float(max(self.rates_rps[start:stop])) * (1 + self.margin_ratio)
        return Forecast(peak_rps, peak_rps, 1.0, self.horizon_s, FORESIGHT, 1.0)


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """The forecaster by its name in `FORECASTERS`: "ladder", a rung, a plug-in, or "foresight" (the future).

    The other settings are those of the service; `margin_ratio` is added to point and upper quantile.
    """

    name: str = LADDER
    window_s: float = 600.0
    horizon_s: float = 20.0
    quantile: float = 0.95
    smooth_s: float = 5.0
    margin_ratio: float = 0.0


def forecaster_of(
    settings: ForecastSettings, rates_rps: Sequence[float], now_s: Callable[[], float]
) -> PeakForecaster:
    """The forecaster of that name, for a load of `rates_rps` by the second; a plug-in has PLUGIN_LIMIT_S.

    Errors: UsageError (unknown forecaster), PluginError.
    """
    if settings.name == FORESIGHT:
        return Foresight(rates_rps, now_s, settings.horizon_s, settings.margin_ratio)
    ladder: Callable[..., Forecast] = partial(_forecast, settings=settings, rungs=rungs_of(settings.name))
    plugin = FORECASTERS.find(settings.name)
    if plugin.is_ours:
        return ladder
    limit = TimeLimit(str(plugin), PLUGIN_LIMIT_S)
    return lambda load: limit.call(partial(ladder, load), partial(last_rung, ladder, load))


@lru_cache(KEPT)
def _forecast(load: LoadHistory, settings: ForecastSettings, rungs: tuple[Forecaster, ...]) -> Forecast:
    expected = forecast(
        load,
        horizon_s=settings.horizon_s,
        quantile=settings.quantile,
        rungs=rungs,
        smooth_s=settings.smooth_s,
    )
    times = 1 + settings.margin_ratio
    return replace(expected, point_rps=expected.point_rps * times, upper_rps=expected.upper_rps * times)


# The latencies of the summary: their names, and the shares of the answered requests that took no longer.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True)
class SimTick:
    """One tick: observed rates in rps (None: missing), cores held, accuracy of the serving pods."""

    at_s: float
    reason: str
    rate_rps: float | None
    point_rps: float | None
    upper_rps: float | None
    latency_s: float | None
    cores: float
    pas: float
    configs: str
    # What failed of policy, solver and forecaster, in words; empty if nothing did.
    failure: str = ""


@dataclass(frozen=True, slots=True)
class SimResult:
    """The result of a run of `duration_s`.

    By request, in the order of arrival: `born_s`, and `done_s` (NaN: lost). `ticks` has a row for each tick,
    `decisions` are the recorded ones. `pas_mean` and `core_seconds` are over time and count every held core,
    old and new replicas together; so does `resource_seconds`, for all resources. `accuracy_mean` is over the
    answered requests.
    """

    pipeline: str
    policy: str
    seed: int
    duration_s: float
    sla_s: float
    born_s: Floats
    done_s: Floats
    pas_mean: float
    accuracy_mean: float
    core_seconds: float
    ticks: tuple[SimTick, ...]
    decisions: tuple[Decision, ...]
    resource_seconds: Resources = NO_RESOURCES
    prices: Prices = IN_CORES

    @property
    def latencies_s(self) -> Floats:
        """Latencies of the answered requests."""
        latencies: Floats = (self.done_s - self.born_s)[~np.isnan(self.done_s)]
        return latencies

    @property
    def changes(self) -> int:
        """The number of written changes."""
        return sum(decision.action is Action.APPLY for decision in self.decisions)

    def columns(self) -> dict[str, list[Any]]:
        """The ticks by column, one value a tick in each, as `pandas.DataFrame` accepts them."""
        return {each.name: [getattr(tick, each.name) for tick in self.ticks] for each in fields(SimTick)}

    def summary(self) -> dict[str, Any]:
        """The figures of the run as plain JSON values; latencies are None if nothing was answered.

        Resources other than cores are present if any were held, `usd_per_hour` if the pipeline has prices.
        `violation_ratio` is the share of the requests that were late or lost, `lost` their number.
        `failed_ticks` are those with a `failure`, `first_failure` is the first in words; None without one.
        """
        failed = [
            f"tick {number}, {tick.at_s:g} s: {tick.failure}"
            for number, tick in enumerate(self.ticks, 1)
            if tick.failure
        ]
        latencies_s = self.latencies_s
        sent = len(self.born_s)
        lost = sent - len(latencies_s)
        late = int((latencies_s > self.sla_s).sum())
        held_mean = self.resource_seconds * (1 / self.duration_s)
        beside = {
            f"{dimension(name).attribute}_mean": amount
            for name, amount in held_mean.amounts.items()
            if name != CORES
        }
        return {
            "pas_mean": self.pas_mean,
            "cores_mean": self.core_seconds / self.duration_s,
            **beside,
            **({"usd_per_hour": self.prices.cost(held_mean)} if self.prices.is_money else {}),
            "violation_ratio": (late + lost) / sent if sent else 0.0,
            "lost": lost,
            **{
                f"latency_{name}_s": float(np.quantile(latencies_s, at)) if len(latencies_s) else None
                for name, at in QUANTILES.items()
            },
            "changes": self.changes,
            "requests": sent,
            "accuracy_mean": self.accuracy_mean,
            "failed_ticks": len(failed),
            "first_failure": failed[0] if failed else None,
            "decisions_by_reason": dict(sorted(Counter(it.reason.value for it in self.decisions).items())),
        }


class MemoryLog:
    """The DecisionLog and ControlStore ports in memory.

    `keep_inputs`: keep decisions as in production, with their inputs, which are tens of kilobytes a tick.
    """

    def __init__(self, control: PipelineControl, *, keep_inputs: bool = False) -> None:
        self.recorded: list[Decision] = []
        self._control, self._keep_inputs = control, keep_inputs

    def record(self, decision: Decision) -> None:
        """Keep the decision."""
        if not self._keep_inputs:
            decision = replace(decision, inputs="", inputs_digest="")
        self.recorded.append(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """The newest decisions first."""
        wanted = [
            decision
            for decision in reversed(self.recorded)
            if (before_tick is None or decision.tick < before_tick)
            and (not applied_only or decision.action is Action.APPLY)
        ]
        return wanted[:limit]

    def decision(self, decision_id: str) -> Decision:
        """The decision of that id; NotFoundError without one."""
        for decision in self.recorded:
            if decision.decision_id == decision_id:
                return decision
        raise NotFoundError(f"there is no decision {decision_id!r}")

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """The latest control."""
        return self._control

    def set_control(self, pipeline: str, control: PipelineControl, attribution: Attribution) -> None:
        """Set the control."""
        self._control = control


# The start for a zero load is planned for one request in ten seconds.
LEAST_RPS = 0.1


@dataclass(frozen=True, slots=True)
class SimSetup:
    """All inputs of a run: equal setups have equal results.

    `rates_rps` are the requests a second, one entry per second; `spacing` is their distribution within one
    (see `request_times`). `policy` is a name in `POLICIES`, a policy, or a factory of one. `start` is the
    first configuration; by default the plan for the highest rate of the first `start_s` seconds. `queue` is
    that of `StageSim`. `keep_inputs` keeps decisions as in production, with their inputs and the
    explanations of their plans.
    """

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    rates_rps: tuple[float, ...]
    policy: str | Policy | Callable[[PolicyInputs], Policy] = "ours"
    objective: str | None = None
    seed: int = 0
    spacing: str = "poisson"
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    guards: GuardSettings = field(default_factory=GuardSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    mode: Mode = Mode.ACTIVE
    start: tuple[StageConfig, ...] = ()
    start_s: int = 20
    readiness_s: float = READINESS_S
    solver: str = "exact"
    deadline_s: float = 5.0
    queue: str = "central"
    keep_inputs: bool = False
    # The true performance of replicas, if it differs from the profiles.
    truth: Mapping[str, StageProfile] | None = None
    # Kills of serving pods of a stage: (time in s, stage, count).
    kills: tuple[tuple[float, str, int], ...] = ()
    # When batches take longer than the true performance says.
    slow: tuple[SlowPeriod, ...] = ()
    # The world that changes the above, as `worlds_in` reads it, or a function that does.
    world: str | Callable[[SimSetup], SimSetup] = AS_PROFILED


def simulate(setup: SimSetup) -> SimResult:
    """Simulate the setup: deterministic, in virtual time, with the production engine in the loop.

    Errors: UsageError (no such policy, forecaster, world), InputError (rates, spacing, settings),
    InfeasibleError (nothing carries the first rate and no `start` is given), those of planning.
    """
    if not setup.rates_rps:
        raise InputError("there is no load: rates_rps is empty")
    setup = in_world(setup)
    duration_s, own_sla_s = float(len(setup.rates_rps)), setup.pipeline.objective(setup.objective).sla_s
    times_s = request_times(setup.rates_rps, setup.spacing, seed=(setup.seed, 1))
    inputs, policy = policy_of(setup)
    world = SimWorld(
        setup.pipeline,
        GroundTruth(setup.pipeline, setup.truth or setup.profiles, setup.readiness_s, setup.slow),
        setup.start,
        times_s,
        cluster=setup.cluster,
        metrics=setup.metrics,
        queue=setup.queue,
        seed=setup.seed,
    )
    memory = MemoryLog(PipelineControl(mode=setup.mode), keep_inputs=setup.keep_inputs)
    ticks: list[SimTick] = []
    loop = ControlLoop(
        setup.pipeline,
        LoopPorts(world.clock, world.metrics, world.workload, memory, memory),
        policy=policy,
        predict=inputs.predictor(),
        forecaster=forecaster_of(setup.forecast, setup.rates_rps, world.clock.monotonic_s),
        settings=setup.guards,
        window_s=setup.forecast.window_s,
        run_id=f"sim{setup.seed}",
        made_of=made_of(inputs),
        on_decision=(lambda decision, snapshot: ticks.append(_tick(world, decision, snapshot)),),
    )
    _play(loop, world, setup, duration_s)
    paid, pas_mean = world.cluster.resource_seconds(duration_s), world.pas_mean(duration_s)
    world.finish()
    return SimResult(
        pipeline=setup.pipeline.name,
        policy=policy.name,
        seed=setup.seed,
        duration_s=duration_s,
        sla_s=setup.pipeline.sla.latency_s if own_sla_s is None else own_sla_s,
        born_s=world.born_s,
        done_s=world.done_s,
        pas_mean=pas_mean,
        accuracy_mean=world.accuracy_mean(),
        core_seconds=paid.cpu_cores,
        ticks=tuple(ticks),
        decisions=tuple(memory.recorded),
        resource_seconds=paid,
        prices=setup.pipeline.prices,
    )


def in_world(setup: SimSetup) -> SimSetup:
    """The setup as its `world` changes it, with the first configuration.

    That is planned without the world, unless the world takes it away. Errors: InfeasibleError, those of
    `worlds_in`; PluginError (a world raised, or returned something else).
    """
    named, setup = setup.world, replace(setup, world=AS_PROFILED)
    # A world may make the only setup for which there is a plan.
    with suppress(InfeasibleError):
        setup = _started(setup)
    if not isinstance(named, str):
        return _started(named(setup))
    for plugin, world, argument in worlds_in(named):
        with plugin.guarded():
            setup = world(setup, *argument)
        if not isinstance(setup, SimSetup):
            raise plugin.fault(f"does not fit: it returned a {type(setup).__name__}, not a SimSetup")
        setup = _started(setup)
    return setup


def _started(setup: SimSetup) -> SimSetup:
    setup = replace(setup, pipeline=with_profiles(setup.pipeline, setup.profiles))
    return setup if setup.start else replace(setup, start=first_configs(setup, inputs_of(setup)))


def inputs_of(setup: SimSetup) -> PolicyInputs:
    """The inputs of the run's policy, and of the planner of its first configuration."""
    return PolicyInputs(
        setup.pipeline,
        setup.profiles,
        setup.objective,
        setup.solver,
        setup.deadline_s,
        rolling=setup.cluster.rolling,
        # The explanations of a plan take longer than the plan.
        explain=setup.keep_inputs,
    )


def policy_of(setup: SimSetup) -> tuple[PolicyInputs, Policy]:
    """The policy of a run and its inputs; a plug-in must answer within a tick of the service.

    Errors: UsageError (no such policy, or not for this pipeline), PluginError.
    """
    inputs = inputs_of(setup)
    policy: Any = setup.policy
    if isinstance(policy, str):
        runner = TimeLimit(str(POLICIES.find(policy)), PLUGIN_LIMIT_S)
        return inputs, make_policy(policy, inputs, runner)
    # A class has the methods of its instances.
    is_factory = isinstance(policy, type) or not hasattr(policy, "decide")
    return inputs, policy(inputs) if is_factory else policy


def _play(loop: ControlLoop, world: SimWorld, setup: SimSetup, duration_s: float) -> None:
    """Step the loop as the service's scheduler does; unexpected exceptions end the run."""
    kills = sorted(setup.kills)
    while world.clock.monotonic_s() < duration_s:
        next_s = min(loop.step(), duration_s)
        while kills and kills[0][0] < next_s:
            at_s, stage, count = kills.pop(0)
            world.clock.wait(at_s - world.clock.monotonic_s())
            world.kill(stage, count)
        world.clock.wait(max(next_s - world.clock.monotonic_s(), 0.0))


def first_configs(setup: SimSetup, inputs: PolicyInputs) -> tuple[StageConfig, ...]:
    """The planner's configurations for the highest rate of the first seconds; else InfeasibleError."""
    rate_rps = max(*setup.rates_rps[: setup.start_s], LEAST_RPS)
    plan = inputs.profiled().plan(setup.pipeline, rate_rps)
    if not plan.stages:
        raise InfeasibleError(
            f"no plan carries the {rate_rps:g} rps that pipeline {setup.pipeline.name!r} starts with",
            hint=plan.note or "; ".join(plan.relaxations),
        )
    return plan.configs


def _tick(world: SimWorld, decision: Decision, snapshot: Snapshot) -> SimTick:
    _, pas, cores = world.timeline[-1]
    forecast = decision.forecast
    failures = (each for each in (forecast.steps_down if forecast else ()) if FAILED in each)
    return SimTick(
        at_s=world.clock.monotonic_s(),
        reason=decision.reason.value,
        rate_rps=decision.observed_rate_rps,
        point_rps=forecast.point_rps if forecast else None,
        upper_rps=forecast.upper_rps if forecast else None,
        latency_s=decision.observed_latency_s,
        cores=cores,
        pas=pas,
        configs=in_words(decision.configs),
        failure=decision.detail if decision.reason is ReasonCode.SOLVER_FAILED else next(failures, ""),
    )
