"""The context of the HTTP application: the service, and parts that only HTTP needs, such as streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter
from prometheus_client import REGISTRY, CollectorRegistry

from ipa.api.limits import ApiLimits
from ipa.control.audit.record import FollowedRecord, RecordFeed
from ipa.metering import table
from ipa.metering.make import Figures, counter, gauge, histogram
from ipa.metering.metric import OTHER
from ipa.model.errors import BusyError, UnavailableError
from ipa.service.service import Service

if TYPE_CHECKING:
    from ipa.bootstrap.identity import Identities


@dataclass
class Streams:
    """The clients that follow events or take an export. For use in the server's event loop only."""

    feed: RecordFeed
    # Each takes a connection, and reads the feed at every poll.
    most: int = 100
    # Enough for some programs of one identity.
    each: int = 10
    # Proxies close a connection that is silent for a minute.
    heartbeat_s: float = 15.0
    # Seconds after which a client that takes nothing is dropped.
    send_s: float = 10.0
    # Seconds after which a stream ends; the client connects again.
    longest_s: float = 3600.0
    # Seconds between two checks of the client's rights; a stream ends within twice this time.
    check_s: float = 0.8
    # Seconds for which a stream goes on while the rights cannot be checked, as reads do.
    unsure_s: float = 60.0
    stopping: Callable[[], bool] = lambda: False
    open: int = 0
    dropped: int = 0
    # Streams that ended since the client lost its rights.
    ended: int = 0
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
    _clients: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place for a stream of the client. BusyError, UnavailableError: no place is free."""
        if self._clients[client] >= self.each:
            raise BusyError(
                f"{client} has {self.each} streams open, the most allowed",
                hint="Close one; a stream can follow all pipelines at once.",
            )
        if self.open >= self.most:
            raise UnavailableError("the service has no room for another stream", hint="Try again later.")
        self.open += 1
        self._clients[client] += 1
        try:
            yield
        finally:
            self.open -= 1
            self._clients[client] -= 1
            self._clients += Counter()


def stream_figures(streams: Streams) -> Figures:
    """Return the metrics of the event streams."""
    return Figures((table.STREAMS, lambda: streams.open), (table.STREAMS_DROPPED, lambda: streams.dropped))


# The label of requests without a route.
UNMATCHED = "unmatched"
STATUSES = table.HTTP_REQUESTS.label("status").values


class HttpMetrics:
    """Metrics of requests by route template and class of status. No label holds client input."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._methods: dict[str, set[str]] = {}
        self._requests = counter(table.HTTP_REQUESTS, registry)
        self._seconds = histogram(table.HTTP_SECONDS, registry)
        self.in_flight = gauge(table.HTTP_IN_FLIGHT, registry)

    def start(self, routes: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Create the series of the routes (template, methods), so that no request adds one."""
        for route, methods in (*routes, (UNMATCHED, ("GET",))):
            self._methods.setdefault(route, set()).update(methods)
        for route, known in self._methods.items():
            self._seconds.labels(route)
            for method in (*known, OTHER):
                for status in STATUSES:
                    self._requests.labels(route, method, status)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request whose answer started after `seconds`.

        A route that was not given to `start` counts as unmatched, a method that it lacks as "other".
        """
        known = route if route in self._methods else UNMATCHED
        by = method if method in self._methods[known] else OTHER
        self._requests.labels(known, by, f"{min(max(status // 100, 1), 5)}xx").inc()
        self._seconds.labels(known).observe(seconds)


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The service, limits, metrics and authentication of one application."""

    service: Service
    limits: ApiLimits = field(default_factory=ApiLimits)
    registry: CollectorRegistry = field(default=REGISTRY)
    # None if requests are not counted.
    http: HttpMetrics | None = None
    # Empty if authentication is off.
    authenticators: tuple[Identities, ...] = ()
    # True if the metrics need no token.
    metrics_open: bool = True
    # The record and the clients that follow it; None without a record.
    record: FollowedRecord | None = None
    streams: Streams | None = None
