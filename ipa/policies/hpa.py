"""Kubernetes' Horizontal Pod Autoscaler: scales replicas by utilisation; the rest stays as it is.

The rule of autoscaling/v2 with its defaults: every 15 s ⌈n·u/target⌉ if u is off the target by more than 10
%, up at once, down to the highest recommendation of the last 300 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.plan import Plan
from ipa.policies.base import Configs, PolicyState
from ipa.policies.rules import RulePlanner, StageLoad, busy_replicas, whole, with_replicas

# --horizontal-pod-autoscaler-sync-period.
SYNC_S = 15.0
# The target if a HorizontalPodAutoscaler names none.
TARGET_RATIO = 0.8
# --horizontal-pod-autoscaler-tolerance.
TOLERANCE_RATIO = 0.1
# behavior.scaleDown.stabilizationWindowSeconds.
DOWN_WINDOW_S = 300.0


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """The recommendations of the last 300 s: time, and replicas of each stage.

    `is_due` says whether the tick at `at_s` was the first of its period of 15 s.
    """

    at_s: float
    is_due: bool
    recommended: tuple[tuple[float, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Hpa:
    """A HorizontalPodAutoscaler for each stage.

    u is the CPU time used over that of the ready replicas: the arrivals over the profiled capacity, at most
    1, so that an overloaded stage grows by a quarter in a step.
    """

    ruled: RulePlanner
    target_ratio: float = TARGET_RATIO
    name: str = "hpa"

    @property
    def memory_kind(self) -> type[HpaMemory]:
        """The type returned by `remember`."""
        return HpaMemory

    def at_once(self, running: Configs) -> bool:
        """Always true: the rule has its own delay."""
        return True

    def remember(self, observation: Observation, state: PolicyState) -> HpaMemory:
        """The recommendations after this tick; a new controller starts with the running replicas."""
        before, now_s = state.memory, state.now_s
        if not isinstance(before, HpaMemory):
            before = HpaMemory(-SYNC_S, True, ((now_s, tuple(it.replicas for it in state.running)),))
        elif floor(now_s / SYNC_S) == floor(before.at_s / SYNC_S):
            return replace(before, at_s=now_s, is_due=before.is_due and before.at_s == now_s)
        recent = tuple(it for it in before.recommended if now_s - it[0] < DOWN_WINDOW_S)
        now = tuple(self._recommended(load) for load in self.ruled.loads(observation, state))
        return HpaMemory(now_s, True, (*recent, (now_s, now)))

    def _recommended(self, load: StageLoad) -> int:
        """⌈n·u/target⌉; the present replicas if u is near the target or missing."""
        replicas, busy = load.config.replicas, busy_replicas(load, SYNC_S)
        if busy is None:
            return replicas
        ratio = busy / load.ready / self.target_ratio
        if ratio > 1 and replicas > load.ready:
            # Starting replicas count as idle, so that no more are added while they start.
            ratio = max(1.0, busy / replicas / self.target_ratio)
        if abs(ratio - 1) <= TOLERANCE_RATIO:
            return replicas
        return whole(busy / self.target_ratio)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the newest recommended replicas; the forecast is not used."""
        memory = state.memory
        if not isinstance(memory, HpaMemory) or memory.at_s != state.now_s:
            memory = self.remember(observation, state)
        wanted = state.running
        if memory.is_due:
            newest = memory.recommended[-1][1]
            highest = [max(each) for each in zip(*(it for _, it in memory.recommended), strict=True)]
            replicas = [
                new if new > config.replicas else min(high, config.replicas)
                for config, new, high in zip(state.running, newest, highest, strict=True)
            ]
            wanted = with_replicas(state.running, replicas)
        return self.ruled.plan(wanted, forecast, state, self.name)
