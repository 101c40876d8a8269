"""Knative's Pod Autoscaler: scales replicas by the request rate; the rest stays as it is.

Its rule with its defaults: the mean rate over a stable window of 60 s and a panic window of 6 s. It panics if
the latter asks for twice the ready replicas, and then removes none for 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory, Measured, Missing, Observation
from ipa.model.plan import Plan
from ipa.policies.base import Configs, PolicyState
from ipa.policies.rules import RulePlanner, StageLoad, whole, with_replicas

# autoscaling.knative.dev/window.
STABLE_S = 60.0
# panic-window-percentage: a tenth of the stable window.
PANIC_S = 6.0
# panic-threshold-percentage.
PANIC_RATIO = 2.0
# target-utilization-percentage, of a replica's capacity.
TARGET_RATIO = 0.7
# max-scale-up-rate and max-scale-down-rate, relative to the ready replicas.
MAX_UP = 1000.0
MAX_DOWN = 2.0


@dataclass(frozen=True, slots=True)
class KpaStageMemory:
    """The last time over the panic threshold (None: not panicking), and the desired replicas."""

    panicked_s: float | None
    replicas: int


@dataclass(frozen=True, slots=True)
class KpaMemory:
    """The state of each stage after the tick at `at_s`."""

    at_s: float
    stages: tuple[KpaStageMemory, ...]


@dataclass(frozen=True, slots=True)
class Kpa:
    """An autoscaler for each stage, with the metric rps."""

    ruled: RulePlanner
    target_ratio: float = TARGET_RATIO
    name: str = "kpa"

    @property
    def memory_kind(self) -> type[KpaMemory]:
        """The type returned by `remember`."""
        return KpaMemory

    def at_once(self, running: Configs) -> bool:
        """Always true: the rule has its own delay."""
        return True

    def remember(self, observation: Observation, state: PolicyState) -> KpaMemory:
        """The panic state of each stage after this tick, and since when it panics."""
        before = state.memory if isinstance(state.memory, KpaMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        stable_rps = window_mean_rps(observation.load, STABLE_S)
        panic_rps = window_mean_rps(observation.load, PANIC_S)
        stages = []
        for at, load in enumerate(self.ruled.loads(observation, state)):
            last = before.stages[at] if before else KpaStageMemory(None, load.config.replicas)
            if stable_rps is None or panic_rps is None:
                stages.append(KpaStageMemory(last.panicked_s, load.config.replicas))
            else:
                stages.append(self._stage(load, last, state.now_s, stable_rps, panic_rps))
        return KpaMemory(state.now_s, tuple(stages))

    def _stage(
        self, load: StageLoad, last: KpaStageMemory, now_s: float, stable_rps: float, panic_rps: float
    ) -> KpaStageMemory:
        each_rps = self.target_ratio * load.capacity_rps / load.items
        ready = max(1, load.ready)
        most, least = ceil(MAX_UP * ready), int(ready / MAX_DOWN)
        stable, panic = (
            min(max(whole(min(rate / each_rps, float(most))), least, 1), most)
            for rate in (stable_rps, panic_rps)
        )
        panicked_s = last.panicked_s
        if panic_rps / each_rps >= PANIC_RATIO * ready:
            panicked_s = now_s
        elif panicked_s is not None and now_s - panicked_s > STABLE_S:
            panicked_s = None
        if panicked_s is None:
            return KpaStageMemory(None, stable)
        return KpaStageMemory(panicked_s, max(stable, panic, load.config.replicas, last.replicas))

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the replicas of the rule; the forecast is not used."""
        memory = self.remember(observation, state)
        replicas = [stage.replicas for stage in memory.stages]
        return self.ruled.plan(with_replicas(state.running, replicas), forecast, state, self.name)


def window_mean_rps(load: Measured[LoadHistory] | Missing, window_s: float) -> float | None:
    """The mean of the rates observed in the last `window_s`; None without any."""
    if isinstance(load, Missing):
        return None
    count = max(1, round(window_s / load.value.step_s))
    seen = [
        rate for rate in load.value.rates_rps[-count:] if rate is not None and isfinite(rate) and rate >= 0
    ]
    return sum(seen) / len(seen) if seen else None
