"""The replicas behind a host name: a headless Service answers with the address of each ready pod."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

log = logging.getLogger("ipa.dataplane")

# A pod that became ready is used after this; DNS in a cluster keeps answers for 5 to 30 s besides.
LOOK_EVERY_S = 1.0

# (host, port) -> its addresses; OSError where there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host; OSError where the name is not known."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """Tells a queue, again and again, the replicas behind the base URL of their Service.

    Where the name cannot be resolved the last known replicas stay: one that is gone is found by sending.
    """

    def __init__(self, url: str, found: Callable[[tuple[str, ...]], None], lookup: Resolve = resolve) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._found = found
        self._resolve = lookup
        self._last: tuple[str, ...] = ()

    async def look(self) -> None:
        """Resolve once, and tell where the answer differs from the last."""
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
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
