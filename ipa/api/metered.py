"""Metrics of the API's requests, by route template and class of status."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.metering import table
from ipa.metering.make import counter, gauge, histogram
from ipa.metering.metric import OTHER

# The label of requests without a route.
UNMATCHED = "unmatched"
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


def count_requests(app: Starlette, metrics: HttpMetrics) -> None:
    """Have the application count its requests, and create the series of its routes."""
    routes = tuple(app.routes)
    metrics.start({**dict(_templates(routes)), UNMATCHED: ("GET",)})
    app.add_middleware(Metered, metrics=metrics, routes=routes)


class Metered:
    """Middleware that counts requests. Their time ends when the answer begins, since streams do not end."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, routes: Sequence[BaseRoute]) -> None:
        self._app, self._metrics = app, metrics
        self._routes, self._templates = routes, dict(_templates(routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        # Without an answer: the client has gone, or the server failed.
        status, seconds = 500, 0.0

        async def seen(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.monotonic() - began_s
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, seen)
        finally:
            self._metrics.in_flight.dec()
            seconds = seconds or time.monotonic() - began_s
            self._metrics.answered(self._route(scope), scope["method"], status, seconds)

    def _route(self, scope: Scope) -> str:
        """The template of the route that took the request, or would have if it was refused before."""
        route = scope.get("route")
        if route is None:
            fits = (each for each in self._routes if each.matches(scope)[0] is not Match.NONE)
            route = next(fits, None)
        template = getattr(route, "path", "")
        return template if template in self._templates else UNMATCHED


def _templates(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The templates with their methods; of a folder of files its path."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        if isinstance(route, Route):
            methods.setdefault(route.path, set()).update(route.methods or ())
        elif isinstance(route, Mount):
            methods.setdefault(route.path, set()).add("GET")
    for path, found in methods.items():
        yield path, tuple(sorted(found))
