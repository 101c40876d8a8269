"""The checker of the policy `ours-checked`: tests by simulation if a configuration meets the SLA.

A configuration is simulated under random arrivals for as many requests as it takes to tell on which side of
the SLA its quantile lies. All use the same random numbers, so that their differences are not chance. The
effort is a number of requests and not a time: equal questions have equal answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil, exp, inf, log, log2

import numpy as np

from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.slowdown import Slowdowns, ratios_of
from ipa.optimize.problem import Compat, StageProblem
from ipa.optimize.verify import items_of
from ipa.policies.base import AT_REST, Configs, SimulationVerdict, StartingState
from ipa.policies.ours import MIN_RATE_RPS
from ipa.policies.planning import planning_problem
from ipa.policies.table import PolicyInputs, needs_checker
from ipa.profiling.points import Allocation
from ipa.queueing.service import service
from ipa.simulate.columns import Floats
from ipa.simulate.graph import PipelineSim
from ipa.simulate.queue import Pods

SEED = 20_241
# Late requests come in groups; the shares in this many consecutive parts of a run give the error of their
# mean.
PARTS = 20
# Student's t for 19 degrees of freedom, one side: 99 % to stop before the last look, then 84 %. The planner
# aims low enough that configurations indistinguishable from the SLA are in time more often than not.
SURE, SURE_AT_LAST = 2.539, 1.024
# Rates closer than this are one question.
RATE_STEP = 0.01
# A queue counts if all replicas together take longer than this to serve it.
WAITING_S = 1.0
# Readiness time if a profile has none.
READY_S = 10.0
# After the new pods are ready, the queue has one tick to drain.
SETTLE_S = 10.0
# Requests of this many first SLAs do not count, since the pipeline is empty at first.
FILLING_SLAS = 2.0
# Arrivals drawn at once.
BLOCK = 8192
# Cached answers.
MEMO = 512


@dataclass(frozen=True, slots=True)
class CheckEffort:
    """The simulation effort: at most `most_checks` configurations a decision, each in looks.

    A look is a number of requests; the simulation ends after a conclusive look. Looks after the
    first are limited to `most_items`, at all stages together.
    """

    most_checks: int
    looks: tuple[int, ...]
    most_items: float = inf


# About 50 ms a decision with each kernel, if all its plans are simulated to the last look.
COMPILED = CheckEffort(5, (2_000, 8_000, 32_000), 150_000)
PLAIN = CheckEffort(3, (600, 2_000), 6_000)


def effort_of(kernel: str = "auto") -> CheckEffort:
    """The effort that fits a tick with the kernel of that name (see `PipelineSim`)."""
    compiled = kernel == "numba" or (kernel == "auto" and find_spec("numba") is not None)
    return COMPILED if compiled else PLAIN


def with_checker(policy: str, inputs: PolicyInputs, kernel: str = "auto") -> PolicyInputs:
    """The inputs with a checker if the policy of that name needs one."""
    if not needs_checker(policy):
        return inputs
    made = PlanCheck(inputs.pipeline, inputs.profiles, objective=inputs.objective, kernel=kernel)
    made.warm()
    return replace(inputs, checker=made)


class PlanCheck:
    """The checker of one pipeline. Errors of the constructor: those of `planning_problem`."""

    def __init__(
        self,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        *,
        objective: str | None = None,
        effort: CheckEffort | None = None,
        kernel: str = "auto",
        seed: int = SEED,
    ) -> None:
        self._pipeline = replace(pipeline, drop_after_s=None)
        self._problem = planning_problem(
            pipeline, profiles, 1.0, objective=objective, compat=Compat.TAIL, allocation=Allocation.FREE
        )
        self._effort = effort or effort_of(kernel)
        self._kernel = kernel
        self._seed = seed
        self._gaps = np.random.default_rng([seed, 1])
        self._units = np.empty(0)
        self._memo: OrderedDict[tuple[Configs, int, StartingState], SimulationVerdict] = OrderedDict()

    @property
    def most_checks(self) -> int:
        """The number of configurations that it can check in one decision."""
        return self._effort.most_checks

    def warm(self) -> None:
        """Simulate a request, so that the kernel is compiled before the first decision."""
        first = (stage for stage in self._problem.stages if stage.points)
        configs = tuple(
            StageConfig(stage.name, point.variant, point.batch_size, point.cores, 1)
            for stage in first
            for point in stage.points[:1]
        )
        sim = self._sim(configs, AT_REST)
        sim.offer([0.0])
        sim.run(1.0)

    def __call__(
        self, configs: Configs, rate_rps: float, start: StartingState = AT_REST
    ) -> SimulationVerdict | None:
        """The verdict on the configuration at the rate (rounded to the next of a grid of 1 %).

        If the running configuration does not carry the rate, or the queue takes longer than `WAITING_S`, it
        runs until the new one is ready, and the queue is there from the start; requests after `SETTLE_S` more
        count. None if the configuration was not measured.
        """
        step = round(log(max(rate_rps, MIN_RATE_RPS)) / RATE_STEP)
        rate_rps = exp(step * RATE_STEP)
        if not self._knows(configs):
            return None
        question = (configs, step, self._start(configs, rate_rps, start))
        if question in self._memo:
            self._memo.move_to_end(question)
            return self._memo[question]
        self._memo[question] = verdict = self._judged(configs, rate_rps, question[2])
        if len(self._memo) > MEMO:
            self._memo.popitem(last=False)
        return verdict

    def _judged(self, configs: Configs, rate_rps: float, start: StartingState) -> SimulationVerdict:
        run = _Run(self._sim(configs, start), rate_rps, self._problem.sla_s, self._first_s(configs, start))
        allowed = 1.0 - self._problem.percentile / 100.0
        waiting = self._waiting(start, configs)
        weight = sum(self._items(configs).values())
        first, *others = self._effort.looks
        cut = max(first, self._effort.most_items / weight)
        looks = (first, *(min(each, cut) for each in others))
        ends_s = run.first_s + self._problem.sla_s
        for at, look in enumerate(looks, 1):
            run.to(self._unit_times(ceil(look + rate_rps * ends_s)), waiting)
            seen = run.seen(self._problem.percentile)
            error = seen.error * (SURE if at < len(looks) else SURE_AT_LAST)
            meets, misses = seen.late_ratio + error <= allowed, seen.late_ratio - error > allowed
            if meets or misses:
                break
        return SimulationVerdict(seen.quantile_s, self._problem.sla_s, seen.requests, meets, misses)

    def _sim(self, configs: Configs, start: StartingState) -> PipelineSim:
        """The pipeline that runs `configs`, after the running configuration if that matters."""
        queue = "replica" if any(stage.in_replica for stage in self._pipeline.stages) else "central"
        sim = PipelineSim(self._pipeline, drop="none", queue=queue, seed=self._seed, kernel=self._kernel)
        ready_s = self._ready_s(configs, start)
        for config in configs:
            if ready_s:
                (now,) = (it for it in start.running if it.stage == config.stage)
                sim.set_replicas(config.stage, 0.0, [self._pods(now, start.slowdowns)])
            sim.set_replicas(config.stage, ready_s, [self._pods(config, start.slowdowns)])
        return sim

    def _pods(self, config: StageConfig, slowdowns: Slowdowns) -> Pods:
        """The replicas; those that both configurations have continue their work."""
        at, stage = self._place(config)
        assert at is not None
        columns, ratio = stage.columns, ratios_of(slowdowns, config.stage).get(config.variant, 1.0)
        made = service(
            config.batch_size,
            columns.mean_s[at] * ratio,
            columns.latency_s[at] * ratio,
            columns.single_s[at] * ratio,
            columns.capacity_rps[at] / ratio,
            config.cores,
        )
        name = f"{config.variant} b{config.batch_size} {config.cores:g}"
        return Pods(config.replicas, config.batch_size, made, name, config.variant)

    def _place(self, config: StageConfig) -> tuple[int | None, StageProblem]:
        (stage,) = (stage for stage in self._problem.stages if stage.name == config.stage)
        return stage.columns.place.get((config.variant, config.batch_size, config.cores)), stage

    def _knows(self, configs: Configs) -> bool:
        planned = [stage.name for stage in self._problem.stages if not stage.is_free]
        return [config.stage for config in configs] == planned and all(
            config.replicas > 0 and self._place(config)[0] is not None for config in configs
        )

    def _items(self, configs: Configs) -> dict[str, float]:
        """The mean items of a request at each stage, routers' shares counted."""
        items, _ = items_of(self._problem, {config.stage: config.variant for config in configs})
        reach = zip(self._problem.stages, self._problem.graph.reach, strict=True)
        share = {stage.name: each for stage, each in reach}
        return {config.stage: items[config.stage] * share[config.stage] for config in configs}

    def _capacity_rps(self, configs: Configs, slowdowns: Slowdowns) -> float:
        """The capacity in requests a second."""
        items = self._items(configs)
        capacities = []
        for config in configs:
            pods = self._pods(config, slowdowns)
            each_rps = pods.batch_size / pods.service.full_s
            capacities.append(pods.count * each_rps / max(items[config.stage], 1e-12))
        return min(capacities)

    def _start(self, configs: Configs, rate_rps: float, start: StartingState) -> StartingState:
        """The relevant part of the starting state, rounded so that questions are equal: usually none."""
        running = start.running if self._knows(start.running) else ()
        carries = self._capacity_rps(running or configs, start.slowdowns)
        waiting = self._waiting(start, running or configs)
        matters = waiting > WAITING_S * carries
        if not matters and (not running or carries > rate_rps):
            return StartingState(slowdowns=start.slowdowns)
        # Powers of two are precise enough for a queue.
        queued = ((self._pipeline.stages[0].name, float(2 ** round(log2(waiting)))),) if matters else ()
        return StartingState(running if running != configs else (), queued, start.slowdowns)

    def _waiting(self, start: StartingState, configs: Configs) -> int:
        """The waiting items, as requests at their beginning: partly served ones count like new ones."""
        items = self._items(configs)
        return ceil(sum(count / max(items.get(stage, 1.0), 1e-12) for stage, count in start.queued))

    def _ready_s(self, configs: Configs, start: StartingState) -> float:
        """The time at which all new pods are ready; 0 without another configuration before."""
        if not start.running:
            return 0.0
        new = [config for config in configs if config not in start.running]
        times_s = [stage.points[at].readiness_s for at, stage in map(self._place, new) if at is not None]
        return max((each or READY_S for each in times_s), default=0.0)

    def _first_s(self, configs: Configs, start: StartingState) -> float:
        """The time from which requests count. The pipeline is empty at first: it fills within a few SLAs."""
        if not start.running and not start.queued:
            return FILLING_SLAS * self._problem.sla_s
        return self._ready_s(configs, start) + max(SETTLE_S, FILLING_SLAS * self._problem.sla_s)

    def _unit_times(self, count: int) -> Floats:
        """The first `count` arrivals at one a second; the same in all simulations."""
        while count > len(self._units):
            last = self._units[-1] if len(self._units) else 0.0
            # Blocks of one size: sums in another order differ in the last bit.
            block = last + np.cumsum(self._gaps.exponential(1.0, BLOCK))
            self._units = np.concatenate([self._units, block])
        return self._units[:count]


@dataclass(frozen=True, slots=True)
class SimulatedLatency:
    """The latency's quantile, its number of requests, the share of late ones, and its standard error."""

    quantile_s: float
    requests: int
    late_ratio: float
    error: float


class _Run:
    """A simulation that continues from look to look."""

    def __init__(self, sim: PipelineSim, rate_rps: float, sla_s: float, first_s: float) -> None:
        self._sim = sim
        self._rate_rps, self._sla_s, self.first_s = rate_rps, sla_s, first_s
        self._born_s = np.empty(0)
        self._latency_s = np.empty(0)
        self._offered = self._waiting = 0

    def to(self, unit_times: Floats, waiting: int) -> None:
        """Continue until these arrivals have come; `waiting` requests are there at 0."""
        if not self._offered and waiting:
            self._waiting = len(self._sim.offer(np.zeros(waiting)))
        times_s = unit_times / self._rate_rps
        self._sim.offer(times_s[self._offered :])
        self._offered = len(times_s)
        done = self._sim.run(times_s[-1])
        more = len(times_s) + self._waiting - len(self._latency_s)
        self._latency_s = np.concatenate([self._latency_s, np.full(more, np.inf)])
        self._latency_s[done.ids] = done.latency_s
        self._born_s = times_s

    def seen(self, percentile: float) -> SimulatedLatency:
        """The latency of requests that count and could have been in time."""
        born_s, now_s = self._born_s, self._sim.now_s
        counts = (born_s >= self.first_s) & (born_s < now_s - self._sla_s)
        latency_s = self._latency_s[self._waiting :][counts]
        if len(latency_s) < PARTS:
            return SimulatedLatency(inf, len(latency_s), 1.0, 1.0)
        latency_s = np.minimum(latency_s, now_s - born_s[counts])
        late = latency_s > self._sla_s
        parts = np.array([part.mean() for part in np.array_split(late, PARTS)])
        allowed = 1.0 - percentile / 100.0
        # By chance the parts may differ by less than independent requests would.
        least = (allowed * (1.0 - allowed) / len(late)) ** 0.5
        error = max(parts.std(ddof=1) / PARTS**0.5, least)
        quantile_s = float(np.quantile(latency_s, percentile / 100.0))
        return SimulatedLatency(quantile_s, len(late), float(late.mean()), float(error))
