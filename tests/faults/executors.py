"""The executors of shape single as they are scraped: each write restarts what counts the load."""

from __future__ import annotations

from functools import partial
from math import inf

import numpy as np

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.kube.cluster import is_ready
from tests.fakes.policy_contract import VARIANTS
from tests.faults.prometheus import Direct, FakePrometheus, Target, session_of
from tests.faults.world import KubeWorld

ORCHESTRATOR = "svc-orch"


class Executors:
    """Every orchestrator pod as a scrape target, and a fluid model of what waits before the stages.

    What arrives scatters by chance if there is a seed. A request's latency is its service and its waits.
    """

    def __init__(self, world: KubeWorld, interval_s: int, seed: int | None = None) -> None:
        self.world, self.interval_s = world, interval_s
        self.late = self.requests = 0.0
        self._chance = None if seed is None else np.random.default_rng(seed)
        self._arrived: dict[int, float] = {}
        self._ready: dict[int, frozenset[str]] = {}
        self._latency_s: dict[int, float] = {}
        self._born: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        self._waiting = dict.fromkeys(world.carried_rps(), 0.0)
        epoch_s = world.clock.now().timestamp() - world.clock.monotonic_s()
        fake = FakePrometheus(world.clock, self.arrived, history_s=0, epoch_s=epoch_s)
        fake.targets = []
        fake.latency_s = lambda t_s: self._latency_s.get(int(t_s), 0.0)
        self.fake = fake
        self.metrics = PrometheusMetrics(
            Settings(prometheus_url="http://fake:1"),
            EXECUTOR,
            share_s=0.0,
            monotonic_s=world.clock.monotonic_s,
        )
        session_of(self.metrics).mount("http://fake:1", Direct(fake))
        self._see()
        world.clock.every(1.0, self._see)

    def close(self) -> None:
        session_of(self.metrics).close()
        self.fake._http.server_close()

    def arrived(self, t_s: float) -> float:
        second = int(t_s)
        if second not in self._arrived:
            rate_rps = self.world.rate_rps
            self._arrived[second] = float(self._chance.poisson(rate_rps)) if self._chance else rate_rps
        return self._arrived[second]

    def _see(self) -> None:
        second = int(self.world.clock.monotonic_s())
        pods = {pod["metadata"]["name"]: pod for pod in self.world.invariants.pods()}
        there = {name: pod for name, pod in pods.items() if ORCHESTRATOR in name}
        ready = {name for name, pod in there.items() if is_ready(pod)}
        for name in sorted(ready - set(self._born)):
            self._born[name] = second
            target = Target(
                name,
                share=partial(self._share, name),
                answers=lambda at, name=name: at < self._gone.get(name, inf),  # type: ignore[misc]
                arrives=partial(self._arrives, name),
            )
            self.fake.targets.append(target)
        for name in set(self._born) - set(there):
            self._gone.setdefault(name, second)
        self._ready[second] = frozenset(ready)
        self._serve(second)

    def _share(self, name: str, t_s: float) -> float:
        ready = self._ready.get(int(t_s), frozenset())
        return 1 / len(ready) if name in ready else 0.0

    def _arrives(self, name: str, second: int) -> bool:
        is_there = self._born[name] <= second <= self._gone.get(name, inf) + self.interval_s
        return is_there and second % self.interval_s == 0

    def _serve(self, second: int) -> None:
        carried = self.world.carried_rps()
        arriving = requests = self.arrived(second)
        for name, rate in carried.items():
            leaving = min(arriving + self._waiting[name], rate)
            self._waiting[name] += arriving - leaving
            arriving = leaving
        waits = sum(self._waiting[name] / rate for name, rate in carried.items())
        service = sum(
            VARIANTS[it.stage][it.variant][1] * (0.4 + 0.6 * it.batch_size) / it.cores**0.8
            for it in self.world.desired()
        )
        self._latency_s[second] = service + waits
        self.requests += requests
        self.late += requests * (service + waits > self.world.pipeline.sla.latency_s)
