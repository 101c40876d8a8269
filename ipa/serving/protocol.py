"""uvicorn's HTTP/1.1 protocol with deadlines, bounded reading and bounded connections.

uvicorn has no deadline for a request to arrive, reads up to 256 kB of a body that the application did not ask
for, and keeps a connection that sends a byte now and then for ever.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from enum import Enum
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ipa.serving.connections import ACCEPT_BATCH, ACCEPT_QUEUE, Connections, ServerBounds
from ipa.serving.relay import PREFACE, Http2Server, Relay

# Seconds after which a refused client may retry.
RETRY_S = 1


class ConnectionPhase(Enum):
    """The phase of a connection."""

    # Nothing was sent yet, or part of a request's head.
    HEAD = "head"
    BODY = "body"
    # The request is complete and being answered. No deadline here: it is the application's.
    ANSWER = "answer"
    # The request was answered before its body had arrived: the rest is dropped.
    DROP = "drop"
    IDLE = "idle"
    # The connection is closed once what was written has been sent.
    CLOSING = "closing"


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration of a server with bounds; `h2_server` has the connections of HTTP/2."""

    def __init__(
        self,
        app: Any,
        bounds: ServerBounds,
        *,
        backlog: int = ACCEPT_BATCH,
        h2_server: Http2Server | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            # An upgraded connection would leave the registry.
            ws="none",
            backlog=backlog,
            timeout_keep_alive=bounds.idle_s,  # type: ignore[arg-type]
            h11_max_incomplete_event_size=bounds.head_bytes,
            **options,
        )
        self.bounds, self.h2_server = bounds, h2_server
        self.registry = Connections(bounds)
        # One buffer for all connections: a read is handed on before the next one starts.
        self.chunk = memoryview(bytearray(bounds.chunk_bytes))


class BoundedServer(uvicorn.Server):
    """uvicorn's server; the kernel queues more connections than are accepted at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets=sockets)
        for each in sockets or ():
            each.listen(ACCEPT_QUEUE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests in progress, those of HTTP/2 too."""
        h2_server = self.config.h2_server if isinstance(self.config, BoundedConfig) else None
        ending = asyncio.create_task(h2_server.stop()) if h2_server is not None else None
        await super().shutdown(sockets=sockets)
        if ending is not None:
            await ending


class BoundedProtocol(H11Protocol, asyncio.BufferedProtocol):
    """One connection of a server with bounds.

    A BufferedProtocol, since that decides how much is read at once from asyncio's own event loop.
    """

    def __init__(self, config: BoundedConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._bounds, self._registry, self._chunk = config.bounds, config.registry, config.chunk
        self._h2_server = config.h2_server
        self._relay: Relay | None = None
        self._phase: ConnectionPhase | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._dropped_bytes = 0
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection if there is room."""
        super().connection_made(transport)
        _send_at_once(transport.get_extra_info("socket"))
        if self._registry.admit(self, self.client[0] if self.client else ""):
            self._watch()
        else:
            self._close(503, "busy", "the service has as many connections as it can keep")

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self._registry.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._relay is not None:
            self._relay.close()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer to read into."""
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Process the bytes in the buffer."""
        self.data_received(bytes(self._chunk[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Process received bytes. uvloop calls this itself, with any amount."""
        if self.transport.is_closing():
            return
        if self._relay is None and self._h2_server is not None and self.cycle is None and not self._has_begun:
            self._begin_relay(data, self._h2_server)
        if self._relay is not None:
            self._relay.send(data)
            return
        is_dropping = self._phase is ConnectionPhase.DROP
        if is_dropping:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > self._bounds.dropped_bytes:
                self.transport.abort()
                return
        before = self.cycle
        super().data_received(data)
        cycle = self.cycle
        self._has_begun = cycle is before and not is_dropping
        is_unread = cycle is not None and cycle.more_body and not cycle.response_complete
        if is_unread and len(cycle.body) >= self._bounds.chunk_bytes // 2:
            # Reading resumes when the application asks for more.
            self.flow.pause_reading()
        self._watch()

    def _begin_relay(self, data: bytes, server: Http2Server) -> None:
        """Pass the connection on if it begins with HTTP/2; its deadlines are the other server's then."""
        if not data.startswith(PREFACE):
            return
        self._relay = Relay(self.transport, server)
        self._registry.works(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def shutdown(self) -> None:
        """Close the connection once its request is answered; a relay's server closes its own."""
        if self._relay is None:
            super().shutdown()

    def pause_writing(self) -> None:
        """Produce no more: the client is slow."""
        super().pause_writing()
        if self._relay is not None:
            self._relay.pause_reading()

    def resume_writing(self) -> None:
        """Produce more."""
        super().resume_writing()
        if self._relay is not None:
            self._relay.resume_reading()

    def on_response_complete(self) -> None:
        """Continue with the next request of the client, or wait for it."""
        self._has_begun = False
        super().on_response_complete()
        # The deadlines of this class replace uvicorn's.
        self._unset_keepalive_if_required()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, or whose head is too long."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            limit = self._bounds.head_bytes
            self._close(431, "http.headers_too_large", f"the request's head is longer than {limit} bytes")
        else:
            self._close(400, "http.bad_request", f"this is not an HTTP request: {error or msg}"[:200])

    def displace(self) -> None:
        """Close at once, to make room for another connection."""
        if self._phase is ConnectionPhase.BODY:
            self._answer(503, "busy", "the service has as many connections as it can keep")
        self.transport.abort()

    def _now(self) -> ConnectionPhase:
        if self.transport.is_closing():
            return ConnectionPhase.CLOSING
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and self._has_begun and not self._is_dropping()):
            return ConnectionPhase.HEAD
        if not cycle.response_complete:
            return ConnectionPhase.BODY if cycle.more_body else ConnectionPhase.ANSWER
        return ConnectionPhase.DROP if self._is_dropping() else ConnectionPhase.IDLE

    def _is_dropping(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is not h11.DONE

    def _watch(self) -> None:
        """Set the deadline of the phase if the phase has changed."""
        phase = self._now()
        if phase is self._phase:
            return
        self._phase, self._dropped_bytes, self._unsent_bytes = phase, 0, 0
        if phase is ConnectionPhase.ANSWER:
            self._registry.works(self)
        elif phase is not ConnectionPhase.CLOSING:
            self._registry.waits(self)
        self._arm()

    def _arm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        bounds = self._bounds
        seconds = {
            ConnectionPhase.HEAD: bounds.head_s,
            ConnectionPhase.BODY: bounds.body_s,
            ConnectionPhase.DROP: bounds.linger_s,
            ConnectionPhase.IDLE: bounds.idle_s,
            ConnectionPhase.CLOSING: bounds.linger_s,
        }
        if self._phase in seconds:
            self._deadline = self.loop.call_later(seconds[self._phase], self._expire)

    def _expire(self) -> None:
        """Close the connection: its client did not send, or receive, in time."""
        self._deadline = None
        unsent_bytes, before_bytes = self.transport.get_write_buffer_size(), self._unsent_bytes
        self._unsent_bytes = unsent_bytes
        if self._phase is ConnectionPhase.BODY and self.flow.read_paused:
            # The client waits for the application.
            self._deadline = self.loop.call_later(self._bounds.linger_s, self._expire)
        elif self._phase in (ConnectionPhase.IDLE, ConnectionPhase.CLOSING) and unsent_bytes:
            # The client is still receiving the answer if it has received some of it since.
            if self._phase is ConnectionPhase.IDLE and unsent_bytes != before_bytes:
                self._arm()
            else:
                self.transport.abort()
        elif self._phase is ConnectionPhase.BODY:
            self._close(408, "http.timeout", f"the body did not arrive within {self._bounds.body_s:g} s")
        elif self._phase is ConnectionPhase.HEAD and self._has_begun:
            self._close(408, "http.timeout", f"the head did not arrive within {self._bounds.head_s:g} s")
        elif self._phase in (ConnectionPhase.HEAD, ConnectionPhase.IDLE):
            self.transport.close()
            self._watch()
        else:
            self.transport.abort()

    def _close(self, status: int, code: str, detail: str) -> None:
        """Close the connection, with this answer unless another has started."""
        self._answer(status, code, detail)
        self.transport.close()
        self._watch()

    def _answer(self, status: int, code: str, detail: str) -> None:
        """Answer instead of the application, unless its own answer has started."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                return
            # The application's answer is dropped from now on.
            cycle.disconnected = True
            cycle.message_event.set()
        title = HTTPStatus(status).phrase
        problem = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
        body = json.dumps(problem).encode()
        retry = f"Retry-After: {RETRY_S}\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def _send_at_once(connection: socket.socket) -> None:
    """Switch off Nagle's algorithm, which delays the body of an answer by 40 ms after its head.

    asyncio does so only for sockets created with the protocol TCP by name; few listeners are.
    """
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
