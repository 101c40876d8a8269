"""What every policy answers, ours and each rival: the plan for what was seen and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol, TypeGuard

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Bounds, Pin, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.model.slowdown import AS_MEASURED, Slowdowns
from ipa.queueing.service import ServiceTime

Configs = tuple[StageConfig, ...]
# A rate for which every measured configuration can be described; capacities do not depend on it.
ANY_RATE_RPS = 1.0


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What a policy may lean on beside the observation: what runs, and which variants to leave alone.

    `excluded` holds (stage, variant) pairs whose rollout failed lately; never one that runs. `pins` are what
    people fixed of a stage, by its name. `slowdowns` are how its variants do beside their profiles.
    """

    running: tuple[StageConfig, ...]
    excluded: frozenset[tuple[str, str]] = frozenset()
    now_s: float = 0.0
    pins: tuple[tuple[str, Pin], ...] = ()
    # Only what adds replicas to what runs is wanted.
    only_more: bool = False
    # No more cores than this, since more found no room lately.
    room_cores: float | None = None
    # The plan must be reachable within the cores that old and new may have together.
    reachable: bool = False
    # What the policy's own `remember` left, where it is `StatefulPolicy`.
    memory: object = None
    slowdowns: Slowdowns = AS_MEASURED


class Policy(Protocol):
    """Pure: the same observation, forecast and state give the same plan."""

    @property
    def name(self) -> str:
        """What the policy is called on the command line and in reports."""
        ...

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for `forecast.upper_rps`.

        A plan whose `rate_rps` is lower carries only that much, its `note` says why. Nothing feasible at all
        is a plan with termination INFEASIBLE. Errors: SolverError, InputError.
        """
        ...


class StatefulPolicy(Policy, Protocol):
    """A policy that learns from every tick, also from those that hold for other reasons."""

    @property
    def memory_kind(self) -> type[object]:
        """The type of what it remembers, by which that is read back from a record."""
        ...

    def remember(self, observation: Observation, state: PolicyState) -> object:
        """What it remembers after this tick, `state.memory` being what it remembered before.

        Pure, and the memory made of frozen dataclasses, tuples and numbers: it is part of the inputs that a
        decision is recorded with, so that it can be taken again.
        """
        ...


class BypassesStabiliser(Policy, Protocol):
    """A policy whose plans are at times carried out at once, be they better than what runs or not."""

    def at_once(self, running: Configs) -> bool:
        """Whether so now: where its rule has a patience of its own, or would never choose what runs."""
        ...


def is_at_once(policy: Policy, running: Configs) -> bool:
    """Whether the policy's plan is to be carried out without weighing it against what runs."""
    return _is_headstrong(policy) and policy.at_once(running)


def is_remembering(policy: Policy) -> TypeGuard[StatefulPolicy]:
    """Whether it remembers what it saw; `isinstance` would look at all of a protocol's methods each tick."""
    return hasattr(policy, "remember")


def _is_headstrong(policy: Policy) -> TypeGuard[BypassesStabiliser]:
    return hasattr(policy, "at_once")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a configuration would do at a rate: `capacity_rps` is that of the whole pipeline, in requests.

    `services` are how long a replica of each stage takes by its profile alone, without slowdowns and without
    the objective's margins, in the order of the configurations.
    """

    rate_rps: float
    capacity_rps: float
    latency_s: float
    sla_s: float
    objective: float
    pas: float
    # Items a second that one replica of each stage carries, in the order of the configurations.
    capacities_rps: tuple[float, ...] = ()
    services: tuple[ServiceTime, ...] = ()

    @property
    def carries(self) -> bool:
        """Whether every stage has the throughput the rate needs (forgiving rounding)."""
        return self.capacity_rps >= self.rate_rps * (1 - 1e-9)

    @property
    def feasible(self) -> bool:
        """Whether it carries the rate within the SLA (forgiving rounding)."""
        return self.carries and self.latency_s <= self.sla_s * (1 + 1e-9)


class Predictor(Protocol):
    """Says what a configuration would do. Pure."""

    def __call__(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
    ) -> Prediction | None:
        """What it would do where variants are that slow; None where the profiles do not know it."""
        ...


def corrected(predict: Predictor, slowdowns: Slowdowns) -> Predictor:
    """The predictor of a world that is that slow; the same one where nothing is."""
    if not slowdowns:
        return predict

    def slowed(
        configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = slowdowns
    ) -> Prediction | None:
        return predict(configs, rate_rps, slowdowns)

    return slowed


class Planner(Protocol):
    """The program of the planner with everything but pipeline and rate already chosen. Pure."""

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        """The best plan for that rate, or one with termination INFEASIBLE.

        Where it is told what runs, a change has its price and its peak of cores, and ties go to the least.
        """
        ...


class SlaScaledPlanner(Protocol):
    """The planner for a shorter SLA. Pure."""

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float) -> Plan:
        """The best plan for an SLA `sla_ratio` times as long.

        Errors: those of a Planner.
        """
        ...


@dataclass(frozen=True, slots=True)
class StartingState:
    """What a new configuration finds: what runs until it is ready, and the items that wait at stages.

    `slowdowns` are how variants do beside their profiles.
    """

    running: Configs = ()
    queued: tuple[tuple[str, float], ...] = ()
    slowdowns: Slowdowns = AS_MEASURED


AT_REST = StartingState()


@dataclass(frozen=True, slots=True)
class SimulationVerdict:
    """What a simulation says of a configuration at a rate.

    `quantile_s` is its latency at the SLA's percentile, over so many `requests`. `meets`: within the SLA with
    confidence; `misses`: above it with confidence. Neither, where more requests would have been needed.
    """

    quantile_s: float
    sla_s: float
    requests: int
    meets: bool
    misses: bool


class Checker(Protocol):
    """Simulates a configuration. Equal questions have equal answers."""

    @property
    def most_checks(self) -> int:
        """How many configurations of one decision it has time for."""
        ...

    def __call__(
        self, configs: Configs, rate_rps: float, start: StartingState = AT_REST
    ) -> SimulationVerdict | None:
        """The verdict on a configuration that begins so; None where it was not measured."""
        ...


def constrained(pipeline: Pipeline, state: PolicyState) -> Pipeline:
    """The pipeline as a policy may plan for it now: pins merged, variants left out, nothing made less.

    A stage that would be left with no variant keeps all of its own. Planners heed its `slowdowns`.
    """
    bounds = pipeline.bounds
    if state.room_cores is not None:
        bounds = replace(bounds, cores=min(state.room_cores, inf if bounds.cores is None else bounds.cores))
    if not state.reachable and bounds.most_cores is not None:
        bounds = replace(bounds, transition_cores=inf)
    stages = tuple(
        _no_less(stage, state.running, bounds) if state.only_more else _allowed(stage, state.excluded)
        for stage in pinned(pipeline, state.pins).stages
    )
    return replace(pipeline, stages=stages, bounds=bounds, slowdowns=state.slowdowns)


def _allowed(stage: Stage, excluded: frozenset[tuple[str, str]]) -> Stage:
    kept = tuple(it for it in stage.variants if (stage.name, it.name) not in excluded)
    return replace(stage, variants=kept or stage.variants)


def _no_less(stage: Stage, running: Configs, bounds: Bounds) -> Stage:
    now = next((config for config in running if config.stage == stage.name), None)
    if now is None:
        return stage
    pin = Pin(now.variant, now.batch_size, now.cores, stage.pin.replicas)
    least = max(now.replicas, stage.limits(bounds).min_replicas or 1)
    return replace(stage, pin=pin, bounds=replace(stage.bounds, min_replicas=least))


def pinned(pipeline: Pipeline, pins: Sequence[tuple[str, Pin]]) -> Pipeline:
    """The pipeline with those pins of its stages; they come before those of its file."""
    said = dict(pins)
    stages = tuple(
        replace(stage, pin=_merged(stage.pin, said[stage.name])) if stage.name in said else stage
        for stage in pipeline.stages
    )
    return replace(pipeline, stages=stages)


def _merged(old: Pin, new: Pin) -> Pin:
    return Pin(
        new.variant if new.variant is not None else old.variant,
        new.batch_size if new.batch_size is not None else old.batch_size,
        new.cores if new.cores is not None else old.cores,
        new.replicas if new.replicas is not None else old.replicas,
    )
