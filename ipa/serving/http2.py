"""HTTP/2 on connections that begin with it, as those of gRPC do: relayed to a server of it in this process.

That server speaks the protocol. Here are the bounds that it lacks: a connection counts in the registry, as
one of HTTP/1.1 does, and ends where its headers are longer than a head may be.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl

from ipa.serving.connections import Connection, Connections

LOG = logging.getLogger(__name__)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types and a flag of frames, and the bytes before their contents (RFC 9113, 4.1 and 6).
DATA, HEADERS, RST_STREAM, CONTINUATION = 0, 1, 3, 9
END_STREAM = 1
FRAME_BYTES = 9
# Frames but those of bodies that a client may send until a request is answered. A call brings five or so, and
# each of the streams at once may end by a reset. A client gives room for the frames of an answer in two each.
SPARE_FRAMES, GIVEN_FRAMES = 400, 2
# The files of a relayed connection beside its own: both ends of the one to the server.
RELAY_FILES = 2
# Bytes that wait for the connection to the server.
MOST_WAITING = 64 << 10


class PassedFrames(NamedTuple):
    """Frames of bodies, and others; streams that their sender ends, and takes back."""

    bodies: int
    others: int
    ended: int
    reset: int


class Frames:
    """The frames of one direction of a connection, of which only the first bytes are looked at."""

    def __init__(self, preface_bytes: int = 0) -> None:
        # Bytes of the present frame that are still to come, and those of the next one's beginning.
        self._rest, self._begun = preface_bytes, bytearray()
        # Of the headers that arrived last.
        self.head_bytes = 0

    def pass_by(self, data: bytes) -> PassedFrames:
        """Take what passes, and return the frames that begin in it."""
        bodies = others = ended = reset = at = 0
        while at < len(data):
            step = min(self._rest, len(data) - at)
            self._rest, at = self._rest - step, at + step
            missing = FRAME_BYTES - len(self._begun)
            self._begun += data[at : at + missing]
            at += missing
            if len(self._begun) < FRAME_BYTES:
                break
            self._rest, kind, flags = int.from_bytes(self._begun[:3], "big"), self._begun[3], self._begun[4]
            self._begun.clear()
            if kind in (HEADERS, CONTINUATION):
                before = self.head_bytes if kind == CONTINUATION else 0
                self.head_bytes = before + FRAME_BYTES + self._rest
            is_body = kind == DATA and self._rest > 0
            bodies, others = bodies + is_body, others + (not is_body)
            ended += kind in (DATA, HEADERS) and flags & END_STREAM
            reset += kind == RST_STREAM
        return PassedFrames(bodies, others, ended, reset)


class Http2Relay(asyncio.Protocol):
    """A connection to the server of HTTP/2, for one of a client, which the registry knows by its `owner`."""

    def __init__(
        self,
        owner: Connection,
        transport: asyncio.Transport,
        flow: FlowControl,
        registry: Connections,
        most_head_bytes: int,
    ) -> None:
        self._owner, self._client, self._flow, self._registry = owner, transport, flow, registry
        self._most_head_bytes = most_head_bytes
        self._server: asyncio.Transport | None = None
        self._asked, self._answered = Frames(len(PREFACE)), Frames()
        self._waiting = bytearray()
        self._spare_frames = SPARE_FRAMES
        # Requests that are complete and not answered.
        self._working = 0

    async def open(self, address: str) -> None:
        """Connect to the server at that address of a Unix socket, and pass on what has arrived."""
        made = socket.socket(socket.AF_UNIX)
        made.setblocking(False)
        try:
            # At once, or not at all. uvloop takes no name that begins with a zero.
            made.connect(address)
        except OSError as error:
            LOG.warning("a connection of HTTP/2 ends: %s", error)
            made.close()
            self._client.abort()
            return
        # uvloop closes the file twice if the transport is ended before this returns.
        self._server, _ = await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=made)
        self._server.write(bytes(self._waiting))
        self._waiting.clear()
        if self._client.is_closing():
            self._server.abort()
        else:
            self._flow.resume_reading()

    def take(self, data: bytes) -> None:
        """Pass on what the client sends."""
        passed = self._asked.pass_by(data)
        self._count(passed.ended - passed.reset)
        self._spare_frames -= passed.others
        if self._asked.head_bytes > self._most_head_bytes or self._spare_frames < 0:
            LOG.debug("a connection of HTTP/2 ends: its headers are too long, or frames bring no request")
            self.close()
        elif self._server is not None:
            self._server.write(data)
        else:
            self._waiting += data
            if len(self._waiting) > MOST_WAITING:
                self._flow.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on what the server answers."""
        passed = self._answered.pass_by(data)
        self._count(-passed.ended - passed.reset)
        given = SPARE_FRAMES if passed.ended else GIVEN_FRAMES * passed.bodies
        self._spare_frames = min(SPARE_FRAMES, self._spare_frames + given)
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's connection with the server's."""
        self._client.close()

    def pause_writing(self) -> None:
        """Read no more of the client: the server does not take it."""
        self._flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._flow.resume_reading()

    def wait_for_client(self, is_waiting: bool) -> None:
        """Read no more of the server while the client does not take it."""
        if self._server is not None:
            (self._server.pause_reading if is_waiting else self._server.resume_reading)()
            if is_waiting:
                self._registry.waits(self._owner)

    def close(self) -> None:
        """End both connections."""
        self._client.abort()
        if self._server is not None:
            self._server.abort()

    def _count(self, more: int) -> None:
        if more:
            self._working = max(0, self._working + more)
            (self._registry.works if self._working else self._registry.waits)(self._owner)
