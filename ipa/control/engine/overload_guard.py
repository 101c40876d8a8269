"""A guard beside the model: it adds replicas to stages that are observed to be overloaded.

A profile can be wrong, and a load unlike any before. A stage is overloaded if its load is above the capacity
of its ready replicas, if its queue takes longer than the SLA, or if the pipeline is late and this is its
busiest stage. Latency alone adds nothing: replicas do not make an idle stage faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ipa.control.engine.guards import GuardSettings
from ipa.model.observation import Measured, Missing, Observation, StageObservation, known
from ipa.model.pipeline import Bounds, Pipeline
from ipa.model.plan import StageConfig

# Added replicas bring the stage to this utilisation; a stage below it is not the cause of a late pipeline.
TARGET_RATIO = 0.8
# An overload within this multiple of the last one's hold counts as its recurrence.
SOON = 2.0
# Five doublings of five minutes are 2.7 h.
MOST_HOLDS = 32

Configs = tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class OverloadState:
    """The number of ticks in a row with an overloaded stage, and the time of the last action against it.

    `hold_s` is how long no capacity is removed after that. It doubles with each quick recurrence, since the
    removed capacity was needed then.
    """

    ticks: int = 0
    acted_on_s: float | None = None
    hold_s: float = 0.0

    def acted(self, now_s: float, base_s: float) -> OverloadState:
        """The state after a tick in which stages were overloaded for long enough."""
        if self.acted_on_s is None or now_s - self.acted_on_s > SOON * self.hold_s:
            return OverloadState(self.ticks + 1, now_s, base_s)
        if now_s - self.acted_on_s < self.hold_s:
            return OverloadState(self.ticks + 1, now_s, self.hold_s)
        return OverloadState(self.ticks + 1, now_s, min(2 * self.hold_s, MOST_HOLDS * base_s))

    def holds(self, now_s: float) -> bool:
        """True if no capacity may be removed yet."""
        return self.acted_on_s is not None and now_s - self.acted_on_s < self.hold_s


NOT_OVERLOADED = OverloadState()


@dataclass(frozen=True, slots=True)
class Overload:
    """An overloaded stage: its load over the capacity of its ready replicas, and the observation in words.

    `place` is its index in the running configuration.
    """

    stage: str
    utilisation_ratio: float
    words: str
    place: int = 0


def overloaded_stages(
    observation: Observation,
    capacities_rps: Sequence[float],
    sla_s: float,
    settings: GuardSettings,
) -> tuple[Overload, ...]:
    """The overloaded stages. A missing signal does not count.

    `capacities_rps` are those of one replica, in the order of the running configuration; empty if unknown.
    Parts that share the load are judged separately.
    """
    if len(capacities_rps) != len(observation.stages):
        return ()
    stages = list(enumerate(zip(observation.stages, capacities_rps, strict=True)))
    names = [_name(stage, observation) for stage in observation.stages]
    loads = [
        (place, utilisation)
        for place, (stage, capacity_rps) in stages
        if (utilisation := _utilisation_ratio(stage, capacity_rps)) is not None
    ]
    found = {}
    for place, utilisation in loads:
        if utilisation > settings.max_utilisation_ratio:
            words = f"the load of {names[place]} is {utilisation:.0%} of the capacity of its ready replicas"
            found[place] = Overload(names[place], utilisation, words, place)
    for place, (stage, capacity_rps) in stages:
        wait_s = _backlog_s(stage, capacity_rps)
        if wait_s is not None and wait_s > sla_s and place not in found:
            words = f"the queue of {names[place]} takes {wait_s:.3g} s to serve, the SLA is {sla_s:g} s"
            found[place] = Overload(names[place], 1.0 + wait_s / sla_s, words, place)
    late = known(observation.latency_s)
    if not found and late is not None and late > sla_s and loads:
        place, utilisation = max(loads, key=lambda load: load[1])
        if utilisation >= TARGET_RATIO:
            words = (
                f"the latency is {late:.3g} s, and the busiest stage {names[place]} is at {utilisation:.0%}"
            )
            found[place] = Overload(names[place], utilisation, words, place)
    return tuple(found.values())


def _name(stage: StageObservation, observation: Observation) -> str:
    """The stage's name; with its variant if several parts have the stage."""
    several = sum(other.stage == stage.stage for other in observation.stages) > 1
    running = stage.running
    return (
        f"{stage.stage}={running.value.variant}" if several and isinstance(running, Measured) else stage.stage
    )


def with_more_replicas(
    pipeline: Pipeline, running: Sequence[StageConfig], overloads: Sequence[Overload], settings: GuardSettings
) -> Configs:
    """The running configuration with replicas added to overloaded stages, within bounds and step limit."""
    configs = tuple(running)
    by_place = {overload.place: overload for overload in overloads}
    for at, config in enumerate(configs):
        if at not in by_place:
            continue
        wanted = _wanted(config, by_place[at], settings.max_step_replicas)
        limits = pipeline.stage(config.stage).limits(pipeline.bounds)
        if limits.max_replicas is not None:
            wanted = min(wanted, limits.max_replicas)
        configs = _as_many_as_fit(configs, at, wanted, pipeline.bounds)
    return configs


def disagreement(observation: Observation, sla_s: float) -> str:
    """The observation that speaks against removing capacity, in words; empty if every live signal agrees.

    A latency that is absent because no request came does not object; a stale or invalid one does.
    """
    for name, value in _signals(observation):
        if isinstance(value, Missing) and not value.is_idle:
            return f"{name} is {value.reason.value}"
    late = known(observation.latency_s)
    if late is not None and late > sla_s:
        return f"the latency is {late:.3g} s, the SLA is {sla_s:g} s"
    for stage in observation.stages:
        ready, config = stage.ready_replicas, stage.running
        if (
            isinstance(ready, Measured)
            and isinstance(config, Measured)
            and ready.value < config.value.replicas
        ):
            return f"only {ready.value} of {config.value.replicas} replicas of {stage.stage} are ready"
    return ""


def _signals(observation: Observation) -> list[tuple[str, Measured[float] | Missing]]:
    return [
        ("the latency", observation.latency_s),
        *((f"the load of {stage.stage}", stage.arrival_rate_rps) for stage in observation.stages),
    ]


def _wanted(config: StageConfig, overload: Overload, max_step: int) -> int:
    wanted = max(config.replicas + 1, ceil(config.replicas * overload.utilisation_ratio / TARGET_RATIO))
    return min(wanted, config.replicas + max_step)


def _as_many_as_fit(configs: Configs, at: int, wanted: int, bounds: Bounds) -> Configs:
    for replicas in range(wanted, configs[at].replicas, -1):
        tried = (*configs[:at], replace(configs[at], replicas=replicas), *configs[at + 1 :])
        if not bounds.exceeded(tried):
            return tried
    return configs


def _utilisation_ratio(stage: StageObservation, capacity_rps: float | None) -> float | None:
    rate_rps, carried_rps = known(stage.arrival_rate_rps), _carried_rps(stage, capacity_rps)
    return None if rate_rps is None or carried_rps is None else rate_rps / carried_rps


def _backlog_s(stage: StageObservation, capacity_rps: float | None) -> float | None:
    length, carried_rps = known(stage.queue_length), _carried_rps(stage, capacity_rps)
    return None if length is None or carried_rps is None else length / carried_rps


def _carried_rps(stage: StageObservation, capacity_rps: float | None) -> float | None:
    """The capacity of the ready replicas; None if it is unknown or no replica is ready."""
    ready = stage.ready_replicas
    if capacity_rps is None or not isinstance(ready, Measured) or ready.value < 1:
        return None
    return ready.value * capacity_rps
