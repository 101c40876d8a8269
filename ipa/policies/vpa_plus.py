"""The Vertical Pod Autoscaler as InfAdapter compares with it: scales cores; the rest stays as it is.

The target of the VPA's recommender: the 90th percentile of a decaying histogram of the cores used, plus 15 %.
InfAdapter's improvement: up at once, down only after four intervals of 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import floor, log

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import Configs, PolicyState, constrained
from ipa.policies.rules import ROUNDING, RulePlanner, StageLoad, busy_replicas, is_reachable

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
class VpaPlus:
    """A VerticalPodAutoscaler for each stage, limited to the measured sizes.

    A replica uses the share of its cores for which it is busy: never more than it has, however long the
    queue.
    """

    ruled: RulePlanner
    name: str = "vpa+"

    @property
    def memory_kind(self) -> type[VpaMemory]:
        """The type returned by `remember`."""
        return VpaMemory

    def at_once(self, running: Configs) -> bool:
        """Always true: the rule has its own delay."""
        return True

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
        kept = tuple(it for it in last.sizes if now_s - it[0] < DOWN_AFTER * INTERVAL_S)
        return VpaStageMemory(histogram, _in_intervals(kept, now_s, size))

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The running configuration with the largest recent cores; the forecast is not used."""
        memory = self.remember(observation, state)
        wanted = tuple(
            replace(config, cores=max(cores for _, cores in stage.sizes))
            for config, stage in zip(state.running, memory.stages, strict=True)
        )
        return self.ruled.plan(self._affordable(wanted, state), forecast, state, self.name)

    def _affordable(self, wanted: Configs, state: PolicyState) -> Configs:
        """Return the desired sizes without the growth, largest first, that finds no room."""
        pipeline = constrained(self.ruled.pipeline, state)
        kept = list(wanted)
        while not self._has_room(pipeline, kept, state):
            grown = [new.total_cores - old.total_cores for new, old in zip(kept, state.running, strict=True)]
            at = max(range(len(grown)), key=grown.__getitem__)
            if grown[at] <= 0:
                break
            kept[at] = self._smaller(kept[at], state.running[at])
        return tuple(kept)

    def _has_room(self, pipeline: Pipeline, configs: Sequence[StageConfig], state: PolicyState) -> bool:
        bounds = pipeline.bounds
        if bounds.exceeded(configs):
            return False
        return not state.reachable or is_reachable(pipeline, configs, state.running, self.ruled.rolling)

    def _smaller(self, config: StageConfig, least: StageConfig) -> StageConfig:
        """The next smaller size, not below the running one."""
        below = [cores for cores in self.ruled.profiled.sizes_cores(config) if cores < config.cores]
        return replace(config, cores=max(below[-1] if below else least.cores, least.cores))


def _least_size(sizes_cores: Sequence[float], target_cores: float) -> float:
    """The least sufficient size, the largest if none is."""
    enough = [cores for cores in sizes_cores if cores >= target_cores - ROUNDING]
    return min(enough) if enough else max(sizes_cores)


def _in_intervals(
    sizes: tuple[tuple[float, float], ...], now_s: float, cores: float
) -> tuple[tuple[float, float], ...]:
    """The sizes with the newest; of one interval only the largest is kept, at its latest time."""
    if sizes and floor(sizes[-1][0] / INTERVAL_S) == floor(now_s / INTERVAL_S) and cores >= sizes[-1][1]:
        sizes = sizes[:-1]
    return (*sizes, (now_s, cores))


def decayed(histogram: Histogram, elapsed_s: float) -> Histogram:
    """The histogram after `elapsed_s`: weights halve in 24 h; negligible ones are dropped."""
    factor = 2.0 ** (-max(elapsed_s, 0.0) / HALF_LIFE_S)
    total = sum(weight for _, weight in histogram)
    return tuple((at, weight * factor) for at, weight in histogram if weight > ROUNDING * total)


def with_sample(histogram: Histogram, cores: float, weight: float) -> Histogram:
    """The histogram with one more sample, in buckets of 0.01 cores, each 5 % wider than the last."""
    bucket = floor(log(cores * (GROWTH - 1) / FIRST_CORES + 1) / log(GROWTH))
    weights = dict(histogram)
    weights[bucket] = weights.get(bucket, 0.0) + weight
    return tuple(sorted(weights.items()))


def percentile_cores(histogram: Histogram) -> float:
    """The upper end of the bucket with the 90th percentile of the weight."""
    wanted = PERCENTILE * sum(weight for _, weight in histogram)
    reached = accumulate(weight for _, weight in histogram)
    bucket = next(
        (at for (at, _), sum_ in zip(histogram, reached, strict=True) if sum_ >= wanted), histogram[-1][0]
    )
    return FIRST_CORES * (GROWTH ** (bucket + 1) - 1) / (GROWTH - 1)
