"""The service over a simulated pipeline, scraped as Prometheus would, in virtual time.

Loop, publisher, router's and queues' metrics are the real ones; requests pass through the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.api.context import HttpMetrics
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import PeakForecaster
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import AlwaysLeading, DecisionLog, Leadership, PipelineControl, Workload
from ipa.dataplane.metrics import QueueMetrics, RouterMetrics
from ipa.forecast.arrivals import request_times
from ipa.metering.make import new_registry
from ipa.model.decision import Mode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.policies.base import Policy
from ipa.policies.table import PolicyInputs, make_policy
from ipa.serving.batching import Outcome
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import ForecastSettings, MemoryLog, forecaster_of
from ipa.simulate.world import SimWorld
from tests.fakes.world import PIPELINE, PROFILES

SCRAPE_S = 15.0
TICK_S = 10.0
# What targets say of themselves.
SERVICE = {"job": "ipa", "namespace": "ipa"}
PIPELINES = {"job": "pipelines", "namespace": "default"}

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]


@dataclass
class Scraped:
    """The samples by series, (scrape number, value) each; and what kind of metric each family is."""

    samples: dict[Series, list[tuple[int, float]]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    scrapes: int = 0
    # The series that are scraped; none: all.
    only: frozenset[str] = frozenset()

    def take(self, number: int, registry: CollectorRegistry, target: Mapping[str, str]) -> None:
        self.scrapes = number + 1
        source = registry.restricted_registry(self.only) if self.only else registry
        for family in source.collect():
            self.kinds[family.name] = family.type
            for sample in family.samples:
                labels = tuple(sorted({**sample.labels, **target}.items()))
                self.samples.setdefault((sample.name, labels), []).append((number, sample.value))

    def openmetrics(self, start_s: float) -> Iterator[str]:
        """Everything as OpenMetrics text, the first scrape at that time."""
        families: dict[str, list[Series]] = {}
        for series in self.samples:
            families.setdefault(self._family(series[0]), []).append(series)
        for family, members in families.items():
            yield f"# TYPE {family} {self.kinds[family]}"
            for name, labels in members:
                inside = ",".join(f'{key}="{value}"' for key, value in labels)
                for number, value in self.samples[name, labels]:
                    yield f"{name}{{{inside}}} {_number(value)} {start_s + number * SCRAPE_S:.3f}"
        yield "# EOF"

    def input_series(self) -> list[dict[str, str]]:
        """Everything as promtool's unit tests take it."""
        return [
            {"series": _selector(name, labels), "values": _values(points, self.scrapes)}
            for (name, labels), points in self.samples.items()
        ]

    def _family(self, name: str) -> str:
        for part in ("", "_total", "_bucket", "_count", "_sum"):
            if name.endswith(part) and name.removesuffix(part) in self.kinds:
                return name.removesuffix(part)
        raise KeyError(name)


class Monitored:
    """A pipeline under a load and the service that controls it, from 0 s on."""

    def __init__(
        self,
        rates_rps: Sequence[float],
        *,
        pipeline: Pipeline = PIPELINE,
        profiles: Mapping[str, StageProfile] = PROFILES,
        true_profiles: Mapping[str, StageProfile] | None = None,
        start: tuple[StageConfig, ...] = (),
        cluster: ClusterSettings | None = None,
        metrics: MetricsSettings | None = None,
        settings: GuardSettings | None = None,
        leads: Leadership | None = None,
        workload: Callable[[Workload, Monitored], Workload] = lambda real, _made: real,
        decisions: Callable[[DecisionLog, Monitored], DecisionLog] = lambda real, _made: real,
        policy: Callable[[Policy, Monitored], Policy] = lambda real, _made: real,
        forecaster: Callable[[PeakForecaster, Monitored], PeakForecaster] = lambda real, _made: real,
        forecast: str = "window",
        epoch_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.pipeline, self.epoch_s = pipeline, epoch_s
        self.duration_s = float(len(rates_rps))
        self.settings = settings or GuardSettings(tick_s=TICK_S, peek_s=2.0, correct_profiles=True)
        times_s = request_times(rates_rps, "poisson", seed=(seed, 1))
        inputs = PolicyInputs(pipeline, profiles, None, "exact", 5.0, explain=False)
        first = start or inputs.profiled().plan(pipeline, max(rates_rps[:20])).configs
        self.sim = SimWorld(
            pipeline,
            GroundTruth(pipeline, true_profiles or profiles),
            first,
            times_s,
            cluster=cluster or ClusterSettings(),
            metrics=metrics or MetricsSettings(),
            seed=seed,
        )
        self.memory = MemoryLog(PipelineControl(mode=Mode.ACTIVE))
        self.registry = new_registry()
        self.catalogue = Catalogue(self.registry, (pipeline,), tick_s=self.settings.tick_s)
        self.http = HttpMetrics(self.registry)
        self.http.start([("/v1/pipelines", ("GET",))])
        self.router = RouterMetrics(pipeline.name, [stage.name for stage in pipeline.served])
        self.queues = {stage.name: QueueMetrics(pipeline.name, stage.name) for stage in pipeline.served}
        self.scraped = Scraped()
        self.replicas = {"ipa-0": self.registry}
        self.is_down = False
        self._fed = _Fed()
        self._number = 0
        self.at: list[tuple[float, Callable[[], None]]] = []
        leading = leads or AlwaysLeading()
        self.catalogue.leader.set_function(lambda: float(leading.leading()))
        self.loop = ControlLoop(
            pipeline,
            LoopPorts(
                self,
                self.sim.metrics,
                workload(self.sim.workload, self),
                decisions(self.memory, self),
                self.memory,
                leading,
            ),
            policy=policy(make_policy("ours", inputs), self),
            predict=inputs.predictor(),
            forecaster=forecaster(
                forecaster_of(ForecastSettings(forecast), rates_rps, self.sim.clock.monotonic_s), self
            ),
            settings=self.settings,
            window_s=120.0,
            run_id="run",
            on_decision=(Publisher(self.catalogue),),
        )

    # The clock of the loop: waiting lets time pass, and Prometheus scrape.
    def monotonic_s(self) -> float:
        return self.sim.clock.monotonic_s()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.epoch_s + self.monotonic_s(), UTC)

    def wait(self, seconds: float) -> None:
        until_s = self.monotonic_s() + max(seconds, 0.0)
        while (next_s := self._number * SCRAPE_S) <= until_s:
            self._pass(next_s)
            self._scrape()
        self._pass(until_s)

    def run(self) -> Scraped:
        """The whole run; what was scraped."""
        while self.monotonic_s() < self.duration_s:
            self.wait(self.loop.step() - self.monotonic_s())
        return self.scraped

    def _pass(self, until_s: float) -> None:
        while self.at and self.at[0][0] <= until_s:
            at_s, happen = self.at.pop(0)
            self.sim.clock.wait(at_s - self.monotonic_s())
            happen()
        self.sim.clock.wait(until_s - self.monotonic_s())

    def _scrape(self) -> None:
        self._fed.feed(self)
        if not self.is_down:
            for name, registry in self.replicas.items():
                self.scraped.take(self._number, registry, {**SERVICE, "instance": name})
        self.scraped.take(self._number, self.router.registry, {**PIPELINES, "instance": "router"})
        for name, queue in self.queues.items():
            self.scraped.take(self._number, queue.registry, {**PIPELINES, "instance": name})
        self._number += 1


@dataclass
class _Fed:
    """The agreement of the simulation's record with the metrics of router and queues."""

    arrived: int = 0
    answered: int = 0
    dropped: int = 0
    items: dict[str, int] = field(default_factory=dict)

    def feed(self, made: Monitored) -> None:
        """Count what happened since."""
        sim, router, now_s = made.sim, made.router, made.monotonic_s()
        arrived = int(np.searchsorted(sim.born_s, now_s, side="right"))
        router.arrivals.inc(arrived - self.arrived)
        done = ~np.isnan(sim.done_s)
        order = np.argsort(sim.done_s[done], kind="stable")[self.answered :]
        for latency_s in (sim.done_s - sim.born_s)[done][order].tolist():
            router.request_s.observe(latency_s)
        router.requests[Outcome.ANSWERED].inc(len(order))
        self.answered += len(order)
        inside = sum(lane.sim.inside for lane in sim._lanes.values())
        dropped = max(arrived - int(done.sum()) - inside, self.dropped)
        router.requests[Outcome.DROPPED].inc(dropped - self.dropped)
        self.arrived, self.dropped = arrived, dropped
        for name, queue in made.queues.items():
            stages, second = sim.metrics.stages[name].values(), math.floor(now_s) + 1
            items = sum(stage.items_before(second) for stage in stages)
            queue.arrivals.inc(items - self.items.get(name, 0))
            self.items[name] = items
            queue.length.set(float(sum(stage.waiting_at(second) for stage in stages)))


def _selector(name: str, labels: Labels) -> str:
    return f"{name}{{{','.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in labels)}}}"


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value!r}".replace("inf", "Inf")


def _values(points: Sequence[tuple[int, float]], scrapes: int) -> str:
    """promtool's notation of samples, with gaps, equal ones in a row said once."""
    words: list[str] = []
    runs: list[tuple[str, int]] = []
    last = -1
    for number, value in points:
        if number > last + 1:
            # As Prometheus marks a series that a scrape did not have.
            runs += [("stale", 1), ("_", number - last - 2)] if last >= 0 else [("_", number)]
        text, last = _number(value), number
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    if last + 1 < scrapes:
        runs.append(("stale", 1))
    for text, times in runs:
        if text in ("_", "stale"):
            words += [text] * times
        else:
            words.append(text if times == 1 else f"{text}+0x{times - 1}")
    return " ".join(words)
