"""The service's metrics on a registry, every series there from the start."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from math import inf, nan

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics import MetricWrapperBase

import ipa
from ipa.metering import table
from ipa.metering.make import combinations, counter, gauge, histogram
from ipa.metering.metric import Metric
from ipa.model.pipeline import Pipeline


class Catalogue:
    """What the service says of itself and of its pipelines, as `ipa.metering.table` has it.

    A counter begins at 0, a gauge at NaN: what was not seen yet is neither absent nor zero. Labels are names
    from pipeline files and closed enums, so the number of series is that of the pipelines alone.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        pipelines: Sequence[Pipeline] = (),
        *,
        tick_s: float = nan,
        install: str = "ipa",
    ) -> None:
        self._registry = registry
        self._pipelines: dict[str, Pipeline] = {}
        self._seen_of_pipeline: list[Gauge] = []
        self._seen_of_stage: list[Gauge] = []
        gauge(table.BUILD, registry).labels(ipa.__version__, platform.python_version(), install).set(1)
        self.leader = gauge(table.LEADER, registry).labels(install)
        self.leader.set(1)
        gauge(table.TICK_INTERVAL, registry).set(tick_s)
        self.solve_seconds = histogram(table.SOLVE, registry)
        for labels in combinations(table.SOLVE):
            self.solve_seconds.labels(*labels)
        self._count(registry)
        self._show(registry)
        for pipeline in pipelines:
            self.start(pipeline)

    def _count(self, registry: CollectorRegistry) -> None:
        self.decisions = counter(table.DECISIONS, registry)
        self.incidents = counter(table.INCIDENTS, registry)
        self.forecasts = counter(table.FORECASTS, registry)
        self.skipped_ticks = counter(table.SKIPPED_TICKS, registry)
        self.early_ticks = counter(table.EARLY_TICKS, registry)
        self.curtailed_plans = counter(table.CURTAILED, registry)
        self.scored_forecasts = counter(table.FORECASTS_SCORED, registry)
        self.exceeded_forecasts = counter(table.FORECASTS_EXCEEDED, registry)
        self.tick_seconds = histogram(table.TICK, registry)

    def _show(self, registry: CollectorRegistry) -> None:
        self.sla = gauge(table.SLA, registry)
        self.sla_percentile = gauge(table.SLA_PERCENTILE, registry)
        self.sla_bucket_weight = gauge(table.SLA_BUCKET_WEIGHT, registry)
        self.mode = gauge(table.MODE, registry)
        self.input_age = gauge(table.INPUT_AGE, registry)
        self.variant_share = gauge(table.SHARE, registry)
        self.slowdown = gauge(table.SLOWDOWN, registry)
        self.last_tick = self._of_pipeline(table.LAST_TICK)
        self.active_quarantines = self._of_pipeline(table.QUARANTINES)
        self.paused = self._of_pipeline(table.PAUSED)
        self.arrival_rate = self._of_pipeline(table.ARRIVAL_RATE)
        self.latency = self._of_pipeline(table.LATENCY)
        self.predicted_latency = self._of_pipeline(table.PREDICTED_LATENCY)
        self.running_pas = self._of_pipeline(table.PAS)
        self.forecast_point = self._of_pipeline(table.FORECAST_POINT)
        self.forecast_upper = self._of_pipeline(table.FORECAST_UPPER)
        self.forecast_error = self._of_pipeline(table.FORECAST_ERROR)
        self.plan_pas = self._of_pipeline(table.PLAN_PAS)
        self.plan_replicas = self._of_stage(table.PLAN_REPLICAS)
        self.plan_cores = self._of_stage(table.PLAN_CORES)
        self.decision_replicas = self._of_stage(table.DECISION_REPLICAS)
        self.decision_cores = self._of_stage(table.DECISION_CORES)
        self.replicas = self._of_stage(table.REPLICAS)
        self.ready_replicas = self._of_stage(table.READY_REPLICAS)
        self.cores = self._of_stage(table.STAGE_CORES)
        self.batch_size = self._of_stage(table.BATCH_SIZE)

    def start(self, pipeline: Pipeline) -> None:
        """Make the series of a pipeline."""
        name = pipeline.name
        self._pipelines[name] = pipeline
        for closed, metric in (
            (self.decisions, table.DECISIONS),
            (self.incidents, table.INCIDENTS),
            (self.forecasts, table.FORECASTS),
        ):
            for labels in combinations(metric, name):
                closed.labels(*labels)
        for counting in (
            self.skipped_ticks,
            self.early_ticks,
            self.curtailed_plans,
            self.scored_forecasts,
            self.exceeded_forecasts,
            self.tick_seconds,
        ):
            counting.labels(name)
        for each, metric in ((self.mode, table.MODE), (self.input_age, table.INPUT_AGE)):
            for labels in combinations(metric, name):
                each.labels(*labels).set(nan)
        for each in self._seen_of_pipeline:
            each.labels(name).set(nan)
        for stage in pipeline.served:
            for each in self._seen_of_stage:
                each.labels(name, stage.name).set(nan)
            for variant in stage.variants:
                self.variant_share.labels(name, stage.name, variant.name).set(nan)
                self.slowdown.labels(name, stage.name, variant.name).set(nan)
        self.sla.labels(name).set(pipeline.sla.latency_s)
        self.sla_percentile.labels(name).set(pipeline.sla.percentile / 100)
        for bound_s, weight in bucket_weights(pipeline.sla.latency_s, table.ROUTER_SECONDS.buckets):
            self.sla_bucket_weight.labels(name, "+Inf" if bound_s == inf else str(bound_s)).set(weight)

    def end(self, pipeline: Pipeline) -> None:
        """Take away every series of a pipeline that is no longer controlled."""
        self._pipelines.pop(pipeline.name, None)
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase) and "pipeline" in metric._labelnames:
                metric.remove_by_labels({"pipeline": pipeline.name})

    def stages(self, pipeline: str) -> tuple[str, ...]:
        """The stages of that pipeline; none where it was not started."""
        known = self._pipelines.get(pipeline)
        return tuple(stage.name for stage in known.served) if known else ()

    def variants(self, pipeline: str, stage: str) -> tuple[str, ...]:
        """The variants of that stage; none where its pipeline was not started."""
        known = self._pipelines.get(pipeline)
        return tuple(variant.name for variant in known.stage(stage).variants) if known else ()

    def _of_pipeline(self, metric: Metric) -> Gauge:
        made = gauge(metric, self._registry)
        self._seen_of_pipeline.append(made)
        return made

    def _of_stage(self, metric: Metric) -> Gauge:
        made = gauge(metric, self._registry)
        self._seen_of_stage.append(made)
        return made


def bucket_weights(sla_s: float, bounds_s: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(bound, weight) of cumulative buckets whose weighted sum counts what took `sla_s` at most.

    Exact where the SLA is a bound, else linear between the two around it, as `histogram_quantile` has it.
    Beyond the last bound nothing is told apart: all answers count.
    """
    upper_s = next((bound_s for bound_s in bounds_s if bound_s >= sla_s), inf)
    if upper_s in (inf, sla_s):
        return ((upper_s, 1.0),)
    lower_s = max((bound_s for bound_s in bounds_s if bound_s < sla_s), default=0.0)
    weight = (sla_s - lower_s) / (upper_s - lower_s)
    below = ((lower_s, 1.0 - weight),) if lower_s else ()
    return (*below, (upper_s, weight))
