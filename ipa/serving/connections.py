"""Bounds on a server's open files, and the registry of its connections that enforces them.

A connection *waits for its client* while it is idle, has sent only part of a request, or does not take its
answer. At a bound, the server closes the connection that has waited longest. It refuses a new connection only
if every other one is being answered.
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
# The last tenth of the connections is for addresses that hold fewer than this many: probes and newcomers.
FEW = 4
# Seconds between two log lines about connections that were refused or closed to make room.
LOG_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class ServerBounds:
    """Bounds of a server. The defaults are those of the API."""

    # In all and from one address.
    connections: int = 1000
    address_connections: int = 250
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
        """Close immediately, to make room for another connection."""


class Connections:
    """The open connections of one server. Not thread-safe: for its event loop only."""

    def __init__(self, bounds: ServerBounds, now_s: Callable[[], float] = time.monotonic) -> None:
        self._bounds, self._now_s = bounds, now_s
        self._groups: dict[Connection, str] = {}
        self._count: Counter[str] = Counter()
        # Those that wait for their client, the longest-waiting first.
        self._waiting: dict[Connection, None] = {}
        self.refused = 0
        self.displaced = 0
        self._logged = 0
        self._logged_s = now_s() - LOG_EVERY_S

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._groups)

    def admit(self, connection: Connection, host: str) -> bool:
        """Register the connection; if there is no room, in place of one that waits for its client.

        Return False, without registering it, if every other connection is being answered.
        """
        group = address_group(host)
        while (rivals := self._rivals(group)) is not None:
            victim = next(rivals, None)
            if victim is None:
                self.refused += 1
                self._tell()
                return False
            self.displaced += 1
            self._tell()
            self.forget(victim)
            victim.displace()
        self._groups[connection] = group
        self._count[group] += 1
        return True

    def forget(self, connection: Connection) -> None:
        """Remove the connection from the registry if it is registered."""
        self.works(connection)
        if connection in self._groups:
            group = self._groups.pop(connection)
            self._count[group] -= 1
            if not self._count[group]:
                del self._count[group]

    def waits(self, connection: Connection) -> None:
        """Record that the connection waits for its client from now on."""
        self.works(connection)
        if connection in self._groups:
            self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """Record that a request of the connection is complete and being answered."""
        self._waiting.pop(connection, None)

    def _rivals(self, group: str) -> Iterator[Connection] | None:
        """The connections of which one must close before the group gets one more; None: there is room."""
        held = self._count[group]
        if held >= self._bounds.address_connections:
            return (each for each in self._waiting if self._groups[each] == group)
        spare = self._bounds.connections // 10 if held >= FEW else 0
        return iter(self._waiting) if len(self) >= self._bounds.connections - spare else None

    def _tell(self) -> None:
        """Log the number of refused and closed connections, at most once in `LOG_EVERY_S`."""
        total, now_s = self.refused + self.displaced, self._now_s()
        if now_s - self._logged_s >= LOG_EVERY_S:
            LOG.warning(
                "%d connections were refused or closed to make room: %d are open, of at most %d in all and %d"
                " from one address",
                total - self._logged,
                len(self),
                self._bounds.connections,
                self._bounds.address_connections,
            )
            self._logged, self._logged_s = total, now_s
