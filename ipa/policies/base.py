"""The policy protocol: a plan from an observation and a forecast, by ipa's policy and each rival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Protocol, TypeGuard

from ipa.model.observation import Forecast, Observation
from ipa.model.pipeline import Bounds, Pin, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import AS_MEASURED, Slowdowns
from ipa.model.resources import Resources
from ipa.model.rolling import Rolling, change_peak
from ipa.queueing.service import ServiceTime

Configs = tuple[StageConfig, ...]
# A rate at which every measured configuration can be described; capacities do not depend on it.
ANY_RATE_RPS = 1.0
# The shares of its capacity at which the late requests of a configuration are predicted.
LOADS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The inputs of a policy beside the observation: the running configuration, and variants not to plan.

    `excluded` holds (stage, variant) pairs whose rollout failed lately; never a running one. `pins` are, by
    stage, the parts of its configuration that people fixed. `slowdowns` are the variants' times over their
    profiles'.
    """

    running: tuple[StageConfig, ...]
    excluded: frozenset[tuple[str, str]] = frozenset()
    now_s: float = 0.0
    pins: tuple[tuple[str, Pin], ...] = ()
    # Allow only changes that add replicas to the running configuration.
    only_more: bool = False
    # Upper bound on cores, since more found no room lately.
    room_cores: float | None = None
    # Require a plan whose rollout fits the cores for old and new replicas together.
    reachable: bool = False
    # The state left by the policy's own `remember`, if it is a `StatefulPolicy`.
    memory: object = None
    slowdowns: Slowdowns = AS_MEASURED


class Policy(Protocol):
    """A pure policy: the same observation, forecast and state give the same plan.

    It may have more methods, which are found by `hasattr`: those of a `StatefulPolicy`, and
    `at_once(running)`, true if its plan is applied as it is, since the rule has its own delay or none.
    """

    @property
    def name(self) -> str:
        """The name of the policy on the command line and in reports."""

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for `forecast.upper_rps`.

        A plan with a lower `rate_rps` carries only that rate; its `note` tells why. If nothing is feasible,
        the plan has termination INFEASIBLE. Errors: SolverError, InputError.
        """


class AtOnce:
    """A policy whose plans are applied as they are: its rule has its own delay, or the rivals' have none."""

    __slots__ = ()

    def at_once(self, running: Configs) -> bool:
        """Always true."""
        return True


class StatefulPolicy(Policy, Protocol):
    """A policy that learns from every tick, including ticks that hold for other reasons."""

    @property
    def memory_kind(self) -> type[object]:
        """The type of its memory, needed to read it back from a record."""

    def remember(self, observation: Observation, state: PolicyState) -> object:
        """Return the memory after this tick; `state.memory` is the memory before it.

        Pure. The memory consists of frozen dataclasses, tuples and numbers: it is recorded with a decision's
        inputs, so that the decision can be replayed.
        """


def is_at_once(policy: Policy, running: Configs) -> bool:
    """True if the policy's plan is applied even if it is not worth more than what runs."""
    at_once: Callable[[Configs], bool] | None = getattr(policy, "at_once", None)
    return at_once is not None and at_once(running)


def is_stateful(policy: Policy) -> TypeGuard[StatefulPolicy]:
    """True if the policy is stateful; `isinstance` would check all methods of the protocol each tick."""
    return hasattr(policy, "remember")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted performance of a configuration; `capacity_rps` is the pipeline's, in requests.

    `services` are the service times of a replica of each stage by its profile alone, without slowdowns and
    without the objective's margins, in the order of the configurations. `late_ratios` are the shares of
    requests later than the SLA, and than twice that, at the LOADS, and `readiness_s` the times until a new
    replica of each stage serves, 0 if unknown.
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
    late_ratios: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    readiness_s: tuple[float, ...] = ()

    @property
    def carries(self) -> bool:
        """True if every stage has the throughput that the rate needs (up to rounding)."""
        return self.capacity_rps >= self.rate_rps * (1 - 1e-9)

    @property
    def feasible(self) -> bool:
        """True if it carries the rate within the SLA (up to rounding)."""
        return self.carries and self.latency_s <= self.sla_s * (1 + 1e-9)


class Predictor(Protocol):
    """Predicts the performance of a configuration. Pure."""

    def __call__(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
    ) -> Prediction | None:
        """The prediction with those slowdowns; None if the configuration is not in the profiles."""


def corrected(predict: Predictor, slowdowns: Slowdowns) -> Predictor:
    """Return the predictor with those slowdowns applied; the same one without slowdowns."""
    return partial(predict, slowdowns=slowdowns) if slowdowns else predict


class Planner(Protocol):
    """The planner with everything fixed except pipeline and rate. Pure."""

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        """The best plan for the rate, or one with termination INFEASIBLE.

        If `running` is given, the price of a change and its peak of cores count, and the smallest change
        breaks ties.
        """


class SlaScaledPlanner(Protocol):
    """A planner for a scaled SLA. Pure."""

    def __call__(
        self, pipeline: Pipeline, rate_rps: float, running: Configs = (), sla_ratio: float = 1.0
    ) -> Plan:
        """The best plan for an SLA `sla_ratio` times as long. Errors: those of a Planner."""


def lacking(
    running: Sequence[StageConfig], wanted: Sequence[StageConfig], rolling: Rolling, bounds: Bounds
) -> Resources:
    """The resources that a change of all stages at once needs beyond the limits of a change."""
    return change_peak(running, wanted, rolling, bounds).beyond(limits_of_change(running, bounds))


def limits_of_change(running: Sequence[StageConfig], bounds: Bounds) -> dict[str, float]:
    """The limits of a change; the running configuration may go on above them."""
    used = bounds.held(running)
    return {name: max(most, used.amount(name)) for name, most in bounds.change_limits.items()}


def constrained(pipeline: Pipeline, state: PolicyState) -> Pipeline:
    """Return the pipeline with pins merged and without excluded variants; with `only_more` it can only grow.

    A stage that would lose all variants keeps all of them. Planners apply the state's `slowdowns`.
    """
    bounds = pipeline.bounds
    if state.room_cores is not None:
        bounds = bounds.within(state.room_cores)
    if not state.reachable:
        bounds = replace(bounds, any_change=True)
    stages = tuple(
        _no_less(stage, state.running, bounds) if state.only_more else _allowed(stage, state.excluded)
        for stage in pinned(pipeline, state.pins).stages
    )
    return replace(pipeline, stages=stages, bounds=bounds, slowdowns=state.slowdowns)


def _allowed(stage: Stage, excluded: frozenset[tuple[str, str]]) -> Stage:
    variants = tuple(it for it in stage.variants if (stage.name, it.name) not in excluded)
    return replace(stage, variants=variants or stage.variants)


def _no_less(stage: Stage, running: Configs, bounds: Bounds) -> Stage:
    now = next((config for config in running if config.stage == stage.name), None)
    if now is None:
        return stage
    pin = Pin(now.variant, now.batch_size, now.cores, stage.pin.replicas)
    least = max(now.replicas, stage.limits(bounds).min_replicas or 1)
    return replace(stage, pin=pin, bounds=replace(stage.bounds, min_replicas=least))


def pinned(pipeline: Pipeline, pins: Sequence[tuple[str, Pin]]) -> Pipeline:
    """Return the pipeline with those pins, which override the pins of its file."""
    by_stage = dict(pins)
    stages = tuple(
        replace(stage, pin=merged_pin(stage.pin, by_stage[stage.name])) if stage.name in by_stage else stage
        for stage in pipeline.stages
    )
    return replace(pipeline, stages=stages)


def merged_pin(old: Pin, new: Pin) -> Pin:
    """The second pin, with its free fields taken from the first one."""
    return replace(old, **{name: value for name, value in asdict(new).items() if value is not None})
