"""The service's metrics on a registry. Every series exists from the start."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from math import inf, nan
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import ipa
from ipa.metering import labels as of
from ipa.metering import table
from ipa.metering.make import MAKERS, combinations, gauge
from ipa.metering.metric import Metric, MetricsEndpoint
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

# The metrics that every pipeline has, on every target.
OF_PIPELINE = tuple(
    metric
    for metric in table.METRICS
    if metric.place is MetricsEndpoint.SERVICE and not metric.when and of.PIPELINE in metric.labels
)


class Catalogue:
    """The metrics of the service and its pipelines that `ipa.metering.table` declares.

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
        self._pipelines: dict[str, Pipeline] = {}
        gauge(table.BUILD, registry).labels(ipa.__version__, platform.python_version(), install).set(1)
        self.leader = gauge(table.LEADER, registry).labels(install)
        self.leader.set(1)
        gauge(table.TICK_INTERVAL, registry).set(tick_s)
        self._made = {each.name: MAKERS[each.kind](each, registry) for each in (*OF_PIPELINE, table.SOLVE)}
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
        self._pipelines[name] = pipeline
        for metric in OF_PIPELINE:
            for labels in _label_values(metric, pipeline):
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
        self._pipelines.pop(pipeline.name, None)
        for metric in OF_PIPELINE:
            self._made[metric.name].remove_by_labels({of.PIPELINE.name: pipeline.name})

    def usd_per_hour(self, pipeline: str, configs: Sequence[StageConfig]) -> float | None:
        """Return the price of the configurations; None if it is unknown, or the pipeline was not started."""
        known = self._pipelines.get(pipeline)
        return known.usd_per_hour(configs) if known else None

    def stages(self, pipeline: str) -> tuple[str, ...]:
        """Return the stages of the pipeline; none if it was not started."""
        known = self._pipelines.get(pipeline)
        return tuple(stage.name for stage in known.served) if known else ()

    def variants(self, pipeline: str, stage: str) -> tuple[str, ...]:
        """Return the variants of the stage; none if its pipeline was not started."""
        known = self._pipelines.get(pipeline)
        return tuple(variant.name for variant in known.stage(stage).variants) if known else ()


def _label_values(metric: Metric, pipeline: Pipeline) -> list[tuple[str, ...]]:
    """The label values that the metric has from the start; none for a label without closed values."""
    given: list[tuple[str, ...]] = [(pipeline.name,)]
    if of.STAGE in metric.labels:
        given = [(pipeline.name, stage.name) for stage in pipeline.served]
    if of.VARIANT in metric.labels:
        given = [(*each, variant.name) for each in given for variant in pipeline.stage(each[1]).variants]
    return [labels for each in given for labels in combinations(metric, *each)]


def bucket_weights(sla_s: float, bounds_s: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return (bound, weight) of cumulative buckets whose weighted sum counts the answers within `sla_s`.

    Exact if the SLA is a bound, else linear between the two around it, as in `histogram_quantile`. Above the
    last bound all answers count, since the histogram cannot tell them apart.
    """
    upper_s = next((bound_s for bound_s in bounds_s if bound_s >= sla_s), inf)
    if upper_s in (inf, sla_s):
        return ((upper_s, 1.0),)
    lower_s = max((bound_s for bound_s in bounds_s if bound_s < sla_s), default=0.0)
    weight = (sla_s - lower_s) / (upper_s - lower_s)
    below = ((lower_s, 1.0 - weight),) if lower_s else ()
    return (*below, (upper_s, weight))
