"""A policy that learns from served batches what cores and batch sizes do, a plug-in.

The logarithm of a variant's mean time is linear in those of the cores and the items of a batch, as in
`ipa.profiling.next_points`, but for a deviation that points close by share: a Gaussian process. The belief
starts at the spread of shipped profiles, and follows from the batches served at each number of cores and
batch size. Replicas are counted by times that are longer than likely, and by what no machine exceeds: twice
the items, or half of the cores, take no more than twice as long. The cores and batch sizes to try are those
of the plan by likely times, if that costs not much more by the long ones: so a try costs some cores, and
hardly a late request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipa.model.observation import Forecast, Measured, Observation
from ipa.model.pipeline import Pin
from ipa.model.plan import CFS_PERIOD_S, Plan, quota_cores
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
# The 99th percentile of batches over their mean: the median of shipped profiles, in logarithms the deviation
# that is added by caution, and the most that is assumed before anything was seen.
TAIL_RATIO, TAIL_DEVIATION, ASSUMED_TAIL_RATIO = 1.5, 0.15, 2.0
# A try may cost this much more than the plan by what is known, and is to save this much.
TRY_RATIO, GAIN_RATIO = 1.6, 0.97
# What was learned: deviations of points that were never seen.
UNSEEN = 0.5
# Points are alike whose logarithms are not this far apart.
NEAR = 0.35
# Linearized so many times.
ROUNDS = 3


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
            # A replica below a core spends time saved while idle, at most a period's: this is without.
            quota = quota_cores(config.cores) or 1.0
            idle_s = config.replicas * batches.value.window_s / batches.value.count - batches.value.service_s
            saved_s = min(CFS_PERIOD_S, max(idle_s, 0.0), batches.value.service_s * (1 / quota - 1))
            sustained_s = batches.value.service_s + saved_s
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
        longer = self.believed(memory, UNSEEN)
        self.tell({name: _told(it, longer[name], memory) for name, it in self.believed(memory, 0.0).items()})
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


def _told(likely: StageProfile, longer: StageProfile, memory: AdoptionMemory) -> StageProfile:
    """The profile with likely times of the points that were seen, and longer ones of others."""
    seen = {(it.cores, it.batch_size) for it in memory.seen if it.stage == likely.stage}
    (variant,), (other,) = likely.variants, longer.variants
    both = zip(variant.points, other.points, strict=True)
    points = tuple(it if (it.cores, it.batch_size) in seen else long for it, long in both)
    return replace(likely, variants=(replace(variant, points=points),))


def _nearness(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How alike the own deviations of points are: 1 of the same point, 0 of those far apart."""
    apart = (some[:, None, 1:] - others[None, :, 1:]) / NEAR
    return np.exp(-0.5 * (apart**2).sum(axis=2))


def _believed(profile: StageProfile, memory: AdoptionMemory, deviations: float) -> StageProfile:
    """The profile with times that many deviations longer than likely."""
    (variant,) = profile.variants
    seen = [it for it in memory.seen if it.stage == profile.stage]
    if not seen:
        return profile
    ends = [(it.cores, size) for it in seen for size in (1, it.batch_size)]
    rows = np.array([(1.0, log(cores), log(size)) for cores, size in ends])
    full_ratio = np.array([(it.items - 1) / max(it.batch_size - 1, 1) for it in seen])
    exponents = np.array([0.0, CORES_EXPONENT, BATCH_EXPONENT])
    prior = np.diag([1e4, EXPONENT_DEVIATION**2, EXPONENT_DEVIATION**2])
    # Points next to each other lie off the line alike.
    both = rows @ prior @ rows.T + OWN_DEVIATION**2 * _nearness(rows, rows)
    noise, means_s = np.diag([VARIATION**2 / it.count for it in seen]), np.array([it.mean_s for it in seen])
    likely = rows @ exponents + log(means_s[0]) - (rows @ exponents)[0]
    for _ in range(ROUNDS):
        # A batch of some items takes a mean of the times of one and of a full batch.
        parts = np.exp(likely).reshape(-1, 2) * np.column_stack((1 - full_ratio, full_ratio))
        shares = parts / parts.sum(axis=1, keepdims=True)
        weights = np.kron(np.eye(len(seen)), np.ones((1, 2))) * shares.reshape(-1)
        off = np.log(means_s / parts.sum(axis=1)) + weights @ (likely - rows @ exponents)
        inverse = np.linalg.inv(weights @ both @ weights.T + noise)
        likely = rows @ exponents + both @ weights.T @ inverse @ off
    points = []
    for each in variant.points:
        row = np.array([(1.0, log(each.cores), log(each.batch_size))])
        shared = (row @ prior @ rows.T + OWN_DEVIATION**2 * _nearness(row, rows)) @ weights.T
        variance = row @ prior @ row.T + OWN_DEVIATION**2 - shared @ inverse @ shared.T
        deviation = sqrt(max(variance.item(), 0.0))
        mean_s = exp((row @ exponents + shared @ inverse @ off).item() + deviations * deviation)
        most_s = min(
            it.mean_s * max(1.0, each.batch_size / it.items) * max(1.0, it.cores / each.cores) for it in seen
        )
        mean_s = min(mean_s, most_s)
        points.append(
            ProfilePoint(
                each.cores, each.batch_size, mean_s * exp(deviations * TAIL_DEVIATION) * TAIL_RATIO, mean_s
            )
        )
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
            points.append(ProfilePoint(cores, size, mean_s * ASSUMED_TAIL_RATIO, mean_s))
        filled[name] = replace(profile, variants=(replace(variant, points=tuple(points)),))
    return filled


def adopting(inputs: PolicyInputs) -> Adopting:
    """The policy: `--policy experiments.adoption.learning:adopting`."""
    return Adopting(inputs)
