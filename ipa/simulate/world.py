"""A simulated world behind the control loop's ports: the production loop runs in it unchanged.

Waiting on its clock advances the simulation; its metrics are scraped from it; its workload is a cluster whose
pods start, roll and drain. Deterministic for a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from ipa.control.ports import Rollout, RolloutPhase, WorkloadState
from ipa.model.decision import Change
from ipa.model.measured import resident_variants, stand_ins
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import WHOLE_PERCENT, StageConfig
from ipa.model.rolling import Rolling
from ipa.model.serving import Batching, ServingSemantics
from ipa.profiling.points import largest_batch, profiled_times
from ipa.queueing.service import ServiceTime
from ipa.serving.batchqueue import QueueConfig
from ipa.simulate.cluster import FIRST, ClusterSettings, Serving, SimCluster
from ipa.simulate.columns import Floats, Ints, Items
from ipa.simulate.graph import PipelineSim
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.kernel import AUTO, KernelDriver
from ipa.simulate.metrics import MetricsSettings, SimMetrics
from ipa.simulate.queue import Pods

# The use of the stream of random numbers; those of `routes` are counted from 0.
SHARES = 3


class TrafficSplit:
    """Splits arriving requests, each at random by the present percentages, as an ingress does.

    So the number of requests of each part is random too, around its percentage.
    """

    def __init__(self, times_s: Floats, seed: int) -> None:
        self._times_s = times_s
        self._rng = np.random.default_rng((seed, SHARES))
        self._next = 0

    def until(self, until_s: float, shares: Mapping[int, int]) -> dict[int, tuple[Ints, Floats]]:
        """The requests since the last call and before `until_s`: ids and times, by slot."""
        first, self._next = self._next, int(np.searchsorted(self._times_s, until_s))
        ids, times_s = np.arange(first, self._next), self._times_s[first : self._next]
        if not len(ids):
            return {}
        taking = [slot for slot, percent in shares.items() if percent]
        if len(taking) == 1:
            return {taking[0]: (ids, times_s)}
        ends = np.cumsum([shares[slot] for slot in taking])
        places = np.searchsorted(ends, self._rng.random(len(ids)) * ends[-1], side="right")
        return {slot: (ids[places == place], times_s[places == place]) for place, slot in enumerate(taking)}


class SplitPart:
    """A part's own stages and queues. `pas` is the accuracy of the serving pods, or of the last ones.

    `is_emptying`: the part is being removed, and still serves its remaining requests.
    """

    def __init__(self, sim: PipelineSim) -> None:
        self.sim = sim
        self.serving: dict[str, Serving] = {}
        self.pods: dict[str, list[Pods]] = {}
        self.pas = 0.0
        self.is_emptying = False


# Requests that have not ended this long after the last tick are lost.
LONGEST_S = 120.0
# Interval of checks for a removed part to have served its queue.
LOOK_S = 0.1
# Seeds of parts beside the first are far from usual seeds.
SLOT_SEED = 1_000_003
# Any day does; equal runs have equal records.
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class SimClock:
    """The Clock port: time passes only in `wait`, which advances the simulation."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance
        self._now_s = 0.0

    def monotonic_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return EPOCH + timedelta(seconds=self._now_s)

    def wait(self, seconds: float) -> None:
        """Advance the simulation by this time."""
        until_s = self._now_s + max(seconds, 0.0)
        self._advance(until_s)
        self._now_s = until_s


class SimWorkload:
    """The Workload port over simulated clusters; `world_of` opens the world of a pipeline as it is now."""

    def __init__(
        self, world_of: Callable[[Pipeline], AbstractContextManager[SimWorld]], rolling: Rolling
    ) -> None:
        self._world_of, self.rolling = world_of, rolling

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The desired configuration, and its ready replicas."""
        with self._world_of(pipeline) as world:
            cluster = world.cluster
            return WorkloadState(str(cluster.revision), cluster.states(), cluster.settled)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Write the configuration; returns the new revision, ConflictError if it has changed since."""
        with self._world_of(pipeline) as world:
            revision = world.change(change.configs, change.revision)
            world.written = change.decision_id
            return revision

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The progress of the rollout."""
        with self._world_of(pipeline) as world:
            if change.decision_id != world.written:
                return Rollout(RolloutPhase.REPLACED, "another change was written after it")
            return world.cluster.rollout(world.clock.monotonic_s())


def queue_kind(serving: ServingSemantics) -> str:
    """The `queue` of `StageSim` for a target with these semantics."""
    return "deadline" if serving.batching is Batching.CENTRAL else "replica"


class SimWorld:
    """A pipeline with requests at `times_s` (rising, in s), and the ports of its control loop.

    `truth` is the true performance of its pods; the first `configs` serve from the beginning. `queue` and
    `kernel` are those of `PipelineSim`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        truth: GroundTruth,
        configs: Sequence[StageConfig],
        times_s: Floats,
        *,
        cluster: ClusterSettings,
        metrics: MetricsSettings,
        seed: int = 0,
        queue: str = "central",
        kernel: KernelDriver = AUTO,
    ) -> None:
        self.pipeline, self.truth = pipeline, truth
        self.cluster = SimCluster(
            configs,
            replace(cluster, rolling=cluster.rolling.of(pipeline)),
            startup_s=truth.startup_s,
            bounds=pipeline.bounds,
        )
        self.clock = SimClock(self.advance)
        arrivals = np.bincount(times_s.astype(np.int64), minlength=1)
        self.metrics = SimMetrics(arrivals, metrics, self.clock.monotonic_s)
        self.workload = SimWorkload(lambda _: nullcontext(self), self.cluster.settings.rolling)
        # The decision of the last change.
        self.written = ""
        # (time, accuracy of the serving pods, cores held) from each moment on at which either changed.
        self.timeline: list[tuple[float, float, float]] = []
        self.born_s = times_s
        self.done_s = np.full(len(times_s), np.nan)
        self._made: Callable[[int], PipelineSim] = lambda slot: PipelineSim(
            pipeline, queue=queue, seed=seed + SLOT_SEED * (slot - FIRST), kernel=kernel
        )
        self._split = TrafficSplit(times_s, seed)
        # By slot that a part ever had; a single part has the first.
        self._lanes: dict[int, SplitPart] = {}
        # Of the answered requests: their number, and the sum of their accuracies.
        self._answered, self._accuracy_sum = 0, 0.0
        self._at_s = 0.0
        self._follow(0.0)

    def change(self, configs: Sequence[StageConfig], revision: str) -> str:
        """Set the desired configuration; the change begins now. Return the new revision."""
        answer = self.cluster.change(configs, revision, self._at_s)
        self._follow(self._at_s)
        return answer

    def kill(self, stage: str, count: int) -> None:
        """Kill `count` serving pods of the stage; their items wait again."""
        for slot, template in self.cluster.kill(stage, count, self._at_s):
            self._lanes[slot].sim.stage(stage).fail(self._at_s, name=template, count=1)
        self._follow(self._at_s)

    def advance(self, until_s: float) -> None:
        """Advance the simulation to this time."""
        while self._at_s < until_s:
            slow_s = self.truth.next_moment_s(self._at_s)
            at_s = min(until_s, slow_s, max(self.cluster.next_event_s(), self._at_s))
            if any(lane.is_emptying for lane in self._lanes.values()):
                at_s = min(at_s, self._at_s + LOOK_S)
            self._run(at_s)
            self._at_s = at_s
            if self.cluster.next_event_s() <= at_s:
                self.cluster.advance(at_s)
                self._follow(at_s)
            elif at_s == slow_s or any(lane.is_emptying for lane in self._lanes.values()):
                self._follow(at_s)

    def finish(self) -> None:
        """Advance without ticks until every request has ended; those left after `LONGEST_S` are lost."""
        until_s = self._at_s + LONGEST_S
        while any(lane.sim.inside for lane in self._lanes.values()) and self._at_s < until_s:
            self.advance(self._at_s + 1.0)

    def pas_mean(self, until_s: float) -> float:
        """The mean accuracy of the serving pods over time, from 0 on."""
        starts = [min(at_s, until_s) for at_s, _, _ in self.timeline]
        lasting_s = np.diff([*starts, until_s])
        return float(np.dot(lasting_s, [pas for _, pas, _ in self.timeline]) / until_s)

    def accuracy_mean(self) -> float:
        """The mean over answered requests of the accuracy of the part that answered; 0 without any.

        It is the accuracy of the part's serving pods when the requests end.
        """
        return self._accuracy_sum / self._answered if self._answered else 0.0

    def _run(self, until_s: float) -> None:
        """Process requests until then, and pass the results to the metrics."""
        shares = self.cluster.shares()
        for slot, (ids, times_s) in self._split.until(until_s, shares).items():
            self._lanes[slot].sim.offer(times_s, ids)
        pieces, slots = [], []
        for slot, lane in self._lanes.items():
            ended = lane.sim.run(until_s)
            answered = ~ended.lost
            self.done_s[ended.ids[answered]] = ended.done_s[answered]
            served = lane.sim.served_in(self._at_s, until_s) if answered.any() else {}
            pas = self.truth.pas(lane.serving, served) if served else lane.pas
            self._answered += int(answered.sum())
            self._accuracy_sum += int(answered.sum()) * pas
            pieces.append(ended)
            slots.append(np.full(len(ended.ids), slot))
            for stage in self.pipeline.served:
                for drained in lane.sim.stage(stage.name).drained():
                    self.cluster.drained(stage.name, drained.name, drained.end_s, slot)
        if len(self._lanes) == 1:
            self.metrics.ended.add(pieces[0], 0)
            return
        self.metrics.parts = tuple(self._lanes)
        ended = Items.joined(pieces)
        order = np.argsort(ended.done_s, kind="stable")
        self.metrics.ended.add(ended.pick(order), np.concatenate(slots)[order])

    def _follow(self, at_s: float) -> None:
        """Set the serving pods of each part's stages from now on."""
        shares = self.cluster.shares()
        for slot in shares:
            if slot not in self._lanes:
                made = self._lanes[slot] = SplitPart(self._made(slot))
                for stage in self.pipeline.served:
                    self.metrics.stages[stage.name][slot] = made.sim.stage(stage.name)
        for slot, lane in self._lanes.items():
            lane.is_emptying = self.cluster.is_going(slot) and lane.sim.inside > 0
            if lane.is_emptying:
                continue
            for stage in self.pipeline.served:
                serving = self.cluster.serving(stage.name, slot)
                cores = min((config.cores for _, config in serving), default=1.0)
                pods = [self._pods(stage, *each, cores, at_s) for each in serving]
                if pods != lane.pods.get(stage.name):
                    lane.serving[stage.name], lane.pods[stage.name] = serving, pods
                    lane.sim.set_replicas(stage.name, at_s, pods)
        # Changes for this moment happen at it, so that the drained pods are known.
        self._run(at_s)
        self.timeline.append((at_s, self._pas(shares), self.cluster.cores))

    def _pas(self, shares: Mapping[int, int]) -> float:
        """The accuracy of the serving pods: the parts' accuracies weighted by their requests."""
        carried = total = 0.0
        for slot, lane in self._lanes.items():
            pas = self.truth.pas(lane.serving)
            if pas > 0:
                lane.pas = pas
            percent = shares.get(slot, 0)
            if percent == WHOLE_PERCENT:
                return pas
            carried, total = carried + percent * pas, total + percent
        return carried / total

    def _pods(self, stage: Stage, template: str, config: StageConfig, cores: float, at_s: float) -> Pods:
        """Pods of a stage whose smallest have that many cores, with what their queue may choose from."""

        def service(variant: str, batch_size: int) -> ServiceTime:
            return self.truth.service(replace(config, variant=variant, batch_size=batch_size), at_s)

        variant, size = config.variant, config.batch_size
        pods = Pods(config.replicas, size, service(variant, size), template, variant)
        if stage.residents == 1:
            return pods
        bounds, loaded = self.pipeline.bounds, resident_variants(self.pipeline, stage.name, variant)
        lighter, heavier = stand_ins(self.pipeline, stage.name, variant, loaded)
        largest = largest_batch(stage, bounds, size)
        queue = QueueConfig(size, largest, profiled_s=profiled_times(stage, bounds, cores))
        services = {
            it: ((size, service(it, size)), (largest, service(it, largest)))
            for it in (variant, *lighter, *heavier)
        }
        return replace(pods, lighter=lighter, heavier=heavier, config=queue, services=services)
