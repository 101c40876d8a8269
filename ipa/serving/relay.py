"""Connections that begin with HTTP/2, as those of gRPC do, passed to another server of this process."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

LOG = logging.getLogger(__name__)

# The beginning of a connection whose client knows that the server speaks HTTP/2 (RFC 9113, 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n"
HOST = "127.0.0.1"


class Http2Server(Protocol):
    """A server of HTTP/2 on a port of this machine that only this process is to use."""

    async def start(self) -> int:
        """Listen, if it does not yet, and return the port. OSError: it cannot."""

    async def stop(self) -> None:
        """Accept no more calls, and wait for those in progress."""


class Relay(asyncio.Protocol):
    """The far end of a client's connection: bytes pass both ways, as fast as the slower side reads."""

    def __init__(self, client: asyncio.Transport, server: Http2Server) -> None:
        self._client, self._server = client, server
        self._far: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._is_closed = False
        # Nothing more is read until there is somewhere to write it.
        client.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            port = await self._server.start()
            await asyncio.get_running_loop().create_connection(lambda: self, HOST, port)
        except OSError as error:
            LOG.warning("a connection of HTTP/2 cannot be served: %s", error)
            self._client.close()

    def send(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._far is None:
            self._held.append(data)
        else:
            self._far.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what the client has sent meanwhile."""
        # uvloop's is no subclass.
        self._far = far = cast(asyncio.Transport, transport)
        if self._is_closed:
            far.abort()
            return
        far.write(b"".join(self._held))
        self._held.clear()
        self._client.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on what the server answers."""
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the client's connection, once it has been sent all."""
        self._client.close()

    def pause_writing(self) -> None:
        """Read no more of the client: the server is slower."""
        self._client.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._client.resume_reading()

    def pause_reading(self) -> None:
        """Read no more of the server: the client is slower."""
        if self._far is not None:
            self._far.pause_reading()

    def resume_reading(self) -> None:
        """Read on of the server."""
        if self._far is not None:
            self._far.resume_reading()

    def close(self) -> None:
        """Close the far end: the client has gone."""
        self._is_closed = True
        self._opening.cancel()
        if self._far is not None:
            self._far.close()
