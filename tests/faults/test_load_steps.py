"""G: a step of the load on shape single, where each write restarts what counts the load."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from math import inf

import numpy as np
import pytest

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.control.engine.guards import GuardSettings
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.kube.cluster import is_ready
from tests.fakes.policy_contract import VARIANTS
from tests.faults.prometheus import Direct, FakePrometheus, Target, session_of
from tests.faults.table import Case, variants
from tests.faults.world import KubeWorld, build

ORCHESTRATOR = "svc-orch"


class Executors:
    """Every orchestrator pod as a scrape target, and a fluid model of what waits before the stages.

    What arrives scatters by chance. A request's latency is its service and its waits.
    """

    def __init__(self, world: KubeWorld, interval_s: int, seed: int) -> None:
        self.world, self.interval_s = world, interval_s
        self.late = self.requests = 0.0
        self._chance = np.random.default_rng(seed)
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
        """End what was opened."""
        session_of(self.metrics).close()
        self.fake._http.server_close()

    def arrived(self, t_s: float) -> float:
        """The requests of that second."""
        second = int(t_s)
        if second not in self._arrived:
            self._arrived[second] = float(self._chance.poisson(self.world.rate_rps))
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


class Rolls:
    """The changes of pod templates, counted by Deployment."""

    def __init__(self, world: KubeWorld) -> None:
        self.world = world
        self.counts: Counter[str] = Counter()
        self._templates: dict[str, str] = {}
        self._see()
        world.clock.every(0.25, self._see)

    def _see(self) -> None:
        for deployment in self.world.kube.store.everything("deployments"):
            name = deployment["metadata"]["name"]
            template = json.dumps(deployment["spec"]["template"], sort_keys=True)
            if ORCHESTRATOR not in name and self._templates.get(name, template) != template:
                self.counts[name] += 1
            self._templates[name] = template


SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=300.0, quarantine_s=120.0, correct_profiles=True)
# Once the window of the mean rates is full, and what that was planned for is ready.
WARM_S, AFTER_S = 160.0, 90.0


def stepped(interval_s: int, step_s: float, roll_ticks: int) -> tuple[int, float, int]:
    """The most changes of one pod template after a step from 8 to 25 rps, late requests, and writes."""
    with build(rate_rps=8.0, step_s=step_s, roll_ticks=roll_ticks, settings=SETTINGS) as world:
        world.clock.wait(WARM_S / 4)
        executors = Executors(world, interval_s, seed=1)
        world.metrics = executors.metrics  # type: ignore[assignment]
        world.window_s = 2 * EXECUTOR.rate_window_s
        world.start_service()
        world.until_s(WARM_S)
        before, late, rolls = len(world.applied()), executors.late, Rolls(world)
        world.rate_rps = 25.0
        world.until_s(WARM_S + AFTER_S)
        world.sound()
        executors.close()
        return max(rolls.counts.values(), default=0), executors.late - late, len(world.applied()) - before


STEPS = variants(
    [(5, 0.5, 1), (10, 2.0, 1), (5, 0.5, 10)],
    [(5, 2.0, 1), (5, 2.0, 10), (10, 0.5, 1), (10, 0.5, 10), (10, 2.0, 10)],
)


@pytest.mark.parametrize(("interval_s", "step_s", "roll_ticks"), STEPS)
def test_g14_a_step_rolls_the_same_pods_twice_at_most(
    case: Case, interval_s: int, step_s: float, roll_ticks: int
) -> None:
    at = f"scraped every {interval_s} s, pods ready after {roll_ticks} steps of {step_s:g} s"
    rolls, late, writes = stepped(interval_s, step_s, roll_ticks)
    case.at_most(f"{at}: rolls of the same pods in {AFTER_S:g} s", rolls, 2)
    case.note(f"{at}: writes", writes)
    case.note(f"{at}: requests late", late)
