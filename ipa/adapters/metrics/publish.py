"""The service's metrics on a registry, and the loop's hook that sets them after each tick.

Between ticks the hook keeps the ages of each pipeline's inputs.
"""

from __future__ import annotations

import platform
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from math import inf, nan
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import ipa
from ipa.control.engine.guards import total_cores
from ipa.control.loop.snapshot import Snapshot
from ipa.metering import labels as of
from ipa.metering import table
from ipa.metering.labels import Input
from ipa.metering.make import MAKERS, combinations, gauge
from ipa.metering.metric import Metric, MetricsEndpoint
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.observation import (
    Measured,
    Missing,
    MissingReason,
    Observation,
    known,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig

RUNG = table.FORECASTS.label("rung")
SOLVER = table.SOLVE.label("solver")
# More than the plans that a loop caches.
MOST_SOLVES = 16
# Of configurations: replicas, cores, largest batch, share of each variant.
DESIRED = (table.DESIRED_REPLICAS, table.DESIRED_CORES, table.DESIRED_BATCH_SIZE, table.DESIRED_SHARE)
RUNNING = (table.REPLICAS, table.STAGE_CORES, table.BATCH_SIZE, table.SHARE)


def _oldest(values: Sequence[Measured[Any] | Missing]) -> Measured[Any] | Missing:
    """The first missing value, else the oldest one; Missing if there are no values."""
    missing = next((value for value in values if isinstance(value, Missing)), None)
    measured = [value for value in values if isinstance(value, Measured)]
    if missing is not None or not measured:
        return missing or Missing(MissingReason.ABSENT)
    return max(measured, key=lambda value: value.age_s)


@dataclass(slots=True)
class _Track:
    """The state of one pipeline between ticks."""

    # When each input was last true.
    true_at_s: dict[Input, float] = field(default_factory=dict)
    skipped_ticks: int = 0
    early_ticks: int = 0
    # Identifies a solve: no two take equally long to the bit.
    solves: deque[tuple[float, float, str]] = field(default_factory=lambda: deque(maxlen=MOST_SOLVES))

    def ages_s(self, observation: Observation) -> dict[Input, float | None]:
        """The age of each input at the observation's time; None for one never observed."""
        stages, at_s = observation.stages, observation.at_s
        values: dict[Input, Measured[Any] | Missing] = {
            Input.LOAD: observation.load,
            Input.LATENCY: observation.latency_s,
            Input.STAGES: _oldest([stage.arrival_rate_rps for stage in stages]),
            Input.WORKLOAD: _oldest([stage.running for stage in stages]),
        }
        for name, value in values.items():
            # A stale value is too old to act upon, but its age is known.
            is_old = isinstance(value, Missing) and value.reason is MissingReason.STALE
            if value.age_s is not None and (isinstance(value, Measured) or is_old):
                self.true_at_s[name] = at_s - value.age_s
        return {name: at_s - self.true_at_s[name] if name in self.true_at_s else None for name in values}

    def is_new(self, plan: Plan) -> bool:
        """True if the plan was solved in this tick; a cached plan has the solve time of its first solve."""
        solve = plan.solve_s, plan.rate_rps, plan.solver
        is_new = solve not in self.solves
        if is_new:
            self.solves.append(solve)
        return is_new


class Publisher:
    """The hook. A gauge of an unobserved value is NaN, not its last value nor 0; a desired one is absent."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._metrics = catalogue
        self._tracks: dict[str, _Track] = defaultdict(_Track)

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Count the decision, and set the gauges from the snapshot; ignored for a removed pipeline."""
        pipeline = self._metrics.pipelines.get(decision.pipeline)
        if pipeline is None:
            return
        track = self._tracks[pipeline.name]
        self._tick(pipeline.name, decision, snapshot, track)
        self._show_decision(pipeline, decision, snapshot.would, track)
        if snapshot.observation is not None:
            self._show_observation(pipeline, snapshot, snapshot.observation, track)

    def _tick(self, name: str, decision: Decision, snapshot: Snapshot, track: _Track) -> None:
        metrics = self._metrics
        metrics.counter(table.DECISIONS, name, decision.reason.value).inc()
        metrics.histogram(table.TICK, name).observe(snapshot.tick_s)
        # The loop counts from its start.
        metrics.counter(table.SKIPPED_TICKS, name).inc(max(snapshot.skipped_ticks - track.skipped_ticks, 0))
        metrics.counter(table.EARLY_TICKS, name).inc(max(snapshot.early_ticks - track.early_ticks, 0))
        track.skipped_ticks, track.early_ticks = snapshot.skipped_ticks, snapshot.early_ticks
        at, until = datetime.fromisoformat(decision.at), snapshot.control.paused_until
        metrics.gauge(table.LAST_TICK, name).set(at.timestamp() + snapshot.tick_s)
        metrics.gauge(table.QUARANTINES, name).set(len(snapshot.quarantines))
        for mode in Mode:
            metrics.gauge(table.MODE, name, mode.value).set(mode is snapshot.control.mode)
        metrics.gauge(table.PAUSED, name).set(snapshot.control.paused and (until is None or at < until))

    def _show_decision(
        self, pipeline: Pipeline, decision: Decision, would: Sequence[StageConfig], track: _Track
    ) -> None:
        """The forecast, the plan before the guards and the decision after them."""
        metrics, name = self._metrics, pipeline.name
        forecast, plan = decision.forecast, decision.plan
        self._show(table.FORECAST_POINT, forecast.point_rps if forecast else None, name)
        self._show(table.FORECAST_UPPER, forecast.upper_rps if forecast else None, name)
        if forecast is not None:
            metrics.counter(table.FORECASTS, name, RUNG.known(forecast.rung)).inc()
        self._show(table.PLAN_PAS, plan.pas if plan else None, name)
        planned = plan.configs if plan else ()
        if plan is not None and track.is_new(plan):
            solved = metrics.histogram(table.SOLVE, SOLVER.known(plan.solver), plan.termination.value)
            solved.observe(plan.solve_s)
        if decision.action is Action.APPLY and planned and planned != decision.configs:
            metrics.counter(table.CURTAILED, name).inc()
        # A change that a person requests has no plan, one that rolls out was decided before.
        is_valid = planned or decision.action is Action.APPLY or decision.reason is ReasonCode.IN_PROGRESS
        self._show_configs((table.PLAN_REPLICAS, table.PLAN_CORES), pipeline, planned)
        if is_valid and would:
            self._show_configs(DESIRED, pipeline, would)
        else:
            metrics.remove(DESIRED, name)

    def _show_observation(
        self, pipeline: Pipeline, snapshot: Snapshot, observation: Observation, track: _Track
    ) -> None:
        name = pipeline.name
        self._show(table.ARRIVAL_RATE, known(observation.arrival_rate_rps), name)
        self._show(table.LATENCY, known(observation.latency_s), name)
        self._show(table.IN_TIME, observation.in_time_ratio, name)
        point = snapshot.history[-1] if snapshot.history else None
        self._show(table.PREDICTED_LATENCY, point.predicted_latency_s if point else None, name)
        self._show(table.PAS, point.pas if point else None, name)
        for given, age_s in track.ages_s(observation).items():
            self._show(table.INPUT_AGE, age_s, name, given.value)
        running = observation.running() or ()
        self._show(table.COST, pipeline.usd_per_hour(running) if running else None, name)
        self._show_configs(RUNNING, pipeline, running)
        measured = {(each.stage, each.variant): each.interval for each in snapshot.correction.accuracies}
        for stage in pipeline.served:
            parts = [each for each in observation.stages if each.stage == stage.name]
            ready = [part.ready_replicas.value for part in parts if isinstance(part.ready_replicas, Measured)]
            is_known = bool(ready) and len(ready) == len(parts)
            self._show(table.READY_REPLICAS, sum(ready) if is_known else None, name, stage.name)
            for variant in [each.name for each in stage.variants]:
                # NaN if it was never observed, or has expired.
                slowdown = snapshot.correction.of(stage.name, variant)
                self._show(table.SLOWDOWN, slowdown.ratio if slowdown else None, name, stage.name, variant)
                each = measured.get((stage.name, variant))
                figures = (each.profiled, each.mean, each.lower, each.upper) if each else (None,) * 4
                for figure, value in zip(of.FIGURE.values, figures, strict=True):
                    self._show(table.MEASURED_ACCURACY, value, name, stage.name, variant, figure)

    def _show_configs(
        self, metrics: Sequence[Metric], pipeline: Pipeline, configs: Sequence[StageConfig]
    ) -> None:
        """Show each stage's configurations side by side in metrics in the order of `RUNNING`."""
        for stage in pipeline.served:
            here = [config for config in configs if config.stage == stage.name]
            largest = max((config.batch_size for config in here), default=0)
            figures = sum(config.replicas for config in here), total_cores(here), largest
            for metric, value in zip(metrics[:3], figures, strict=False):
                self._show(metric, value if here else None, pipeline.name, stage.name)
            for metric, variant in product(metrics[3:], stage.variants):
                percent = sum(it.share_percent for it in here if it.variant == variant.name)
                share = percent / WHOLE_PERCENT if here else None
                self._show(metric, share, pipeline.name, stage.name, variant.name)

    def _show(self, metric: Metric, value: float | None, *labels: str) -> None:
        self._metrics.gauge(metric, *labels).set(nan if value is None else value)


# The metrics that every pipeline has, on every target.
OF_PIPELINE = tuple(
    metric
    for metric in table.METRICS
    if metric.place is MetricsEndpoint.SERVICE and not metric.when and of.PIPELINE in metric.labels
)


class Catalogue:
    """The metrics of the service and of its `pipelines` that `ipa.metering.table` declares.

    A counter starts at 0, a gauge at NaN: a value that was not observed yet is neither absent nor zero.
    Labels are names from pipeline files and closed enums, so the pipelines determine the number of series.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        pipelines: Sequence[Pipeline] = (),
        *,
        tick_s: float = nan,
        install: str = "ipa",
    ) -> None:
        self.pipelines: dict[str, Pipeline] = {}
        gauge(table.BUILD, registry).labels(ipa.__version__, platform.python_version(), install).set(1)
        self.leader = gauge(table.LEADER, registry).labels(install)
        self.leader.set(1)
        gauge(table.TICK_INTERVAL, registry).set(tick_s)
        made = (*OF_PIPELINE, *DESIRED, table.SOLVE)
        self._made = {each.name: MAKERS[each.kind](each, registry) for each in made}
        for labels in combinations(table.SOLVE):
            self._made[table.SOLVE.name].labels(*labels)
        for pipeline in pipelines:
            self.start(pipeline)

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """The counter of those label values."""
        return cast(Counter, self._made[metric.name].labels(*labels))

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """The gauge of those label values."""
        return cast(Gauge, self._made[metric.name].labels(*labels))

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The histogram of those label values."""
        return cast(Histogram, self._made[metric.name].labels(*labels))

    def start(self, pipeline: Pipeline) -> None:
        """Create the series of a pipeline."""
        name = pipeline.name
        self.pipelines[name] = pipeline
        stages: list[tuple[str, ...]] = [(name, stage.name) for stage in pipeline.served]
        variants = [(name, stage.name, it.name) for stage in pipeline.served for it in stage.variants]
        for metric in OF_PIPELINE:
            of_stages = stages if of.STAGE in metric.labels else [(name,)]
            for given in variants if of.VARIANT in metric.labels else of_stages:
                for labels in combinations(metric, *given):
                    series = self._made[metric.name].labels(*labels)
                    if isinstance(series, Gauge):
                        series.set(nan)
        self.gauge(table.SLA, name).set(pipeline.sla.latency_s)
        self.gauge(table.SLA_PERCENTILE, name).set(pipeline.sla.percentile / 100)
        for bound_s, weight in bucket_weights(pipeline.sla.latency_s, table.ROUTER_SECONDS.buckets):
            bound = "+Inf" if bound_s == inf else str(bound_s)
            self.gauge(table.SLA_BUCKET_WEIGHT, name, bound).set(weight)

    def end(self, pipeline: Pipeline) -> None:
        """Remove every series of a pipeline that is no longer controlled."""
        self.pipelines.pop(pipeline.name, None)
        self.remove((*OF_PIPELINE, *DESIRED), pipeline.name)

    def remove(self, metrics: Sequence[Metric], pipeline: str) -> None:
        """Remove the pipeline's series of these metrics."""
        for metric in metrics:
            self._made[metric.name].remove_by_labels({of.PIPELINE.name: pipeline})


def bucket_weights(sla_s: float, bounds_s: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return (bound, weight) of cumulative buckets whose weighted sum counts the answers within `sla_s`.

    Exact if the SLA is a bound, else linear between the two around it, as in `histogram_quantile`. Above the
    last bound all answers count, since the histogram cannot distinguish them.
    """
    upper_s = next((bound_s for bound_s in bounds_s if bound_s >= sla_s), inf)
    if upper_s in (inf, sla_s):
        return ((upper_s, 1.0),)
    lower_s = max((bound_s for bound_s in bounds_s if bound_s < sla_s), default=0.0)
    weight = (sla_s - lower_s) / (upper_s - lower_s)
    below = ((lower_s, 1.0 - weight),) if lower_s else ()
    return (*below, (upper_s, weight))
