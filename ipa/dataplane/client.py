"""The HTTP client of the queue and the router: HTTP/1.1 over persistent connections, and nothing more.

A general client costs several times as much CPU time for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httptools

# The caller gives up much earlier, at the deadline. This bound closes a connection whose peer vanished.
LONGEST_ANSWER_S = 600.0
# Within one network a connection takes milliseconds; a retry may reach another pod.
CONNECT_S = 1.0
# MLServer closes idle connections after 5 s: close earlier, or a request may be written to a closing one.
IDLE_S = 4.0
# As large as the largest request.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# Servers write less than 1 kB.
MAX_HEAD_BYTES = 64 * 1024
# The headers that tell where a body ends; without them it ends with the connection.
FRAMING = ("content-length", "transfer-encoding")
Answer = tuple[int, bytes, Mapping[str, str]]
Place = tuple[str, int]


class ConnectionLostError(Exception):
    """The connection was refused, or broke without an answer. With `was_sent` the server may have acted."""

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class OversizedAnswerError(Exception):
    """The answer has more than MAX_ANSWER_BYTES."""


class MalformedAnswerError(Exception):
    """The answer is not HTTP/1.1, or arrives without a request."""


class ClientConnection(asyncio.Protocol):
    """A connection to a server, with one request on it at a time.

    `sent_s` is the time at which that request was sent, `idle_s` the time at which the last one ended.
    """

    def __init__(self, max_answer_bytes: int) -> None:
        self.sent_s = self.idle_s = 0.0
        self.is_usable = True
        self._max_answer_bytes = max_answer_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_in_body = False
        # Bytes since the last that were passed on: of a head, the size of a chunk, a trailer.
        self._pending_bytes = 0

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request and return its answer. ConnectionLostError, OversizedAnswerError: there is none."""
        assert self._transport is not None, "it is connected"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        is_answered = False
        try:
            answer = await self._answer
            is_answered = True
        finally:
            self._answer = None
            if not is_answered:
                self.abort()
        return answer

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: Exception) -> None:
        """End the request with that error, unless it has ended."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is no subclass of asyncio's."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse a part of the answer."""
        self._pending_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._pending_bytes > MAX_HEAD_BYTES:
                raise MalformedAnswerError(f"its head is longer than {MAX_HEAD_BYTES} bytes")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, MalformedAnswerError) as error:
            # The error that a parser callback raised, or else the parser's own.
            own = error.__context__
            if not isinstance(own, OversizedAnswerError | MalformedAnswerError):
                own = MalformedAnswerError(str(own or error))
            self.fail(own)
            # Unrequested data would be taken for the next answer.
            self.abort()

    def on_message_begin(self) -> None:
        """Begin the head of an answer. MalformedAnswerError: no request was sent."""
        if self._answer is None or self._answer.done():
            raise MalformedAnswerError("no request was sent")
        self._headers, self._body = {}, bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; ignore a trailer, which comes after the body."""
        if not self._is_in_body:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        """Begin the body. OversizedAnswerError: its declared length is too large."""
        self._is_in_body, self._pending_bytes = True, 0
        self.is_usable = self.is_usable and self._parser.should_keep_alive()
        self._check_size(int(self._headers.get("content-length", "0")))

    def on_body(self, body: bytes) -> None:
        """Store a part of the body. OversizedAnswerError: the body is too large."""
        self._pending_bytes = 0
        self._body += body
        self._check_size(len(self._body))

    def _check_size(self, size: int) -> None:
        if size > self._max_answer_bytes:
            raise OversizedAnswerError(f"the answer has more than {self._max_answer_bytes} bytes")

    def on_message_complete(self) -> None:
        """End the answer, unless it is an interim one (1xx)."""
        self._is_in_body, self._pending_bytes = False, 0
        status = self._parser.get_status_code()
        if status >= 200 and self._answer is not None and not self._answer.done():
            self._answer.set_result((status, bytes(self._body), self._headers))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer if closing the connection ends it; else fail the request."""
        self.is_usable = False
        if exc is None and self._is_in_body and self._headers.keys().isdisjoint(FRAMING):
            self.on_message_complete()
        self.fail(ConnectionLostError(str(exc or "the server closed it"), was_sent=True))


@lru_cache(maxsize=4096)
def _parse_url(url: str) -> tuple[Place, str]:
    """The address of a URL, and its path with the header Host. ValueError: not a valid HTTP URL."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url} is not a URL of http://")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(letter <= " " for letter in path + parts.netloc):
        raise ValueError(f"{url!r} has spaces or control characters")
    return (parts.hostname, parts.port or 80), f"{path} HTTP/1.1\r\nhost: {parts.netloc}"


class Client:
    """A client over persistent connections, from `open` to `close`. It follows no redirect.

    A request lost on a reused connection is sent once more over a new one, so it must be safe to repeat.
    """

    def __init__(self, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        # The connections without a request, the one that was used last at the end.
        self._idle: dict[Place, list[ClientConnection]] = {}
        # The connections with a request.
        self._busy: set[ClientConnection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._busy) + sum(map(len, self._idle.values()))

    async def open(self) -> None:
        """Start the client, in the event loop that will use it."""
        self._sweep()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post the body as JSON. Return the status, body and headers, whose names are in lower case.

        Errors: ConnectionLostError, OversizedAnswerError.
        """
        given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        return await self._request("POST", url, body, given)

    async def get(self, url: str, within_s: float) -> tuple[int, bytes]:
        """Get the URL. Return the status and body. Errors as `post`: ConnectionLostError after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                status, body, _ = await self._request("GET", url, b"", {})
        except TimeoutError as error:
            raise ConnectionLostError(f"{url}: no answer within {within_s:g} s", was_sent=True) from error
        return status, body

    async def _request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        place, begin = _parse_url(url)
        lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
        if not lines.count("\r") == lines.count("\n") == len(headers):
            raise ValueError(f"{url}: a header has more than one line")
        head = f"{method} {begin}{lines}\r\n\r\n".encode("latin-1")
        idle = self._take_idle(place)
        try:
            if idle is not None:
                try:
                    return await self._ask(idle, place, head, body)
                except ConnectionLostError:
                    # Its server had closed it, or has ended: the others are of the same. It may not have had
                    # the request, so that is sent again over a new one.
                    self._close_idle(place)
            return await self._ask(await self._connect(place), place, head, body)
        except MalformedAnswerError as error:
            raise ConnectionLostError(f"{url}: {error}", was_sent=True) from error
        except ConnectionLostError as error:
            was_sent = error.was_sent or idle is not None
            raise ConnectionLostError(f"{url}: {error}", was_sent=was_sent) from error

    async def _ask(self, connection: ClientConnection, place: Place, head: bytes, body: bytes) -> Answer:
        connection.sent_s = asyncio.get_running_loop().time()
        self._busy.add(connection)
        try:
            answer = await connection.ask(head, body)
        finally:
            self._busy.discard(connection)
        if connection.is_usable:
            connection.idle_s = asyncio.get_running_loop().time()
            self._idle.setdefault(place, []).append(connection)
        else:
            connection.abort()
        return answer

    def _take_idle(self, place: Place) -> ClientConnection | None:
        idle = self._idle.get(place)
        expired_s = asyncio.get_running_loop().time() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.idle_s > expired_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, place: Place) -> ClientConnection:
        connection = ClientConnection(self._max_answer_bytes)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(lambda: connection, *place)
        except OSError as error:  # a TimeoutError too
            raise ConnectionLostError(str(error) or "it does not accept connections") from error
        if not connection.is_usable:
            # The server closed it before it was used: no answer would come.
            raise ConnectionLostError("the server closed it")
        return connection

    def _sweep(self) -> None:
        """Close connections idle for long, or unanswered for longer; repeat from time to time."""
        loop = asyncio.get_running_loop()
        for connection in self._busy:
            if connection.sent_s <= loop.time() - LONGEST_ANSWER_S:
                connection.fail(ConnectionLostError(f"no answer within {LONGEST_ANSWER_S:g} s"))
        for place, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_s <= loop.time() - IDLE_S:
                    connection.abort()
            self._idle[place] = [it for it in idle if it.is_usable]
            if not self._idle[place]:
                del self._idle[place]
        self._sweeper = loop.call_later(IDLE_S, self._sweep)

    def _close_idle(self, place: Place) -> None:
        for connection in self._idle.pop(place, ()):
            connection.abort()

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeper:
            self._sweeper.cancel()
        for place in list(self._idle):
            self._close_idle(place)
