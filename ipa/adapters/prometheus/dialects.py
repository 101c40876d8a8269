"""The metrics that hold a pipeline's load and latency: our router's and queues', or Seldon's executor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Rate, Selector
from ipa.metering import table
from ipa.model.pipeline import Pipeline, Stage


class Dialect(StrEnum):
    """The source of the metrics."""

    LOCAL = "local"
    SELDON = "seldon"
    # Our router and queues on a cluster, scraped at the cluster's interval.
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class BatchQueries:
    """Rates of a stage's replicas: batches, the seconds that they took, the items in them."""

    count: Rate
    service: Rate
    items: Rate


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of one pipeline. A query of the stages returns all stages, by `stage_label`."""

    age: Age
    arrivals: Rate
    latency: Quantile
    stage_label: str
    stage_age: Age
    stage_arrivals: Rate
    stage_latency: Quantile
    stage_queue: Gauge | None
    stage_batches: BatchQueries | None


# Five 1 s scrapes: the mean a plan is made for (forecast.SMOOTH_S). Seldon is scraped every 5 to 15 s, and a
# rate needs two samples.
RATE_WINDOW_S = {Dialect.LOCAL: 5.0, Dialect.SELDON: 30.0, Dialect.SPLIT: 30.0}
# A p99 needs a hundred requests, and a change should show within two ticks.
LATENCY_WINDOW_S = {Dialect.LOCAL: 15.0, Dialect.SELDON: 60.0, Dialect.SPLIT: 60.0}


# A tick, or two scrapes: a mean needs fewer batches than a quantile, and lags by its window.
BATCHES_WINDOW_S = {Dialect.LOCAL: 10.0, Dialect.SPLIT: 30.0}


# The label that identifies the pipeline of a series.
IDENTITY = {Dialect.LOCAL: "pipeline", Dialect.SELDON: "deployment_name", Dialect.SPLIT: "pipeline"}

# The executor's requests to each stage.
CLIENT = "seldon_api_executor_client_requests_seconds"


def identity_of(pipeline: Pipeline, dialect: Dialect) -> str:
    """Return the pipeline's name in the label that identifies it."""
    return pipeline.seldon.name if dialect is Dialect.SELDON and pipeline.seldon else pipeline.name


def queries(pipeline: Pipeline, dialect: Dialect, namespace_label: str = "") -> Queries:
    """Return the queries of the pipeline in the dialect.

    `namespace_label` is the label that holds the namespace of a series' target; empty if no series has one.
    Seldon's own labels do not name it, so without it SeldonDeployments of one name are summed.
    """
    if dialect is Dialect.SELDON:
        return _seldon(pipeline, namespace_label)
    return _local(pipeline, dialect, namespace_label if dialect is Dialect.SPLIT else "")


def stage_value(stage: Stage, dialect: Dialect) -> str:
    """Return the stage's name in the metrics: its own, or its container's (the graph node's)."""
    return (stage.container or stage.name) if dialect is Dialect.SELDON else stage.name


def _here(pipeline: Pipeline, namespace_label: str) -> Mapping[str, str]:
    """The label with the pipeline's namespace; empty if it is not known."""
    return {namespace_label: pipeline.seldon.namespace} if namespace_label and pipeline.seldon else {}


def _local(pipeline: Pipeline, dialect: Dialect, namespace_label: str) -> Queries:
    labels, here = {IDENTITY[dialect]: identity_of(pipeline, dialect)}, _here(pipeline, namespace_label)
    return _queries(
        pipeline,
        dialect,
        arrivals=Selector(table.ROUTER_ARRIVALS.name, labels, here),
        latency=Selector(table.ROUTER_SECONDS.bucket, labels, here),
        stage_label="stage",
        stage_arrivals=Selector(table.QUEUE_ARRIVALS.name, labels, here),
        stage_latency=Selector(table.QUEUE_STAGE_SECONDS.bucket, labels, here),
        stage_queue=Selector(table.QUEUE_LENGTH.name, labels, here),
        stage_batches=(
            Selector(table.QUEUE_SERVICE_SECONDS.count, labels, here),
            Selector(table.QUEUE_SERVICE_SECONDS.sum, labels, here),
            Selector(table.QUEUE_BATCH_SIZE.sum, labels, here),
        ),
    )


def _seldon(pipeline: Pipeline, namespace_label: str) -> Queries:
    labels = {IDENTITY[Dialect.SELDON]: identity_of(pipeline, Dialect.SELDON)}
    # Predictors that share the load are numbered.
    predictors: Mapping[str, str] = {"predictor_name": "default"}
    here = _here(pipeline, namespace_label)
    if pipeline.seldon is not None:
        predictors = {"predictor_name": pipeline.seldon.predictor}
    served = {**labels, "service": "predictions"}
    answered = {**served, "code": "200"}
    return _queries(
        pipeline,
        Dialect.SELDON,
        arrivals=Selector("seldon_api_executor_server_requests_seconds_count", served, here, predictors),
        latency=Selector("seldon_api_executor_server_requests_seconds_bucket", answered, here, predictors),
        stage_label="model_name",
        stage_arrivals=Selector(f"{CLIENT}_count", labels, here, predictors),
        stage_latency=Selector(f"{CLIENT}_bucket", labels, here, predictors),
        stage_queue=None,
        stage_batches=None,
    )


def _queries(
    pipeline: Pipeline,
    dialect: Dialect,
    *,
    arrivals: Selector,
    latency: Selector,
    stage_label: str,
    stage_arrivals: Selector,
    stage_latency: Selector,
    stage_queue: Selector | None,
    stage_batches: tuple[Selector, Selector, Selector] | None,
) -> Queries:
    rate_s, latency_s = RATE_WINDOW_S[dialect], LATENCY_WINDOW_S[dialect]
    quantile = pipeline.sla.percentile / 100
    batches = None
    if stage_batches:
        window_s = BATCHES_WINDOW_S[dialect]
        batches = BatchQueries(*(Rate(selector, window_s, (stage_label,)) for selector in stage_batches))
    return Queries(
        age=Age(arrivals),
        arrivals=Rate(arrivals, rate_s),
        latency=Quantile(quantile, latency, latency_s),
        stage_label=stage_label,
        stage_age=Age(stage_arrivals, (stage_label,)),
        stage_arrivals=Rate(stage_arrivals, rate_s, (stage_label,)),
        stage_latency=Quantile(quantile, stage_latency, latency_s, (stage_label,)),
        stage_queue=Gauge(stage_queue, (stage_label,)) if stage_queue else None,
        stage_batches=batches,
    )
