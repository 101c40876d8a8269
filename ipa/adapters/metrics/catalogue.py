"""Every metric of the service, once: name, labels, unit and meaning."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ipa.model.decision import ReasonCode
from ipa.model.pipeline import Pipeline

# A tick is some milliseconds of planning and two reads over HTTP; past the 10 s interval it is late.
TICK_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Catalogue:
    """The metrics on a registry. Series are there from the start, so that a rate over them is never absent.

    Labels are names from pipeline files and reason codes of a closed enum: their number is bounded.
    """

    def __init__(self, registry: CollectorRegistry, pipelines: Sequence[Pipeline] = ()) -> None:
        per_pipeline, per_stage = ["pipeline"], ["pipeline", "stage"]
        self.decisions = Counter(
            "ipa_decisions", "Decisions by reason.", ["pipeline", "reason"], registry=registry
        )
        self.tick_seconds = Histogram(
            "ipa_tick_seconds", "Time of one tick.", per_pipeline, registry=registry, buckets=TICK_BUCKETS_S
        )
        self.skipped = Gauge(
            "ipa_skipped_ticks",
            "Ticks not run since the one before them took too long.",
            per_pipeline,
            registry=registry,
        )
        self.last_tick = Gauge(
            "ipa_last_tick_timestamp_seconds", "When the last tick ended.", per_pipeline, registry=registry
        )
        self.forecast_point = Gauge(
            "ipa_forecast_point_rps", "Expected peak arrival rate.", per_pipeline, registry=registry
        )
        self.forecast_upper = Gauge(
            "ipa_forecast_upper_rps",
            "Upper quantile of the peak arrival rate, planned for.",
            per_pipeline,
            registry=registry,
        )
        self.arrival_rate = Gauge(
            "ipa_observed_arrival_rate_rps", "Arrival rate seen.", per_pipeline, registry=registry
        )
        self.latency = Gauge(
            "ipa_observed_latency_seconds",
            "Latency seen at the percentile of the SLA.",
            per_pipeline,
            registry=registry,
        )
        self.predicted_latency = Gauge(
            "ipa_predicted_latency_seconds",
            "Latency of what runs at the rate seen, by its profiles; far below the one seen, they are wrong.",
            per_pipeline,
            registry=registry,
        )
        self.sla = Gauge(
            "ipa_sla_seconds", "Latency the pipeline must meet.", per_pipeline, registry=registry
        )
        self.input_age = Gauge(
            "ipa_input_age_seconds", "Age of the newest load seen.", per_pipeline, registry=registry
        )
        self.cores = Gauge("ipa_stage_cores", "Cores of all replicas.", per_stage, registry=registry)
        self.replicas = Gauge("ipa_stage_replicas", "Replicas wanted.", per_stage, registry=registry)
        self.ready_replicas = Gauge(
            "ipa_stage_ready_replicas", "Replicas that answer.", per_stage, registry=registry
        )
        self.batch_size = Gauge("ipa_stage_batch_size", "Largest batch.", per_stage, registry=registry)
        self.leader = Gauge(
            "ipa_leader", "1 where this replica may write, 0 where it stands by.", registry=registry
        )
        self.leader.set(1)
        for pipeline in pipelines:
            self.start(pipeline)

    def start(self, pipeline: Pipeline) -> None:
        """Make the counting series of a pipeline. What is measured appears once it was seen."""
        for reason in ReasonCode:
            self.decisions.labels(pipeline.name, reason.value)
        self.tick_seconds.labels(pipeline.name)
        self.skipped.labels(pipeline.name)
        self.sla.labels(pipeline.name).set(pipeline.sla.latency_s)

    def end(self, pipeline: Pipeline) -> None:
        """Take away every series of a pipeline that is no longer controlled."""
        for metric in vars(self).values():
            if "pipeline" in metric._labelnames:
                metric.remove_by_labels({"pipeline": pipeline.name})
