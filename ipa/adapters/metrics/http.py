"""The metrics of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry

from ipa.metering import table
from ipa.metering.make import counter, gauge, histogram
from ipa.metering.metric import OTHER

STATUSES = table.HTTP_REQUESTS.label("status").values


class HttpMetrics:
    """Metrics of requests by route template. No label holds client input."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._methods: dict[str, frozenset[str]] = {}
        self._requests = counter(table.HTTP_REQUESTS, registry)
        self._seconds = histogram(table.HTTP_SECONDS, registry)
        self.in_flight = gauge(table.HTTP_IN_FLIGHT, registry)

    def start(self, routes: Mapping[str, Sequence[str]]) -> None:
        """Create the series of the routes (template → methods), so that no request adds one."""
        for route, methods in routes.items():
            self._methods[route] = frozenset(methods)
            self._seconds.labels(route)
            for method in (*methods, OTHER):
                for status in STATUSES:
                    self._requests.labels(route, method, status)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request whose answer started after `seconds`.

        `route` is a template given to `start`; a method that it lacks counts as "other".
        """
        known = method if method in self._methods[route] else OTHER
        self._requests.labels(route, known, f"{min(max(status // 100, 1), 5)}xx").inc()
        self._seconds.labels(route).observe(seconds)
