"""Kubernetes' and Knative's autoscalers, which scale one dimension and leave the rest as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, floor, log
from typing import ClassVar

from ipa.model.observation import Forecast, LoadHistory, Observation, known
from ipa.model.plan import Plan
from ipa.model.resources import NO_RESOURCES
from ipa.policies.base import AtOnce, Configs, PolicyState, constrained, lacking
from ipa.policies.rules import (
    ROUNDING,
    RulePlanner,
    StageLoad,
    busy_replicas,
    whole,
    with_replicas,
)


@dataclass(frozen=True, slots=True)
class Autoscaler(AtOnce):
    """A rule that scales each stage by its load, with a memory and a delay of its own."""

    ruled: RulePlanner


# --horizontal-pod-autoscaler-sync-period.
SYNC_S = 15.0
# The target if a HorizontalPodAutoscaler names none.
HPA_TARGET_RATIO = 0.8
# --horizontal-pod-autoscaler-tolerance.
TOLERANCE_RATIO = 0.1
# behavior.scaleDown.stabilizationWindowSeconds.
DOWN_WINDOW_S = 300.0
# The default policies of behavior.scaleUp: in 15 s twice the replicas, or 4 more if those are more.
UP_FACTOR, UP_REPLICAS = 2, 4


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """The recommendations of the last 300 s: time, and replicas of each stage; 0 if its load was missing.

    `is_due`: the tick at `at_s` was the first of its period of 15 s.
    """

    at_s: float
    is_due: bool
    recommended: tuple[tuple[float, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Hpa(Autoscaler):
    """Kubernetes' Horizontal Pod Autoscaler for each stage: scales replicas by utilisation.

    The rule of autoscaling/v2 with its defaults: every 15 s ⌈n·u/target⌉ if u is off the target by more than
    10 %, up at once to at most 2·n or n + 4, down to the highest recommendation of the last 300 s.

    u is the CPU time used over that of the ready replicas: the arrivals over the profiled capacity, at most
    1, so that an overloaded stage grows by a quarter in a step.
    """

    target_ratio: float = HPA_TARGET_RATIO
    name: str = "hpa"
    memory_kind: ClassVar[type[object]] = HpaMemory

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
        """⌈n·u/target⌉; the present replicas if u is near the target, 0 if it is missing."""
        replicas, busy = load.config.replicas, busy_replicas(load, SYNC_S)
        if busy is None:
            return 0
        ratio = busy / load.ready / self.target_ratio
        if ratio > 1 and replicas > load.ready:
            # Starting replicas count as idle, so that no more are added while they start.
            ratio = max(1.0, busy / replicas / self.target_ratio)
        if abs(ratio - 1) <= TOLERANCE_RATIO:
            return replicas
        return whole(busy / self.target_ratio)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the newest recommended replicas; the forecast is not used."""
        memory = self.remember(observation, state)
        wanted = state.running
        if memory.is_due:
            newest = memory.recommended[-1][1]
            highest = [max(each) for each in zip(*(it for _, it in memory.recommended), strict=True)]
            present = [config.replicas for config in state.running]
            replicas = [
                min(max(new, min(high, now)), max(UP_FACTOR * now, UP_REPLICAS + now)) if new else now
                for now, new, high in zip(present, newest, highest, strict=True)
            ]
            wanted = with_replicas(state.running, replicas)
        return self.ruled.plan(wanted, forecast, state, self.name)


# autoscaling.knative.dev/window.
STABLE_S = 60.0
# panic-window-percentage: a tenth of the stable window.
PANIC_S = 6.0
# panic-threshold-percentage.
PANIC_RATIO = 2.0
# target-utilization-percentage, of a replica's capacity.
KPA_TARGET_RATIO = 0.7
# The interval of its decisions.
KPA_TICK_S = 2.0


@dataclass(frozen=True, slots=True)
class KpaStageMemory:
    """The last time above the panic threshold (None: not panicking), and the desired replicas.

    `panic_replicas` are the most that the panic desired.
    """

    panicked_s: float | None
    replicas: int
    panic_replicas: int = 0


@dataclass(frozen=True, slots=True)
class KpaMemory:
    """The state of each stage after the tick at `at_s`."""

    at_s: float
    stages: tuple[KpaStageMemory, ...]


@dataclass(frozen=True, slots=True)
class Kpa(Autoscaler):
    """Knative's Pod Autoscaler for each stage: scales replicas by the request rate, the metric rps.

    The rule with its defaults: the mean rate over a stable window of 60 s and a panic window of 6 s. It
    panics if the panic window asks for twice the ready replicas, and if it begins with several; then it
    removes none for 60 s. It decides for every 2 s since the last tick, with the replicas that are ready now.
    `max_up` and `max_down` are max-scale-up-rate and max-scale-down-rate, relative to the ready replicas.
    """

    target_ratio: float = KPA_TARGET_RATIO
    max_up: float = 1000.0
    max_down: float = 2.0
    name: str = "kpa"
    memory_kind: ClassVar[type[object]] = KpaMemory

    def remember(self, observation: Observation, state: PolicyState) -> KpaMemory:
        """The panic state of each stage after this tick, with the time since which it panics."""
        before = state.memory if isinstance(state.memory, KpaMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        loads, history = self.ruled.loads(observation, state), known(observation.load)
        elapsed_s = min(state.now_s - before.at_s, STABLE_S) if before else 0.0
        stages = before.stages if before else tuple(_begun(load, state.now_s) for load in loads)
        # Without a rate the running replicas stay.
        stages = tuple(
            replace(last, replicas=load.config.replicas) for load, last in zip(loads, stages, strict=True)
        )
        for tick in reversed(range(max(1, int(elapsed_s / KPA_TICK_S)))):
            ago_s = tick * KPA_TICK_S
            rates = _until(history, ago_s) if history else None
            stable_rps, panic_rps = (rates.mean_rps(it) if rates else None for it in (STABLE_S, PANIC_S))
            if stable_rps is None or panic_rps is None:
                continue
            stages = tuple(
                self._stage(load, last, state.now_s - ago_s, stable_rps, panic_rps)
                for load, last in zip(loads, stages, strict=True)
            )
        return KpaMemory(state.now_s, stages)

    def _stage(
        self, load: StageLoad, last: KpaStageMemory, now_s: float, stable_rps: float, panic_rps: float
    ) -> KpaStageMemory:
        each_rps = self.target_ratio * load.capacity_rps / load.items
        ready = max(1, load.ready)
        most, least = ceil(self.max_up * ready), int(ready / self.max_down)

        def desired(rate_rps: float) -> int:
            return min(max(whole(min(rate_rps / each_rps, float(most))), least, 1), most)

        stable, panic = desired(stable_rps), desired(panic_rps)
        panicked_s, panic_replicas = last.panicked_s, last.panic_replicas
        if whole(panic_rps / each_rps) >= PANIC_RATIO * ready:
            panicked_s = now_s
        elif panicked_s is not None and now_s - panicked_s > STABLE_S:
            panicked_s, panic_replicas = None, 0
        if panicked_s is None:
            return KpaStageMemory(None, stable, panic_replicas)
        panic_replicas = max(panic_replicas, stable, panic)
        return KpaStageMemory(panicked_s, panic_replicas, panic_replicas)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the replicas of the rule; the forecast is not used."""
        memory = self.remember(observation, state)
        replicas = [stage.replicas for stage in memory.stages]
        return self.ruled.plan(with_replicas(state.running, replicas), forecast, state, self.name)


def _begun(load: StageLoad, now_s: float) -> KpaStageMemory:
    """A new controller keeps several ready replicas until its windows are full, as if it panicked."""
    return KpaStageMemory(now_s if load.ready > 1 else None, load.config.replicas, load.ready)


def _until(history: LoadHistory, ago_s: float) -> LoadHistory:
    """The history as it was `ago_s` ago."""
    count = len(history.rates_rps) - round(ago_s / history.step_s)
    return replace(history, rates_rps=history.rates_rps[: max(0, count)])


# The recommender's histogram: its first bucket, and the growth of each next one.
FIRST_CORES = 0.01
GROWTH = 1.05
HALF_LIFE_S = 86_400.0
PERCENTILE = 0.9
MARGIN = 1.15
# The weight of a sample is its allocated cores, at least this.
MIN_WEIGHT = 0.1
# InfAdapter's interval, and the number of them after which cores are reduced.
INTERVAL_S = 30.0
DOWN_AFTER = 4

Histogram = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class VpaStageMemory:
    """The histogram of a replica's core use, and the sizes of the last intervals: time, and cores."""

    histogram: Histogram
    sizes: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class VpaMemory:
    """The state of each stage after the tick at `at_s`."""

    at_s: float
    stages: tuple[VpaStageMemory, ...]


@dataclass(frozen=True, slots=True)
class VpaPlus(Autoscaler):
    """The Vertical Pod Autoscaler for each stage, as in InfAdapter's evaluation: scales cores.

    The target of the VPA's recommender: the 90th percentile of a decaying histogram of the cores used, plus
    15 %, as a measured size. InfAdapter's improvement: up at once, down only after four intervals of 30 s. A
    replica uses its cores in proportion to its busy time: never more than it has, however long the queue.
    """

    name: str = "vpa+"
    memory_kind: ClassVar[type[object]] = VpaMemory

    def remember(self, observation: Observation, state: PolicyState) -> VpaMemory:
        """The histograms with this tick's use, and the sizes of the last four intervals."""
        before = state.memory if isinstance(state.memory, VpaMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        stages = []
        for at, load in enumerate(self.ruled.loads(observation, state)):
            # With less than four intervals known, cores are not reduced.
            last = before.stages[at] if before else VpaStageMemory((), ((state.now_s, load.config.cores),))
            elapsed_s = state.now_s - before.at_s if before else 0.0
            stages.append(self._learned(load, last, elapsed_s, state.now_s))
        return VpaMemory(state.now_s, tuple(stages))

    def _learned(
        self, load: StageLoad, last: VpaStageMemory, elapsed_s: float, now_s: float
    ) -> VpaStageMemory:
        busy = busy_replicas(load, INTERVAL_S)
        histogram = last.histogram
        if busy is not None:
            used_cores = load.config.cores * busy / load.ready
            weight = max(load.config.cores, MIN_WEIGHT)
            histogram = with_sample(decayed(histogram, elapsed_s), used_cores, weight)
        target_cores = MARGIN * percentile_cores(histogram) if histogram else load.config.cores
        size = _least_size(self.ruled.profiled.sizes_cores(load.config), target_cores)
        recent = tuple(it for it in last.sizes if now_s - it[0] < DOWN_AFTER * INTERVAL_S)
        return VpaStageMemory(histogram, _in_intervals(recent, now_s, size))

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the largest recent cores; the forecast is not used."""
        memory = self.remember(observation, state)
        wanted = tuple(
            replace(config, cores=max(cores for _, cores in stage.sizes))
            for config, stage in zip(state.running, memory.stages, strict=True)
        )
        return self.ruled.plan(self._affordable(wanted, state), forecast, state, self.name)

    def _affordable(self, wanted: Configs, state: PolicyState) -> Configs:
        """Return the desired sizes without growth that finds no room, the largest growth left out first."""
        pipeline, rolling = constrained(self.ruled.pipeline, state), self.ruled.rolling
        configs = list(wanted)
        while pipeline.bounds.exceeded(configs) or (
            state.reachable and lacking(state.running, configs, rolling, pipeline.bounds) != NO_RESOURCES
        ):
            grown = [
                new.total_cores - old.total_cores for new, old in zip(configs, state.running, strict=True)
            ]
            at = max(range(len(grown)), key=grown.__getitem__)
            if grown[at] <= 0:
                break
            # The next smaller size, not below the running one.
            config, least = configs[at], state.running[at].cores
            below = [cores for cores in self.ruled.profiled.sizes_cores(config) if cores < config.cores]
            configs[at] = replace(config, cores=max(below[-1] if below else least, least))
        return tuple(configs)


def _least_size(sizes_cores: Sequence[float], target_cores: float) -> float:
    """The least size that reaches the target; the largest if none does."""
    enough = [cores for cores in sizes_cores if cores >= target_cores - ROUNDING]
    return min(enough) if enough else max(sizes_cores)


def _in_intervals(
    sizes: tuple[tuple[float, float], ...], now_s: float, cores: float
) -> tuple[tuple[float, float], ...]:
    """The sizes with the newest added; of one interval only the largest is kept, at its latest time."""
    if sizes and floor(sizes[-1][0] / INTERVAL_S) == floor(now_s / INTERVAL_S) and cores >= sizes[-1][1]:
        sizes = sizes[:-1]
    return (*sizes, (now_s, cores))


def decayed(histogram: Histogram, elapsed_s: float) -> Histogram:
    """The histogram after `elapsed_s`: weights halve in 24 h; negligible ones are dropped."""
    factor = 2.0 ** (-max(elapsed_s, 0.0) / HALF_LIFE_S)
    total = sum(weight for _, weight in histogram)
    return tuple((at, weight * factor) for at, weight in histogram if weight > ROUNDING * total)


def with_sample(histogram: Histogram, cores: float, weight: float) -> Histogram:
    """The histogram with one more sample; the first bucket has 0.01 cores, each next one is 5 % wider."""
    bucket = floor(log(cores * (GROWTH - 1) / FIRST_CORES + 1) / log(GROWTH))
    weights = dict(histogram)
    weights[bucket] = weights.get(bucket, 0.0) + weight
    return tuple(sorted(weights.items()))


def percentile_cores(histogram: Histogram) -> float:
    """The upper end of the bucket with the 90th percentile of the weight."""
    wanted = PERCENTILE * sum(weight for _, weight in histogram)
    reached = accumulate(weight for _, weight in histogram)
    bucket = next(at for (at, _), sum_ in zip(histogram, reached, strict=True) if sum_ >= wanted)
    return FIRST_CORES * (GROWTH ** (bucket + 1) - 1) / (GROWTH - 1)
