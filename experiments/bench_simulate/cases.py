"""The models that are timed, each for the simulator and for SimPy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.queueing.service import ServiceTime
from ipa.simulate.graph import PipelineSim
from ipa.simulate.kernel import KernelDriver
from ipa.simulate.queue import Pods
from tests.fakes.simpy_stage import SimpyStage, feed

RATE_RPS = 1000.0
# Requests that are offered and run at once, as a control loop would.
CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Case:
    """A chain of alike stages at load 0.8 with full batches."""

    name: str
    stages: int
    batch_size: int
    replicas: int
    spread: float
    drop_after_s: float | None = None
    timeout_s: float = 0.02

    @property
    def service(self) -> ServiceTime:
        """Half the time of a full batch does not depend on the items in it; alone it is exponential."""
        full_s = 0.8 * self.replicas * self.batch_size / RATE_RPS
        return ServiceTime(full_s, full_s * (0.5 + 0.5 / self.batch_size), self.spread)


CASES = (
    Case("one stage, M/M/1", 1, 1, 1, 1.0),
    Case("one stage, batches of 8 on 4 replicas", 1, 8, 4, 0.1),
    Case("three stages, single requests on 4 replicas", 3, 1, 4, 0.1),
    Case("three stages, batches of 8 on 4 replicas", 3, 8, 4, 0.1),
    Case("three stages, batches of 8 on 4 replicas, early drop", 3, 8, 4, 0.1, drop_after_s=0.08),
)


def arrivals(count: int) -> NDArray[np.float64]:
    """Poisson requests at RATE_RPS."""
    return np.cumsum(np.random.default_rng(1).exponential(1 / RATE_RPS, count))


def simulate(
    case: Case, times_s: NDArray[np.float64], kernel: KernelDriver
) -> tuple[NDArray[np.float64], int]:
    """When each request ended, by id (negative: lost), and how many came to all stages; the simulator."""
    stages = [Stage(f"s{at}", (Variant("v"),), batch_timeout_s=case.timeout_s) for at in range(case.stages)]
    pipeline = Pipeline(
        "bench", chain(stages), Sla(1.0), {"default": Objective()}, drop_after_s=case.drop_after_s
    )
    sim = PipelineSim(pipeline, kernel=kernel, seed=2)
    for stage in stages:
        sim.set_replicas(stage.name, 0.0, [Pods(case.replicas, case.batch_size, case.service)])
    ends = np.zeros(len(times_s))
    for first in range(0, len(times_s), CHUNK):
        part = times_s[first : first + CHUNK]
        sim.offer(part)
        until_s = float(times_s[first + CHUNK]) if first + CHUNK < len(times_s) else float(times_s[-1]) + 1e3
        ended = sim.run(until_s)
        ends[ended.ids] = np.where(ended.lost, -ended.done_s, ended.done_s)
    return ends, sum(sim.stage(stage.name).items_before(int(until_s)) for stage in stages)


def simulate_in_simpy(case: Case, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same by SimPy: a resource where requests are single, else processes that form and serve batches."""
    count = len(times_s)
    draws = [
        np.random.default_rng((2, 0, at, 0)).gamma(1 / case.spread, case.spread, count).tolist()
        for at in range(case.stages)
    ]
    env = simpy.Environment()
    if case.batch_size == 1 and case.drop_after_s is None:
        return _resources(env, case, times_s.tolist(), draws)
    stages: list[SimpyStage] = []
    after: Callable[[int, float], None] | None = None
    for at in reversed(range(case.stages)):
        stage = SimpyStage(
            env,
            case.batch_size,
            case.replicas,
            case.timeout_s,
            case.service.means_s(case.batch_size),
            draws[at],
            "none" if case.drop_after_s is None else "request",
            case.drop_after_s or float("inf"),
            after,
        )
        stages.insert(0, stage)
        after = stage.arrive
    feed(env, stages[0], times_s.tolist())
    env.run()
    ends = np.full(count, -1.0)
    last = stages[-1].done_s
    ends[list(last)] = list(last.values())
    return ends


def _resources(
    env: simpy.Environment, case: Case, times_s: Sequence[float], draws: Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """A textbook's model: each request a process that asks one resource after the other."""
    servers = [simpy.Resource(env, case.replicas) for _ in range(case.stages)]
    served = [0] * case.stages
    mean_s = case.service.full_s
    ends = np.zeros(len(times_s))

    def request(number: int) -> Generator[Any, Any, None]:
        for at, server in enumerate(servers):
            with server.request() as turn:
                yield turn
                factor = draws[at][served[at]]
                served[at] += 1
                yield env.timeout(mean_s * factor)
        ends[number] = env.now

    def source() -> Generator[Any, Any, None]:
        for number, at_s in enumerate(times_s):
            yield env.timeout(at_s - env.now)
            env.process(request(number))

    env.process(source())
    env.run()
    return ends
