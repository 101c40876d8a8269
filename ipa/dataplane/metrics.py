"""The metrics of queue and router, every series there from the start."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ipa.dataplane.batching import Outcome
from ipa.dataplane.http import Call, Response

# Steps of 10 to 30 %, fine enough for a p99 between 1 ms and 10 s.
BUCKETS_S = (
    *(
        0.001,
        0.002,
        0.003,
        0.005,
        0.0075,
        0.01,
        0.015,
        0.02,
        0.03,
        0.04,
        0.05,
        0.065,
        0.08,
        0.1,
        0.125,
        0.15,
        0.175,
    ),
    *(0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """A registry of its own and the handler of /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    async def handle(self, _call: Call) -> Response:
        """All series as Prometheus text."""
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE)


class QueueMetrics(Exposition):
    """What a stage queue counts. `arrivals`, `items` and `length` count items, not requests."""

    def __init__(self, pipeline: str, stage: str) -> None:
        super().__init__()
        labels = ("pipeline", "stage")
        here = self.registry
        self.arrivals = Counter("ipa_queue_arrivals", "Items that came in", labels, registry=here).labels(
            pipeline, stage
        )
        items = Counter("ipa_queue_items", "Items by how they ended", (*labels, "outcome"), registry=here)
        self.items = {outcome: items.labels(pipeline, stage, outcome.value) for outcome in Outcome}
        self.length = Gauge("ipa_queue_length", "Items waiting", labels, registry=here).labels(
            pipeline, stage
        )
        self.stage_s = Histogram(
            "ipa_queue_stage_seconds", "From arrival to answer", labels, buckets=BUCKETS_S, registry=here
        ).labels(pipeline, stage)
        self.service_s = Histogram(
            "ipa_queue_service_seconds", "One batch in a replica", labels, buckets=BUCKETS_S, registry=here
        ).labels(pipeline, stage)
        self.batch_size = Histogram(
            "ipa_queue_batch_size", "Items of a batch", labels, buckets=BATCH_BUCKETS, registry=here
        ).labels(pipeline, stage)
        self.retries = Counter(
            "ipa_queue_retries", "Batches whose replica was lost", labels, registry=here
        ).labels(pipeline, stage)


class RouterMetrics(Exposition):
    """What a router counts: requests."""

    def __init__(self, pipeline: str) -> None:
        super().__init__()
        here = self.registry
        self.arrivals = Counter(
            "ipa_router_arrivals", "Requests that came in", ("pipeline",), registry=here
        ).labels(pipeline)
        requests = Counter(
            "ipa_router_requests", "Requests by how they ended", ("pipeline", "outcome"), registry=here
        )
        self.requests = {outcome: requests.labels(pipeline, outcome.value) for outcome in Outcome}
        self.request_s = Histogram(
            "ipa_router_request_seconds",
            "Answered requests, end to end",
            ("pipeline",),
            buckets=BUCKETS_S,
            registry=here,
        ).labels(pipeline)
