"""Bounds on a server's open files, and the registry of its connections that enforces them.

A place is an open file. A connection takes one, and at a proxy each of its requests another: the connection
on which it is passed on, which is kept for further ones. A connection *waits for its client* while it is
idle, has sent only part of a request, or does not take its answer. At a bound, the server closes the
connection that has waited longest. It refuses a new connection, or a request, only if every other one is
being answered.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from typing import Protocol

LOG = logging.getLogger(__name__)
# Files that the rest of the process needs: the store, Prometheus, the cluster, planner processes, the log;
# and connections that the kernel has handed over but that are not registered yet (four rounds of
# ACCEPT_BATCH).
OTHER_FILES = 256
# One event loop cannot use more files; some libraries iterate over the whole limit.
MOST_FILES = 65_536
# Connections that are accepted in one round of the event loop. A connection is read only after the round that
# accepted it, so in a large round newcomers would displace connections that had no chance to send anything.
ACCEPT_BATCH = 32
# Connections that the kernel queues until they are accepted.
ACCEPT_QUEUE = 1024
# The last tenth of the places is for addresses that hold fewer than this many: probes and newcomers.
FEW = 4
# Seconds between two log lines about connections that were refused or closed to make room.
LOG_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class ServerBounds:
    """Bounds of a server. The defaults are those of the API."""

    # Places of connections and their requests, in all and from one address.
    connections: int = 1000
    address_connections: int = 250
    # Places of a request: 1 for a server that passes each on over a connection.
    request_places: int = 0
    # Seconds for a request's head to arrive, from accept or from its first byte on a kept connection.
    head_s: float = 5.0
    # Seconds for its body, from then on, while the server is ready to read it.
    body_s: float = 7.0
    # Seconds that a connection is kept between two requests. uvicorn's default.
    idle_s: float = 5.0
    # Seconds for a client to take the rest of an answer after its connection was told to close, or for the
    # rest of a request that was answered before it had arrived.
    linger_s: float = 1.0
    # Most bytes of a request's head.
    head_bytes: int = 40 << 10
    # Bytes read from a connection at once. It may hold half as many more that the application has not taken.
    chunk_bytes: int = 16 << 10
    # Bytes of a body that are read and dropped after the request was answered.
    dropped_bytes: int = 128 << 10


def raise_file_limit() -> int:
    """Raise the soft limit of open files towards the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        LOG.warning("the limit of open files stays at %d: %s", soft, error)
        return soft
    return wanted


def within_files(bounds: ServerBounds, files: int) -> ServerBounds:
    """Return the bounds, lowered if necessary so that connections leave room within `files` open files."""
    room = max(files - OTHER_FILES, files // 4)
    if bounds.connections <= room:
        return bounds
    LOG.warning(
        "at most %d connections instead of %d: the process may open %d files; raise its limit (ulimit -n)",
        room,
        bounds.connections,
        files,
    )
    each = max(bounds.address_connections * room // bounds.connections, 1)
    return replace(bounds, connections=room, address_connections=each)


def address_group(host: str) -> str:
    """Return the group that connections are counted under: of IPv6 the /64, which one client owns."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


class Connection(Protocol):
    """A registered connection."""

    def displace(self) -> None:
        """Close immediately, to make room for another."""


class Connections:
    """The open connections of one server. Not thread-safe: for its event loop only."""

    def __init__(
        self,
        bounds: ServerBounds,
        now_s: Callable[[], float] = time.monotonic,
        *,
        passing: Callable[[], int] = lambda: 0,
    ) -> None:
        """`passing` returns the connections on which requests are passed on, or that are kept for that."""
        self._bounds, self._now_s, self._passing = bounds, now_s, passing
        self._groups: dict[Connection, str] = {}
        # Places of requests by connection and in all; those of requests and connections by group.
        self._requests: Counter[Connection] = Counter()
        self._requested = 0
        self._count: Counter[str] = Counter()
        # Those that wait for their client, the longest-waiting first.
        self._waiting: dict[Connection, None] = {}
        self.refused = 0
        self.displaced = 0
        self._told = 0
        self._told_s = now_s() - LOG_EVERY_S

    def __len__(self) -> int:
        """The places that are taken."""
        return self._taken(0, 0)

    def admit(self, connection: Connection, host: str) -> bool:
        """Register the connection; if there is no room, in place of one that waits for its client.

        Return False, without registering it, if every other connection is being answered.
        """
        group = address_group(host)
        if not self._make_room(connection, group, 1, 0):
            return False
        self._groups[connection] = group
        self._count[group] += 1
        return True

    def begin_request(self, connection: Connection) -> bool:
        """Take the places of a request; False if there are none, or if the connection has been closed."""
        group, places = self._groups.get(connection), self._bounds.request_places
        if group is None or not self._make_room(connection, group, 0, places):
            return False
        self._count_requests(connection, places)
        return True

    def end_request(self, connection: Connection) -> None:
        """Return the places of a request on the connection."""
        if connection in self._groups:
            self._count_requests(connection, -self._bounds.request_places)

    def forget(self, connection: Connection) -> None:
        """Remove the connection from the registry if it is registered."""
        self.works(connection)
        if connection in self._groups:
            self._count_requests(connection, -self._requests[connection])
            del self._requests[connection]
            group = self._groups.pop(connection)
            self._count[group] -= 1
            if not self._count[group]:
                del self._count[group]

    def waits(self, connection: Connection) -> None:
        """Note that the connection waits for its client from now on."""
        self.works(connection)
        if connection in self._groups:
            self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """Note that a request of the connection is complete and being answered."""
        self._waiting.pop(connection, None)

    def _taken(self, connections: int, requests: int) -> int:
        """The places that are taken, with so many more of connections and of requests."""
        return len(self._groups) + connections + max(self._requested + requests, self._passing())

    def _count_requests(self, connection: Connection, places: int) -> None:
        self._requests[connection] += places
        self._count[self._groups[connection]] += places
        self._requested += places

    def _make_room(self, asking: Connection, group: str, connections: int, requests: int) -> bool:
        """Close connections that wait until the group may have so many places more; False: too few wait."""
        while (rivals := self._rivals(group, connections, requests)) is not None:
            victim = next((each for each in rivals if each is not asking), None)
            if victim is None:
                self.refused += 1
                self._tell()
                return False
            self._displace(victim)
        return True

    def _displace(self, victim: Connection) -> None:
        self.displaced += 1
        self._tell()
        self.forget(victim)
        victim.displace()

    def _rivals(self, group: str, connections: int, requests: int) -> Iterator[Connection] | None:
        """Those of which one has to make room for so many places more of the group; None: there is room."""
        held = self._count[group]
        if held + connections + requests > self._bounds.address_connections:
            return (each for each in self._waiting if self._groups[each] == group)
        spare = self._bounds.connections // 10 if held >= FEW else 0
        is_full = self._taken(connections, requests) > self._bounds.connections - spare
        return iter(self._waiting) if is_full else None

    def _tell(self) -> None:
        """Log the number of refused and closed connections, at most once in `LOG_EVERY_S`."""
        total, now_s = self.refused + self.displaced, self._now_s()
        if now_s - self._told_s >= LOG_EVERY_S:
            LOG.warning(
                "%d connections were refused or closed to make room: %d are open, of at most %d in all and %d"
                " from one address",
                total - self._told,
                len(self),
                self._bounds.connections,
                self._bounds.address_connections,
            )
            self._told, self._told_s = total, now_s
