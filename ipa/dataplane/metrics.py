"""The metrics of the queue and the router. Every series exists from the start, except those of variants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from copy import copy
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter, generate_latest

from ipa.dataplane.http import FIRST_PART, Call, Response
from ipa.metering import table
from ipa.metering.make import counter, gauge, histogram, new_registry
from ipa.serving.batching import LossCause, Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A scraper sends its request at once.
SCRAPE_REQUEST_S = 2.0
# Scrapes at once; others wait in the socket.
MOST_SCRAPES = 8


class Exposition:
    """A registry and the handler of /metrics. Some series belong to a part: the first, or `of_part`'s."""

    def __init__(self) -> None:
        self.registry = new_registry()

    def of_part(self, part: str) -> Self:
        """The metrics of that part, on the same registry."""
        made = copy(self)
        made._label(part)
        return made

    def _label(self, part: str) -> None:
        """Choose the series of the part."""

    async def handle(self, _call: Call) -> Response:
        """The response with all series in the Prometheus text format."""
        return Response(generate_latest(self.registry), content_type=CONTENT_TYPE)


class QueueMetrics(Exposition):
    """The metrics of a stage's queue. `arrivals`, `items` and `length` count items, not requests."""

    def __init__(self, pipeline: str, stage: str) -> None:
        super().__init__()
        here, labels = self.registry, (pipeline, stage)
        self._labels = labels
        items = counter(table.QUEUE_ITEMS, here)
        self.items = {outcome: items.labels(*labels, outcome.value) for outcome in Outcome}
        losses = counter(table.QUEUE_LOSSES, here)
        self.losses = {cause: losses.labels(*labels, cause.value) for cause in LossCause}
        self._variant_items = counter(table.QUEUE_VARIANT_ITEMS, here)
        self.retries = counter(table.QUEUE_RETRIES, here).labels(*labels)
        self.suspects = gauge(table.QUEUE_SUSPECTS, here).labels(*labels)
        self._arrivals = counter(table.QUEUE_ARRIVALS, here)
        self._length = gauge(table.QUEUE_LENGTH, here)
        self._stage_s = histogram(table.QUEUE_STAGE_SECONDS, here)
        self._service_s = histogram(table.QUEUE_SERVICE_SECONDS, here)
        self._batch_size = histogram(table.QUEUE_BATCH_SIZE, here)
        self._label(FIRST_PART)

    def variant_items(self, variant: str) -> Counter:
        """The items that the variant answered."""
        return self._variant_items.labels(*self._labels, variant)

    def _label(self, part: str) -> None:
        labels = (*self._labels, part)
        self.arrivals = self._arrivals.labels(*labels)
        self.length = self._length.labels(*labels)
        self.stage_s = self._stage_s.labels(*labels)
        self.service_s = self._service_s.labels(*labels)
        self.batch_size = self._batch_size.labels(*labels)


class RouterMetrics(Exposition):
    """The metrics of a router, which count requests."""

    def __init__(self, pipeline: str, stages: Sequence[str]) -> None:
        super().__init__()
        here = self.registry
        self.arrivals = counter(table.ROUTER_ARRIVALS, here).labels(pipeline)
        losses = counter(table.ROUTER_LOSSES, here)
        self.losses = {
            (stage, cause): losses.labels(pipeline, stage, cause.value)
            for stage in stages
            for cause in LossCause
        }
        self._pipeline = pipeline
        self._requests = counter(table.ROUTER_REQUESTS, here)
        self._request_s = histogram(table.ROUTER_SECONDS, here)
        self._label(FIRST_PART)

    def _label(self, part: str) -> None:
        labels = (self._pipeline, part)
        self.requests = {outcome: self._requests.labels(*labels, outcome.value) for outcome in Outcome}
        self.request_s = self._request_s.labels(*labels)


class MetricsThread(ThreadingMixIn, HTTPServer):
    """A server of GET /metrics over an already listening socket, from `start` on.

    It answers in threads, since the event loop may be busy for seconds.
    """

    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        class Handler(BaseHTTPRequestHandler):
            """The handler of one scrape."""

            timeout = SCRAPE_REQUEST_S

            def do_GET(self) -> None:
                """Answer with all series in the Prometheus text format."""
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("content-type", CONTENT_TYPE)
                self.end_headers()
                self.wfile.write(generate_latest(registry))

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: scrapes come every second."""

        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)

    def start(self) -> None:
        """Serve in a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, once fewer than the most are running."""
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then let another thread start."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a scraper that disconnects is not an error of this server."""
