"""Compass as a policy, a plug-in: `--policy experiments.compass:compass` in a checkout.

Compass (Gravara et al., *Compass: Optimizing Compound AI Workflows for Dynamic Adaptation*, CCGrid 2026,
arXiv 2603.20821) serves on fixed machines. It switches between the configurations of a workflow that are
Pareto-optimal in accuracy and latency: to a faster one as the queue grows, back as it empties.

Of the published work, by the paper's abstract and the authors' code (github.com/polaris-slo-cloud/compass at
commit e3b543f, compass/planner/aqm.py and compass/serving/controller.py, thresholds by work, which their
experiments use by default):

- a configuration's slack is the SLA less its latency (P95 there). With N requests in the queue the next
  faster configuration serves if N times the time for one exceeds the slack;
- the next slower serves if N times its time is at most its slack less 50 ms, 5 s after the last such switch.

Filled in here, as a pipeline is no single server:

- a configuration is one variant for each stage, with the cores, replicas and batch sizes that run. Latency is
  predicted at a hundredth of the capacity and at the SLA's percentile, accuracy for the whole pipeline;
- the time for one request is that between two at full load: one over the capacity;
- N counts the requests that wait at all stages, without those being served, at each tick instead of at each
  request: so a tick may pass several faster configurations;
- configurations without slack are left out, and if another one runs the most accurate is next;
- a switch is a rollout. There all models stay loaded and it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import ClassVar

from ipa.model.observation import Forecast, Measured, Observation
from ipa.model.plan import Plan
from ipa.policies.base import ANY_RATE_RPS, AtOnce, Configs, PolicyState
from ipa.policies.rules import RulePlanner
from ipa.policies.table import PolicyInputs

# h_time_ms and cooldown_s of the released controller.
HYSTERESIS_S = 0.05
SLOWER_AFTER_S = 5.0
# The load at which latency has next to no waiting, of the capacity.
IDLE_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Rung:
    """A configuration of the pipeline, its accuracy, latency and slack, and the time for one request."""

    configs: Configs
    accuracy: float
    latency_s: float
    slack_s: float
    request_s: float

    def excess_s(self, waiting: float) -> float:
        """The time by which `waiting` requests in the queue exceed the slack; negative if they fit."""
        return waiting * self.request_s - self.slack_s


@dataclass(frozen=True, slots=True)
class CompassMemory:
    """The configuration to run after the tick at `at_s`, and the time of the last switch to a slower one."""

    at_s: float
    configs: Configs
    slower_s: float | None = None


@dataclass(frozen=True, slots=True)
class Compass(AtOnce):
    """Compass's rule for the pipeline; see the module. `ladder` gives the rungs, the fastest first."""

    ruled: RulePlanner
    ladder: Callable[[Configs], tuple[Rung, ...]]
    name: str = "compass"
    memory_kind: ClassVar[type[object]] = CompassMemory

    def remember(self, observation: Observation, state: PolicyState) -> CompassMemory:
        """The configuration to run after this tick."""
        before = state.memory if isinstance(state.memory, CompassMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        slower_s = before.slower_s if before else None
        rungs = self._allowed(state)
        running = [rung.configs for rung in rungs]
        if state.running not in running:
            return CompassMemory(state.now_s, rungs[-1].configs, slower_s)
        at, waiting = running.index(state.running), self._waiting(observation, state)
        if waiting is None:
            return CompassMemory(state.now_s, state.running, slower_s)
        now = at
        while at > 0 and rungs[at].excess_s(waiting) > 0:
            at -= 1
        is_cool = slower_s is None or state.now_s - slower_s >= SLOWER_AFTER_S
        if at == now < len(rungs) - 1 and is_cool and rungs[at + 1].excess_s(waiting) <= -HYSTERESIS_S:
            at, slower_s = at + 1, state.now_s
        return CompassMemory(state.now_s, rungs[at].configs, slower_s)

    def _allowed(self, state: PolicyState) -> Sequence[Rung]:
        """The rungs without excluded variants; all of them if none is left."""
        rungs = self.ladder(state.running)
        return [
            rung for rung in rungs if not any((it.stage, it.variant) in state.excluded for it in rung.configs)
        ] or rungs

    def _waiting(self, observation: Observation, state: PolicyState) -> float | None:
        """The requests that wait at all stages; None if a queue is not known."""
        if not all(isinstance(stage.queue_length, Measured) for stage in observation.stages):
            return None
        return sum(load.queued / load.items for load in self.ruled.loads(observation, state))

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration that the rule desires; the forecast is not used."""
        return self.ruled.plan(self.remember(observation, state).configs, forecast, state, self.name)


def ladder(ruled: RulePlanner, configs: Configs) -> tuple[Rung, ...]:
    """The Pareto-optimal choices of variants with these cores, replicas and batch sizes, the fastest first.

    Each has slack, unless none does: then the fastest alone.
    """
    choices = [
        [replace(config, variant=name) for name in ruled.profiled.variants(config.stage)]
        for config in configs
    ]
    rungs = [rung for each in product(*choices) if (rung := _rung(ruled, each)) is not None]
    rungs.sort(key=lambda rung: (rung.latency_s, -rung.accuracy))
    front: list[Rung] = []
    for rung in rungs:
        if not front or rung.accuracy > front[-1].accuracy:
            front.append(rung)
    return tuple(rung for rung in front if rung.slack_s > 0) or tuple(front[:1])


def _rung(ruled: RulePlanner, configs: Configs) -> Rung | None:
    """The rung of the configurations; None if they were not measured."""
    any_rate = ruled.profiled.predict(configs, ANY_RATE_RPS)
    if any_rate is None:
        return None
    idle = ruled.profiled.predict(configs, IDLE_RATIO * any_rate.capacity_rps)
    assert idle is not None
    slack_s = idle.sla_s - idle.latency_s
    return Rung(configs, idle.pas, idle.latency_s, slack_s, 1 / any_rate.capacity_rps)


def compass(inputs: PolicyInputs) -> Compass:
    """The policy for a pipeline and its profiles."""
    ruled = inputs.ruled()

    @lru_cache(8)
    def cached(machines: Configs) -> tuple[Rung, ...]:
        return ladder(ruled, machines)

    def rungs(running: Configs) -> tuple[Rung, ...]:
        # All variants on the same machines have the same rungs.
        return cached(tuple(replace(it, variant=ruled.profiled.variants(it.stage)[0]) for it in running))

    return Compass(ruled, rungs)
