"""A policy that learns from served batches what cores and batch sizes do, a plug-in.

The logarithm of a variant's mean time is linear in those of the cores and the items of a batch, as in
`ipa.profiling.next_points`; the belief starts at the assumed profile and the spread of shipped profiles, and
follows from the batches served at each number of cores and batch size. Replicas are counted by times that are
longer than likely, and by what no machine exceeds: twice the items, or half of the cores, take no more than
twice as long. The cores and batch sizes to try are those of the plan by likely times, if that costs hardly
more by the long ones: so a try costs some cores, and no late requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt
from typing import ClassVar, TypeVar

import numpy as np

from ipa.model.observation import Forecast, Measured, Observation
from ipa.model.pipeline import Pin
from ipa.model.plan import Plan
from ipa.model.profile import ProfilePoint, StageProfile
from ipa.policies.base import AtOnce, Configs, PolicyState, merged_pin
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.policies.table import PolicyInputs
from ipa.profiling.next_points import BATCH_EXPONENT, CORES_EXPONENT, EXPONENT_DEVIATION, OWN_DEVIATION

N = TypeVar("N", int, float)

# Deviations of the belief: times to count replicas by are longer, those to choose by are shorter.
CAUTION, OPTIMISM = 2.0, 0.5
# Of means of few batches: their times vary by a quarter.
VARIATION = 0.25
MOST_COUNT = 200.0
# Seconds for which a point is observed before another is tried, and those whose highest load is carried.
OBSERVED_S, HELD_S = 30.0, 60.0
TAIL_RATIO = 2.0
# A try may cost this much more than the plan by what is known, and is to save this much.
TRY_RATIO, GAIN_RATIO = 1.05, 0.97


@dataclass(frozen=True, slots=True)
class SeenPoint:
    """The batches served on these cores up to this size: mean items, mean time, and their number."""

    stage: str
    cores: float
    batch_size: int
    items: float
    mean_s: float
    count: float


@dataclass(frozen=True, slots=True)
class AdoptionMemory:
    """What was seen, and since when the stages run as they do."""

    at_s: float
    # The first time at which all replicas were seen to be those, None while they are not.
    since_s: float | None
    running: Configs
    seen: tuple[SeenPoint, ...] = ()
    loads: tuple[tuple[float, float], ...] = ()

    def at(self, stage: str, cores: float, batch_size: int) -> SeenPoint | None:
        """The point, if it was seen."""
        place = (stage, cores, batch_size)
        return next((it for it in self.seen if (it.stage, it.cores, it.batch_size) == place), None)


def _towards(now: N, hoped: N) -> N:
    """Twice or half of it, if the other is more or less."""
    return now * 2 if hoped > now else type(now)(now / 2) if hoped < now else now


def _sizes(configs: Configs) -> list[tuple[str, float, int]]:
    return [(it.stage, it.cores, it.batch_size) for it in configs]


@dataclass(frozen=True, slots=True)
class Adopting(AtOnce):
    """The policy; `inputs` have the assumed profiles, over the whole grid."""

    inputs: PolicyInputs
    # Receives the profiles as believed after each tick.
    tell: Callable[[dict[str, StageProfile]], None] = field(default=lambda _: None)
    caution: float = CAUTION
    name: str = "adopting"
    memory_kind: ClassVar[type[object]] = AdoptionMemory

    def remember(self, observation: Observation, state: PolicyState) -> AdoptionMemory:
        """The memory with the batches that all running replicas served."""
        before = state.memory if isinstance(state.memory, AdoptionMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        is_moved = (
            before is None
            or _sizes(before.running) != _sizes(state.running)
            or not observation.settled
            or observation.running() != state.running
        )
        began_s = before.since_s if before is not None and before.since_s is not None else state.now_s
        since_s = None if is_moved else began_s
        loads = tuple(it for it in (before.loads if before else ()) if it[0] > state.now_s - HELD_S)
        if isinstance(observation.arrival_rate_rps, Measured):
            loads += ((state.now_s, observation.arrival_rate_rps.value),)
        memory = AdoptionMemory(state.now_s, since_s, state.running, before.seen if before else (), loads)
        for stage, config in zip(observation.stages, state.running, strict=True):
            batches = stage.batches
            if not isinstance(batches, Measured) or batches.value.count < 5:
                continue
            if since_s is None or state.now_s - since_s < batches.value.window_s + batches.age_s:
                continue
            old = memory.at(config.stage, config.cores, config.batch_size)
            count = min(old.count if old else 0.0, MOST_COUNT)
            share = batches.value.count / (batches.value.count + count)
            # A replica below a core spends time saved while idle: this is without.
            sustained_s = batches.value.service_s / min(config.cores, 1.0)
            new = SeenPoint(
                config.stage,
                config.cores,
                config.batch_size,
                batches.value.items * share + (old.items if old else 0.0) * (1 - share),
                sustained_s * share + (old.mean_s if old else 0.0) * (1 - share),
                count + batches.value.count,
            )
            memory = replace(memory, seen=(*(it for it in memory.seen if it != old), new))
        return memory

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan by long times, or the try of another number of cores or batch size."""
        memory = self.remember(observation, state)
        state = replace(state, slowdowns=())
        held_rps = max((rate_rps for _, rate_rps in memory.loads), default=0.0)
        forecast = replace(forecast, upper_rps=max(forecast.upper_rps, held_rps))
        self.tell(self.believed(memory, 0.0))
        long, likely = (self._profiled(memory, deviations) for deviations in (self.caution, -OPTIMISM))
        best, hoped = (self._plan(each, observation, forecast, state) for each in (long, likely))
        if not best.stages or best.cost_cores is None:
            return best
        stay = self._pinned(long, state.running, observation, forecast, state)
        known = [memory.at(*place) for place in _sizes(state.running)]
        if stay.cost_cores is not None:
            if memory.since_s is None or state.now_s - memory.since_s < OBSERVED_S or None in known:
                return stay
            if stay.cost_cores * GAIN_RATIO <= best.cost_cores:
                best = stay
        if hoped.cost_cores is None or best.cost_cores is None:
            return best
        if hoped.cost_cores > GAIN_RATIO * best.cost_cores:
            return best
        for wanted in self._steps(best.configs, hoped.configs):
            tried = self._pinned(long, wanted, observation, forecast, state)
            if tried.cost_cores is not None and tried.cost_cores <= TRY_RATIO * best.cost_cores:
                return tried
        return best

    @staticmethod
    def _steps(now: Configs, hoped: Configs) -> list[Configs]:
        """A step of all stages on the way to what is hoped for, then of one."""
        each, together = list[Configs](), list(now)
        for at, (old, new) in enumerate(zip(now, hoped, strict=True)):
            steps = [
                replace(old, batch_size=_towards(old.batch_size, new.batch_size)),
                replace(old, cores=_towards(old.cores, new.cores)),
            ]
            together[at] = replace(steps[0], cores=steps[1].cores)
            each += [(*now[:at], step, *now[at + 1 :]) for step in (together[at], *steps)]
        ways = [tuple(together), *each]
        return [way for way in ways if _sizes(way) != _sizes(now)]

    def _plan(
        self, profiled: Profiled, observation: Observation, forecast: Forecast, state: PolicyState
    ) -> Plan:
        return Ours(self.inputs.pipeline, profiled.plan, probe=profiled.probe).decide(
            observation, forecast, state
        )

    def _pinned(
        self,
        profiled: Profiled,
        configs: Configs,
        observation: Observation,
        forecast: Forecast,
        state: PolicyState,
    ) -> Plan:
        """The plan with the cores and batch sizes of the configurations."""
        pins = dict(state.pins)
        for it in configs:
            pins[it.stage] = merged_pin(Pin(it.variant, it.batch_size, it.cores), pins.get(it.stage, Pin()))
        return self._plan(profiled, observation, forecast, replace(state, pins=tuple(pins.items())))

    def _profiled(self, memory: AdoptionMemory, deviations: float) -> Profiled:
        return Profiled(replace(self.inputs, profiles=self.believed(memory, deviations)))

    def believed(self, memory: AdoptionMemory, deviations: float) -> dict[str, StageProfile]:
        """The profiles by stage with times that many deviations longer than likely."""
        return {name: _believed(each, memory, deviations) for name, each in self.inputs.profiles.items()}


def _believed(profile: StageProfile, memory: AdoptionMemory, deviations: float) -> StageProfile:
    """The profile with times that many deviations longer than likely."""
    (variant,) = profile.variants
    seen = [it for it in memory.seen if it.stage == profile.stage]
    if not seen:
        return profile
    rows = np.array([(1.0, log(it.cores), log(it.items)) for it in seen])
    noise = np.array([OWN_DEVIATION**2 + VARIATION**2 / it.count for it in seen])
    exponents = np.array([0.0, CORES_EXPONENT, BATCH_EXPONENT])
    off = np.log([it.mean_s for it in seen]) - rows @ exponents
    weighted = rows.T / noise
    precision = weighted @ rows + np.diag([1e-4, EXPONENT_DEVIATION**-2, EXPONENT_DEVIATION**-2])
    covariance = np.linalg.inv(precision)
    likely = exponents + covariance @ (weighted @ off)
    points = []
    for each in variant.points:
        row = np.array((1.0, log(each.cores), log(each.batch_size)))
        mean_s = exp(row @ likely + deviations * sqrt(row @ covariance @ row))
        most_s = min(
            it.mean_s * max(1.0, each.batch_size / it.items) * max(1.0, it.cores / each.cores) for it in seen
        )
        mean_s = min(mean_s, most_s)
        points.append(ProfilePoint(each.cores, each.batch_size, mean_s * TAIL_RATIO, mean_s))
    return replace(profile, variants=(replace(variant, points=tuple(points)),))


def over_grid(profiles: Mapping[str, StageProfile], grid: list[tuple[float, int]]) -> dict[str, StageProfile]:
    """Assumed profiles over the whole grid: times are the longest that the known ones allow."""
    filled = {}
    for name, profile in profiles.items():
        (variant,) = profile.variants
        known = [(it.cores, it.batch_size, it.latency_mean_s or it.latency_s) for it in variant.points]
        points = []
        for cores, size in grid:
            mean_s = min(of_s * max(1.0, size / of) * max(1.0, at / cores) for at, of, of_s in known)
            points.append(ProfilePoint(cores, size, mean_s * TAIL_RATIO, mean_s))
        filled[name] = replace(profile, variants=(replace(variant, points=tuple(points)),))
    return filled


def adopting(inputs: PolicyInputs) -> Adopting:
    """The policy: `--policy experiments.adoption.learning:adopting`."""
    return Adopting(inputs)
