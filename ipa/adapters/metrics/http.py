"""The metrics of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry

from ipa.metering import table
from ipa.metering.make import counter, gauge, histogram

METHOD = table.HTTP_REQUESTS.label("method")
STATUSES = table.HTTP_REQUESTS.label("status").values


class HttpMetrics:
    """Requests by route template. No label is what a client wrote."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = counter(table.HTTP_REQUESTS, registry)
        self._seconds = histogram(table.HTTP_SECONDS, registry)
        self.in_flight = gauge(table.HTTP_IN_FLIGHT, registry)

    def start(self, routes: Mapping[str, Sequence[str]]) -> None:
        """Make the series of the routes, given by template with their methods."""
        for route, methods in routes.items():
            self._seconds.labels(route)
            for method in methods:
                for status in STATUSES:
                    self._requests.labels(route, METHOD.known(method), status)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request whose answer began after so long; `route` is a template that was started."""
        self._requests.labels(route, METHOD.known(method), f"{min(max(status // 100, 1), 5)}xx").inc()
        self._seconds.labels(route).observe(seconds)
