"""A control loop that reads a fake Prometheus, and the figures of what it decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import LOCAL, Dialect
from ipa.control.engine.guards import GuardSettings, total_cores
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import Load, Metrics, Signals
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.world import PIPELINE, Scenario, loop_over, ours, profiled, scenario
from tests.faults.prometheus import Direct, FakePrometheus, Rate, Rewrite, session_of

UNSEEN = {ReasonCode.METRICS_MISSING, ReasonCode.METRICS_STALE, ReasonCode.METRICS_INVALID}
# Well above what the smallest configuration carries: who takes it for nothing takes cores away.
BUSY_RPS = 25.0
# How long loads that come and go are followed.
LONG_S = 900.0


@dataclass
class _Targeted:
    """Reads the pipeline as one that runs on Seldon in the namespace `default`."""

    metrics: Metrics

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        return self.metrics.read(replace(pipeline, targets={"seldon": SeldonTarget(pipeline.name)}), window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        return self.read(pipeline, window_s).load


@dataclass
class Watched:
    """A control loop that reads a fake Prometheus, and what it decided."""

    made: Scenario
    server: FakePrometheus
    decisions: list[Decision] = field(default_factory=list)
    # Seconds of ticks in which what served lacked throughput for the load of that moment.
    short_s: float = 0.0

    def ticks(self, count: int) -> list[Decision]:
        """So many ticks; the decisions of these."""
        decisions = []
        for _ in range(count):
            decisions += self.made.ticks(1)
            self.made.workload.read(PIPELINE)
            rate = max(self.server.rate_rps(self.made.clock.monotonic_s()), 1e-3)
            expected = profiled().predict(self.made.workload.serving, rate)
            if expected is None or not expected.carries:
                self.short_s += self.made.settings.tick_s
        self.decisions += decisions
        return decisions

    def run(self, seconds: float) -> list[Decision]:
        """The ticks of so much time."""
        return self.ticks(round(seconds / self.made.settings.tick_s))

    @property
    def now_s(self) -> float:
        return self.made.clock.monotonic_s()


START = (StageConfig("detect", "big", 1, 1.0, 1), StageConfig("read", "big", 1, 1.0, 1))
SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=30.0, quarantine_s=60.0)
# The service's own tick, where long loads are read.
SLOW = replace(SETTINGS, tick_s=10.0)
TICK_S = SETTINGS.tick_s


@contextmanager
def watched(
    rate_rps: Rate | float = 5.0,
    *,
    direct: bool = False,
    timeout_s: float = 60.0,
    dialect: Dialect = LOCAL,
    settings: GuardSettings = SETTINGS,
    pipeline: Pipeline = PIPELINE,
) -> Iterator[Watched]:
    """An active loop over the fake, under that load; `direct` without HTTP."""
    rate = rate_rps if callable(rate_rps) else lambda t_s, value=float(rate_rps): value
    made = scenario(rate, configs=START, settings=settings)
    with FakePrometheus(made.clock, rate) as server:
        metrics: Metrics = PrometheusMetrics(
            Settings(
                prometheus_url=server.url,
                prometheus_timeout_s=timeout_s,
                stale_after_s=settings.stale_after_s,
            ),
            dialect,
            monotonic_s=made.clock.monotonic_s,
        )
        session = session_of(metrics)
        if direct:
            session.mount(server.url, Direct(server))
        if dialect is EXECUTOR:
            metrics = _Targeted(metrics)
        ports = LoopPorts(made.clock, metrics, made.workload, made.store, made.store)
        loop = loop_over(pipeline, ports, ours(), settings, window_s=60.0)
        yield Watched(replace(made, loop=loop), server)
        session.close()


def grown_cores(decision: Decision) -> float:
    """Cores that a decision adds; below zero it takes some away, zero where it writes nothing."""
    if decision.action is not Action.APPLY:
        return 0.0
    return total_cores(decision.configs) - total_cores(decision.previous)


def downscales(decisions: list[Decision]) -> int:
    return sum(grown_cores(decision) < -1e-9 for decision in decisions)


def writes(decisions: list[Decision]) -> int:
    return sum(decision.action is Action.APPLY for decision in decisions)


def turns(decisions: list[Decision]) -> int:
    """The number of times that the cores change their direction."""
    moves = [move for move in map(grown_cores, decisions) if abs(move) > 1e-9]
    return sum(one * other < 0 for one, other in pairwise(moves))


def absent(kind: str) -> Rewrite:
    """No series for queries of that kind."""

    def rewrite(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes] | None:
        if kind not in parameters["query"]:
            return None
        data = {**answer["data"], "result": []}
        return 200, json.dumps({**answer, "data": data}).encode()

    return rewrite


def during(rewrite: Rewrite, seconds: float = 100.0) -> list[Decision]:
    """The decisions while answers are rewritten, after the loop had found its plan."""
    with watched(BUSY_RPS) as over:
        over.run(60.0)
        over.server.rewrite = rewrite
        return over.run(seconds)


def per_hour(count: float, seconds: float = LONG_S) -> float:
    return count * 3600.0 / seconds
