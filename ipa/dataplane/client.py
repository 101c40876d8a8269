"""The HTTP client of the queue and the router: HTTP/1.1 over persistent connections, and nothing more.

A general client costs several times as much CPU time for each request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

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
LINE_END, HEAD_END = b"\r\n", b"\r\n\r\n"
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
Answer = tuple[int, bytes, Mapping[str, str]]
Place = tuple[str, int]


class ConnectionLostError(Exception):
    """The connection was refused or broke without an answer. With `was_sent` the server may have started."""

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class OversizedAnswerError(Exception):
    """The answer has more than MAX_ANSWER_BYTES."""


class MalformedAnswerError(Exception):
    """The answer is not HTTP/1.1."""


class ClientConnection(asyncio.Protocol):
    """A connection to a server, with one request on it at a time. `idle_s` is when the last one ended."""

    def __init__(self, max_answer_bytes: int) -> None:
        self.idle_s = 0.0
        self.is_usable = True
        self._max_answer_bytes = max_answer_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._clear()

    def _clear(self) -> None:
        self._received = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None
        # The length of the body by the head, None if its end is that of the chunks or of the connection.
        self._length: int | None = None
        self._chunks: Chunks | None = None

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request and return its answer. ConnectionLostError, OversizedAnswerError: none is usable."""
        assert self._transport is not None, "it is connected"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        try:
            return await self._answer
        finally:
            if not self._answer.done() or self._answer.cancelled() or self._answer.exception():
                self.abort()
            self._answer = None

    def abort(self) -> None:
        """Close at once."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport; uvloop's is no subclass of asyncio's."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        if self._answer is None or self._answer.done():
            # Nothing was asked: what comes now would be taken for the next answer.
            self.abort()
            return
        self._received += data
        try:
            self._take()
        except (OversizedAnswerError, MalformedAnswerError) as error:
            self._answer.set_exception(error)

    def _take(self) -> None:
        while self._head is None:
            end = self._received.find(HEAD_END)
            if end < 0:
                if len(self._received) > MAX_HEAD_BYTES:
                    raise MalformedAnswerError(f"its head is longer than {MAX_HEAD_BYTES} bytes")
                return
            status, headers = _parse_head(bytes(self._received[:end]))
            del self._received[: end + len(HEAD_END)]
            # 1xx comes before the answer.
            if status >= 200:
                self._head = status, headers
                self._begin_body(status, headers)
        if self._chunks is not None:
            self._chunks.take(self._received, self._max_answer_bytes)
            if self._chunks.is_done:
                self._end(bytes(self._chunks.body))
        elif self._length is None:
            self._check_size(len(self._received))
        elif len(self._received) >= self._length:
            body = bytes(self._received[: self._length])
            del self._received[: self._length]
            self._end(body)

    def _begin_body(self, status: int, headers: Mapping[str, str]) -> None:
        if status in (204, 304):
            self._length = 0
        elif (coding := headers.get("transfer-encoding")) is not None:
            if coding.lower() != "chunked":
                raise MalformedAnswerError(f"its transfer-encoding is {coding[:40]!r}")
            self._chunks = Chunks()
        elif (length := headers.get("content-length")) is not None:
            if not (length.isascii() and length.isdecimal() and len(length) < 20):
                raise MalformedAnswerError(f"its content-length is {length[:40]!r}")
            self._length = int(length)
            self._check_size(self._length)

    def _check_size(self, size: int) -> None:
        if size > self._max_answer_bytes:
            raise OversizedAnswerError(f"the answer has more than {self._max_answer_bytes} bytes")

    def _end(self, body: bytes) -> None:
        assert self._head is not None and self._answer is not None, "an answer is complete"
        status, headers = self._head
        # What is left would be taken for the next answer.
        if self._received or headers.get("connection", "").lower() == "close":
            self.is_usable = False
        self._clear()
        self._answer.set_result((status, body, headers))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer if it ends with the connection, else the request."""
        self.is_usable = False
        if self._answer is None or self._answer.done():
            return
        if self._head is not None and self._chunks is None and self._length is None and exc is None:
            self._end(bytes(self._received))
        else:
            self._answer.set_exception(ConnectionLostError(str(exc or "the server closed it"), was_sent=True))


class Chunks:
    """A body in chunks: `body` is what has come of it."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_done = False

    def take(self, received: bytearray, most_bytes: int) -> None:
        """Take the complete chunks from the front of the bytes.

        MalformedAnswerError: they are no chunks. OversizedAnswerError: the body has more than `most_bytes`.
        """
        while (end := received.find(LINE_END)) >= 0:
            text = bytes(received[:end]).partition(b";")[0].strip()
            if not CHUNK_SIZE.fullmatch(text):
                raise MalformedAnswerError(f"a chunk begins with {text[:40]!r}")
            size = int(text, 16)
            if len(self.body) + size > most_bytes:
                raise OversizedAnswerError(f"the answer has more than {most_bytes} bytes")
            if size == 0:
                # The trailer is empty, or ends as a head does.
                last = received.find(HEAD_END, end)
                self.is_done = last >= 0
                del received[: last + len(HEAD_END) if self.is_done else 0]
                return
            begin = end + len(LINE_END)
            if len(received) < begin + size + len(LINE_END):
                return
            self.body += received[begin : begin + size]
            del received[: begin + size + len(LINE_END)]
        if len(received) > MAX_HEAD_BYTES:
            raise MalformedAnswerError("a chunk has no size")


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdecimal()):
        raise MalformedAnswerError(f"it begins with {first[:40]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(status), headers


@lru_cache(maxsize=4096)
def _parse_url(url: str) -> tuple[Place, str]:
    """The address of a URL, and its path with the header Host. ValueError: it is none of HTTP."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url} is not a URL of http://")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"{path} HTTP/1.1\r\nhost: {parts.netloc}"
    if any(letter <= " " for letter in path + parts.netloc):
        raise ValueError(f"{url!r} has spaces or control characters")
    return (parts.hostname, parts.port or 80), head


class Client:
    """A client over persistent connections, from `open` to `close`. It follows no redirect."""

    def __init__(self, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        # The connections without a request, the one that was used last at the end.
        self._idle: dict[Place, list[ClientConnection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Begin, in the event loop that it is used in."""
        self._sweep()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post the body as JSON. Return the status, body and headers, whose names are in lower case.

        Errors: ConnectionLostError, OversizedAnswerError.
        """
        given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        return await self._request("POST", url, body, given, LONGEST_ANSWER_S)

    async def get(self, url: str, within_s: float) -> tuple[int, bytes]:
        """Get the URL. Return the status and body. Errors as `post`: ConnectionLostError after `within_s`."""
        status, body, _ = await self._request("GET", url, b"", {}, within_s)
        return status, body

    async def _request(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], within_s: float
    ) -> Answer:
        place, begin = _parse_url(url)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"{url}: a header has more than one line")
        head = "\r\n".join((f"{method} {begin}", *lines)).encode("latin-1") + HEAD_END
        connection = self._take_idle(place) or await self._connect(place, url)
        try:
            async with asyncio.timeout(within_s):
                answer = await connection.ask(head, body)
        except ConnectionLostError as error:
            raise ConnectionLostError(f"{url}: {error}", was_sent=True) from error
        except (TimeoutError, MalformedAnswerError) as error:
            words = f"no answer within {within_s:g} s" if isinstance(error, TimeoutError) else error
            raise ConnectionLostError(f"{url}: {words}", was_sent=True) from error
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

    async def _connect(self, place: Place, url: str) -> ClientConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, made = await loop.create_connection(
                    lambda: ClientConnection(self._max_answer_bytes), *place
                )
        except OSError as error:  # a TimeoutError too
            raise ConnectionLostError(f"{url}: {error or 'it does not accept connections'}") from error
        return made

    def _sweep(self) -> None:
        """Close what has been idle for long, now and from time to time."""
        loop = asyncio.get_running_loop()
        expired_s = loop.time() - IDLE_S
        for place, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_s <= expired_s:
                    connection.abort()
            self._idle[place] = [it for it in idle if it.is_usable]
            if not self._idle[place]:
                del self._idle[place]
        self._sweeper = loop.call_later(IDLE_S, self._sweep)

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeper:
            self._sweeper.cancel()
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()
