"""The replicas behind a host name: a headless Service answers with the address of each ready pod."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

log = logging.getLogger("ipa.dataplane")

# A new ready pod is used after this, plus the 5 to 30 s for which the DNS of a cluster caches answers.
LOOK_EVERY_S = 1.0

# (host, port) -> its addresses; OSError if there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; OSError if the name is not known."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """A poller that reports the replicas behind the base URL of their Service to a queue.

    If the name cannot be resolved, the last known replicas stay: sending to one finds out if it is gone.
    """

    def __init__(self, url: str, found: Callable[[tuple[str, ...]], None], lookup: Resolve = resolve) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._found = found
        self._resolve = lookup
        self._last: tuple[str, ...] = ()

    async def look(self) -> None:
        """Resolve once, and report the replicas if they differ from the last report."""
        try:
            addresses = await self._resolve(self._host, self._port)
        except OSError as error:
            log.debug("%s cannot be resolved: %s", self._host, error)
            return
        urls = tuple(sorted({f"http://{_bracketed(address)}:{self._port}" for address in addresses}))
        if urls and urls != self._last:
            self._last = urls
            self._found(urls)

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
