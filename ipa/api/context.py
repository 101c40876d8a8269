"""The context of the HTTP application: the service, and the parts that belong to HTTP alone, as streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter
from prometheus_client import REGISTRY, CollectorRegistry

from ipa.api.limits import ApiLimits
from ipa.api.metered import HttpMetrics
from ipa.control.audit.feed import FollowedRecord, RecordFeed
from ipa.metering import table
from ipa.metering.make import Figures
from ipa.model.errors import BusyError, UnavailableError
from ipa.service.service import Service

if TYPE_CHECKING:
    from ipa.bootstrap.identity import Identities


@dataclass
class Streams:
    """The clients that follow the feed or take an export. For the server's event loop alone."""

    feed: RecordFeed
    # Each takes a connection, and reads the feed at every poll.
    most: int = 100
    # A page takes one: enough for some tabs and programs of one identity.
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
        """A place for a stream of the client. BusyError, UnavailableError: there is none."""
        if self._clients[client] >= self.each:
            raise BusyError(
                f"{client} has {self.each} streams open, the most allowed",
                hint="Close one; a stream can follow all pipelines at once.",
            )
        if self.open >= self.most:
            raise UnavailableError("the most streams allowed are open", hint="Try again later.")
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
