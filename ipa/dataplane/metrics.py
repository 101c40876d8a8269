"""The metrics of the queue and the router. Every series exists from the start."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import generate_latest

from ipa.dataplane.batching import LossCause, Outcome
from ipa.dataplane.http import Call, Response
from ipa.metering import table
from ipa.metering.make import counter, gauge, histogram, new_registry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """A registry and the handler of /metrics."""

    def __init__(self) -> None:
        self.registry = new_registry()

    async def handle(self, _call: Call) -> Response:
        """The response with all series in the Prometheus text format."""
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE)


class QueueMetrics(Exposition):
    """The metrics of a stage's queue. `arrivals`, `items` and `length` count items, not requests."""

    def __init__(self, pipeline: str, stage: str) -> None:
        super().__init__()
        here, labels = self.registry, (pipeline, stage)
        self.arrivals = counter(table.QUEUE_ARRIVALS, here).labels(*labels)
        items = counter(table.QUEUE_ITEMS, here)
        self.items = {outcome: items.labels(*labels, outcome.value) for outcome in Outcome}
        losses = counter(table.QUEUE_LOSSES, here)
        self.losses = {cause: losses.labels(*labels, cause.value) for cause in LossCause}
        self.length = gauge(table.QUEUE_LENGTH, here).labels(*labels)
        self.stage_s = histogram(table.QUEUE_STAGE_SECONDS, here).labels(*labels)
        self.service_s = histogram(table.QUEUE_SERVICE_SECONDS, here).labels(*labels)
        self.batch_size = histogram(table.QUEUE_BATCH_SIZE, here).labels(*labels)
        self.lighter_items = counter(table.QUEUE_LIGHTER_ITEMS, here).labels(*labels)
        self.retries = counter(table.QUEUE_RETRIES, here).labels(*labels)
        self.suspects = gauge(table.QUEUE_SUSPECTS, here).labels(*labels)


class RouterMetrics(Exposition):
    """The metrics of a router, which count requests."""

    def __init__(self, pipeline: str, stages: Sequence[str]) -> None:
        super().__init__()
        here = self.registry
        self.arrivals = counter(table.ROUTER_ARRIVALS, here).labels(pipeline)
        requests = counter(table.ROUTER_REQUESTS, here)
        self.requests = {outcome: requests.labels(pipeline, outcome.value) for outcome in Outcome}
        losses = counter(table.ROUTER_LOSSES, here)
        self.losses = {
            (stage, cause): losses.labels(pipeline, stage, cause.value)
            for stage in stages
            for cause in LossCause
        }
        self.request_s = histogram(table.ROUTER_SECONDS, here).labels(pipeline)
