"""uvicorn's HTTP/1.1 protocol with deadlines, bounded reading and bounded connections.

uvicorn has no deadline for a request to arrive, reads up to 256 kB of a body that the application did not ask
for, and keeps a connection that sends a byte now and then for ever.
"""

from __future__ import annotations

import asyncio
import json
import socket
from enum import Enum
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ipa.serving.body_budget import RETRY_S, aside, give_back_bodies, give_back_memory
from ipa.serving.connections import ACCEPT_BATCH, ACCEPT_QUEUE, Connections, ServerBounds

# Status, code and detail for a client that finds no place.
BUSY = (503, "busy", "the service has the most connections that it can keep")
# For a client that begins with the preface of HTTP/2, as those of gRPC do, and llhttp's word for that.
ONLY_HTTP_1 = (505, "http.version", "only HTTP/1.1 is spoken here, not HTTP/2 or gRPC: send it over HTTP/1.1")
HTTP2_PREFACE = "PRI/Upgrade"
# Requests that a client may send before the first of them is answered. Each takes a hundred times the memory
# of its text; clients that pipeline send ten or so.
MOST_PIPELINED = 64
# This many closed connections leave their memory to new ones: 10 kB each, 0.2 MB if a body arrived.
KEPT_CONNECTIONS = 200
# The resolution of the clocks of event loops: a timer may fire so much early.
CLOCK_S = 0.001


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
    """uvicorn's configuration of a server with bounds."""

    def __init__(
        self,
        app: Any,
        bounds: ServerBounds,
        *,
        backlog: int = ACCEPT_BATCH,
        **options: Any,
    ) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            # An upgraded connection would leave the registry.
            ws="none",
            backlog=backlog,
            timeout_keep_alive=bounds.idle_s,  # type: ignore[arg-type]
            **options,
        )
        self.bounds = bounds
        self.registry = Connections(bounds)
        # The longest seconds of each phase; None: no limit.
        self.longest_s = {
            ConnectionPhase.HEAD: bounds.head_s,
            ConnectionPhase.BODY: bounds.body_s,
            ConnectionPhase.ANSWER: None,
            ConnectionPhase.DROP: bounds.linger_s,
            ConnectionPhase.IDLE: bounds.idle_s,
            ConnectionPhase.CLOSING: bounds.linger_s,
        }
        # One buffer for all connections: a read is handed on before the next one starts.
        self.chunk = memoryview(bytearray(bounds.chunk_bytes))


class BoundedServer(uvicorn.Server):
    """uvicorn's server; the kernel queues more connections than are accepted at once."""

    config: BoundedConfig
    # The most connections since memory was given back.
    _most = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        give_back_bodies()
        await super().startup(sockets=sockets)
        for each in sockets or ():
            each.listen(ACCEPT_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """Return the memory of many closed connections; uvicorn calls it ten times a second."""
        count = len(self.server_state.connections)
        self._most = max(self._most, count)
        if self._most - count > KEPT_CONNECTIONS:
            self._most = count
            await aside(True, give_back_memory)
        return await super().on_tick(counter)


class UnacceptableRequestError(Exception):
    """A request that the parser accepts but the server refuses; the connection is then closed."""


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection of a server with bounds.

    It is a BufferedProtocol, which can limit how much asyncio's own event loop reads at once.
    """

    config: BoundedConfig

    def __init__(self, config: BoundedConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._bounds, self._registry, self._chunk = config.bounds, config.registry, config.chunk
        self._phase: ConnectionPhase | None = None
        # When the phase is to end, if it has an end; the timer for that, or for an earlier phase's.
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        # The request that is being answered, or was last. `cycle` is the last one of which the head came.
        self._answered: RequestResponseCycle | None = None
        # The part of a request that is being read.
        self._is_in_head = self._is_in_body = False
        # Bytes since the last that were passed on: of a head, the size of a chunk, a trailer.
        self._pending_bytes = 0
        # True once the rest of the connection cannot be parsed, and is not read.
        self._is_unreadable = False
        self._dropped_bytes = 0
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection if there is room."""
        super().connection_made(transport)
        accepted = transport.get_extra_info("socket")
        if accepted.family in (socket.AF_INET, socket.AF_INET6):
            # Nagle's algorithm delays the body of an answer by 40 ms after its head. asyncio switches it off
            # only for sockets created with the protocol TCP by name; few listeners are.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._registry.admit(self, self.client[0] if self.client else ""):
            self._watch()
        else:
            self._close(*BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self._registry.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._answered is not None and self._answered is not self.cycle:
            self._answered.disconnected = True
            self._answered.message_event.set()
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
        if self._phase is ConnectionPhase.DROP:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > self._bounds.dropped_bytes:
                self.transport.abort()
                return
        if not self._is_unreadable:
            self._parse(data)
        self._watch()
        cycle = self._answered
        if cycle and self._phase is ConnectionPhase.BODY and len(cycle.body) >= self._bounds.chunk_bytes // 2:
            # Reading resumes when the application asks for more.
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # No other protocol is spoken here: the request is answered as if it did not ask for one.
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                own = error.__context__
                if own is None and HTTP2_PREFACE in str(error):
                    self._refuse(*ONLY_HTTP_1)
                    return
                self._refuse(400, "http.bad_request", f"this is not an HTTP request: {own or error}"[:200])
                return
        if self._pending_bytes > self._bounds.head_bytes:
            limit = self._bounds.head_bytes
            self._refuse(431, "http.headers_too_large", f"the request's head is longer than {limit} bytes")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Close the connection, with this answer, or with those to earlier complete requests."""
        self._is_unreadable = True
        if self._answered is None or self._answered.response_complete or self._answered.more_body:
            self._close(status, code, detail)
        elif self.pipeline and self._is_in_body:
            # The last queued request is the one that cannot be read.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered
            self.cycle.keep_alive = False
        else:
            self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        """Begin to read the head of a request."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise UnacceptableRequestError(f"more than {MOST_PIPELINED} requests wait for their answers")
        self._is_in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; ignore a trailer, which comes after the body."""
        if self._is_in_head:
            self.headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        """Begin to answer the request, or let it wait for earlier ones."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            # Other servers may choose another one of them.
            raise UnacceptableRequestError(f"the request has {hosts} Host headers")
        super().on_headers_complete()
        self._is_in_head, self._is_in_body, self._pending_bytes = False, True, 0

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._is_in_body, self._pending_bytes = False, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Continue with the next request of the client, or wait for it.

        The deadlines of this class replace uvicorn's.
        """
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        self._watch()

    def displace(self) -> None:
        """Close at once, to make room for another connection."""
        if self._phase is ConnectionPhase.BODY:
            self._answer(*BUSY)
        self.transport.abort()

    def _now(self) -> ConnectionPhase:
        if self.transport.is_closing():
            return ConnectionPhase.CLOSING
        cycle = self._answered
        if cycle is not None and not cycle.response_complete:
            return ConnectionPhase.BODY if cycle.more_body else ConnectionPhase.ANSWER
        if self._is_in_body:
            return ConnectionPhase.DROP
        return ConnectionPhase.HEAD if cycle is None or self._is_in_head else ConnectionPhase.IDLE

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
        self._arm(self.config.longest_s[phase])

    def _arm(self, seconds: float | None) -> None:
        """End the phase after that many seconds; None: never.

        An earlier timer is kept and checks the phase again: that is cheaper than a new one with each request.
        """
        if seconds is None:
            self._due_s = None
            return
        self._due_s = self.loop.time() + seconds
        if self._timer is not None and self._timer_s > self._due_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._set_timer(self._due_s)

    def _set_timer(self, at_s: float) -> None:
        # Stored here, since a timer of uvloop that is due at once does not know its time.
        self._timer, self._timer_s = self.loop.call_at(at_s, self._look), at_s

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self.loop.time() < self._due_s - CLOCK_S:
            self._set_timer(self._due_s)
        else:
            self._expire()

    def _expire(self) -> None:
        """Close the connection: its client did not send, or receive, in time."""
        unsent_bytes, before_bytes = self.transport.get_write_buffer_size(), self._unsent_bytes
        self._unsent_bytes = unsent_bytes
        if self._phase is ConnectionPhase.BODY and self.flow.read_paused:
            # The client waits for the application.
            self._arm(self._bounds.linger_s)
        elif self._phase in (ConnectionPhase.IDLE, ConnectionPhase.CLOSING) and unsent_bytes:
            # The client is still receiving the answer if it has received some of it since.
            if self._phase is ConnectionPhase.IDLE and unsent_bytes != before_bytes:
                self._arm(self._bounds.idle_s)
            else:
                self.transport.abort()
        elif self._phase is ConnectionPhase.BODY:
            self._close(408, "http.timeout", f"the body did not arrive within {self._bounds.body_s:g} s")
        elif self._phase is ConnectionPhase.HEAD and self._is_in_head:
            self._close(408, "http.timeout", f"the head did not arrive within {self._bounds.head_s:g} s")
        elif self._phase in (ConnectionPhase.HEAD, ConnectionPhase.IDLE):
            self.transport.close()
            self._watch()
        else:
            self.transport.abort()

    def _close(self, status: int, code: str, detail: str) -> None:
        """Close the connection, with this answer unless another one has started."""
        self._answer(status, code, detail)
        self.transport.close()
        self._watch()

    def _answer(self, status: int, code: str, detail: str) -> None:
        """Answer instead of the application, unless its own answer has started."""
        cycle = self._answered
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
