"""HTTP/2 on connections that begin with it, as those of gRPC do: each stream is a request of ASGI.

The package h2 speaks the protocol (RFC 9113). Here are the bounds: a connection counts in the registry as one
of HTTP/1.1 does, each further stream at once takes a place, bytes of bodies are let in as the application
takes them, and frames that bring no request are rationed, as are those that are read in one round of the
event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, SettingsFrame, WindowUpdateFrame
from uvicorn.protocols.http.flow_control import FlowControl

from ipa.serving.body_budget import Turns
from ipa.serving.connections import Connection, Connections, ServerBounds

LOG = logging.getLogger(__name__)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
# The largest frame that is taken, the least that the protocol allows to ask for.
FRAME_BYTES = 16_384
# Streams of a connection at once, as most servers have.
MOST_STREAMS = 100
# Frames but those of bodies that a client may send until a request is answered. A call brings five or so, and
# each of the streams at once may end by a reset. A client gives room for the frames of an answer in two each.
SPARE_FRAMES = 400
GIVEN_FRAMES = 2
# Frames that are read in a turn, some tenths of a millisecond.
FRAMES_A_TURN = 8
# The most that a client may send before the protocol's state is made.
AGREED_BYTES = 512
ACK = 1
SETTINGS_ACK = SettingsFrame(0, flags=["ACK"]).serialize()
# Headers of one hop, which HTTP/2 does not have.
HOP_HEADERS = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})
Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def _begin_connection(head_bytes: int) -> H2Connection:
    """A connection whose first frames are not sent."""
    http = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    http.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: head_bytes,
        },
    )
    http.decoder.max_header_list_size = head_bytes
    http.initiate_connection()
    return http


@lru_cache(maxsize=8)
def _first_frames(head_bytes: int) -> bytes:
    return _begin_connection(head_bytes).data_to_send()


class Http2Connection:
    """The HTTP/2 side of a connection; `owner` is what the registry knows it by."""

    def __init__(
        self,
        owner: Connection,
        transport: asyncio.Transport,
        flow: FlowControl,
        app: Application,
        registry: Connections,
        bounds: ServerBounds,
        turns: Turns,
        scope: dict[str, Any],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self.transport, self.flow, self.bounds = transport, flow, bounds
        self._owner, self._app, self._registry, self._turns = owner, app, registry, turns
        self._scope, self._tasks = scope, tasks
        self._http: H2Connection | None = None
        # The client has sent more than its settings and the windows that it gives; until then what was read,
        # and how many frames of settings are to be acknowledged.
        self._asks, self._agreed, self._unacknowledged = False, b"", 0
        self._streams: dict[int, Http2Stream] = {}
        # What has arrived and was not read; where its first frame begins.
        self._unread = bytearray()
        self._first = len(PREFACE)
        self._spare_frames = SPARE_FRAMES
        # Of the headers that are arriving.
        self._head_bytes = 0
        self._is_ending = False
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        # The task that reads while there is something.
        self._reading: asyncio.Task[None] | None = None

    @property
    def http(self) -> H2Connection:
        """The protocol's state. It is only made for a client that sends more than its settings."""
        if self._http is None:
            http = _begin_connection(self.bounds.head_bytes)
            http.receive_data(self._agreed)
            # It was sent when that was read.
            http.clear_outbound_data_buffer()
            self._http, self._asks = http, True
        return self._http

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, and read it in turn."""
        self._unread += data
        if len(self._unread) > FRAME_BYTES:
            self.flow.pause_reading()
        if self._reading is None:
            self._reading = self._loop.create_task(self._read())

    def connection_lost(self) -> None:
        """End all streams."""
        if self._reading is not None:
            self._reading.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for stream in self._streams.values():
            stream.lose()
        if self._http is not None:
            # It refers to itself, and so would wait for a search for garbage.
            vars(self._http).clear()
            self._http = None

    async def _read(self) -> None:
        try:
            is_more = True
            while is_more:
                await self.flow.drain()
                await self._turns.take()
                is_more = self._read_frames()
        except ProtocolError as error:
            LOG.debug("a connection of HTTP/2 ends: %s", error)
            self.end()
        except Exception:
            LOG.exception("a connection of HTTP/2 failed")
            self.transport.abort()
        finally:
            self._reading = None

    def _read_frames(self) -> bool:
        """Read the frames of a turn; False: there is none. ProtocolError: the connection is to end."""
        if not self._phase:
            # Not before it is its turn: thousands of connections may begin in one round.
            self.transport.write(_first_frames(self.bounds.head_bytes))
            self.watch()
        data = self._take_frames()
        if not data:
            if not self.transport.is_closing():
                self.flow.resume_reading()
            return False
        if not self._asks and len(self._agreed) + len(data) <= AGREED_BYTES:
            self._agreed += data
            self.transport.write(SETTINGS_ACK * self._unacknowledged)
            self._unacknowledged = 0
            return True
        for event in self.http.receive_data(data):
            self._take(event)
        if self._spare_frames < 0:
            self._refuse(f"more than {SPARE_FRAMES} frames brought no request that could be answered")
        self.flush()
        self.watch()
        return True

    def _take_frames(self) -> bytes:
        """Whole frames of what has arrived, as many as are read in a turn."""
        unread, end = self._unread, self._first
        for _ in range(FRAMES_A_TURN):
            size = HEAD_BYTES + int.from_bytes(unread[end : end + 3], "big")
            if size > HEAD_BYTES + FRAME_BYTES:
                # h2 says what is wrong with it.
                end, self._asks = len(unread), True
            elif len(unread) >= end + size:
                kind, flags = unread[end + 3], unread[end + 4]
                self._asks |= kind not in (SettingsFrame.type, WindowUpdateFrame.type)
                self._unacknowledged += kind == SettingsFrame.type and not flags & ACK
                self._spare_frames -= kind != DataFrame.type or size == HEAD_BYTES
                self._head_bytes = size + (self._head_bytes if kind == ContinuationFrame.type else 0)
                if self._head_bytes > self.bounds.head_bytes:
                    self._refuse(f"headers of more than {self.bounds.head_bytes} bytes")
                end += size
            else:
                break
        if end == self._first:
            return b""
        data = bytes(unread[:end])
        del unread[:end]
        self._first = 0
        return data

    def _refuse(self, why: str) -> None:
        self.http.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        raise ProtocolError(why)

    def _take(self, event: Any) -> None:
        stream = self._streams.get(getattr(event, "stream_id", 0))
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            for each in [stream] if stream else self._streams.values():
                each.changed.set()
        elif isinstance(event, DataReceived):
            if stream is None:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                stream.take(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded) and stream is not None:
            if self.take_place(stream):
                stream.complete()
            else:
                stream.reset(ErrorCodes.REFUSED_STREAM)
        elif isinstance(event, StreamReset) and stream is not None:
            stream.lose()

    def _begin(self, event: RequestReceived) -> None:
        is_full = len(self._streams) >= MOST_STREAMS or self._is_ending
        stream = Http2Stream(self, event.stream_id)
        # The first takes its place once its body is there: a connection waits for its client until then.
        if is_full or (self._streams and not self.take_place(stream)):
            self.reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        head = {name: value for name, value in fields if name.startswith(b":")}
        path, _, query = head.get(b":path", b"").partition(b"?")
        headers = [(name, value) for name, value in fields if name not in head]
        if b":authority" in head and not any(name == b"host" for name, _ in headers):
            headers.append((b"host", head[b":authority"]))
        scope = {
            **self._scope,
            "http_version": "2",
            "method": head[b":method"].decode("latin-1"),
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": headers,
        }
        self._streams[event.stream_id] = stream
        task = self._loop.create_task(stream.run(self._app, scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def flush(self) -> None:
        """Send what h2 has to send."""
        if self._http and (data := self._http.data_to_send()) and not self.transport.is_closing():
            self.transport.write(data)

    def reset(self, stream: int, code: ErrorCodes) -> None:
        """End a stream, unless the client has."""
        try:
            self.http.reset_stream(stream, code)
        except ProtocolError as error:
            LOG.debug("stream %d has ended: %s", stream, error)

    def note_sent(self) -> None:
        """Note that a frame of an answer was sent, which the client may give room for."""
        self._spare_frames = min(SPARE_FRAMES, self._spare_frames + GIVEN_FRAMES)

    def take_place(self, stream: Http2Stream) -> bool:
        """Take a place for the request of the stream if it has none; False: there is none."""
        stream.has_place = stream.has_place or self._registry.begin_request(self._owner)
        return stream.has_place

    def give_place(self, stream: Http2Stream) -> None:
        """Return the place of a request that is passed on no more."""
        if stream.has_place:
            self._registry.end_request(self._owner)
        stream.has_place = False

    def forget(self, stream: Http2Stream) -> None:
        """Forget a stream whose request has ended."""
        del self._streams[stream.number]
        self.give_place(stream)
        if stream.is_answered:
            self._spare_frames = SPARE_FRAMES
        self.flush()
        if self._is_ending and not self._streams:
            self.transport.close()
        self.watch()

    def shutdown(self) -> None:
        """Take no further request, and close once those that came are answered."""
        self._is_ending = True
        # h2 sends nothing after its own.
        last = GoAwayFrame(0, last_stream_id=self._http.highest_inbound_stream_id if self._http else 0)
        self.transport.write(last.serialize())
        if not self._streams:
            self.transport.close()

    def end(self) -> None:
        """Close: what h2 has to say is sent if the client takes it."""
        self.flush()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def watch(self) -> None:
        """Tell the registry the phase of the connection if it has changed, and set its deadline."""
        arriving = [stream for stream in self._streams.values() if not stream.is_whole]
        is_waiting = all(stream.waits_for_client for stream in self._streams.values())
        phase = "idle" if not self._streams else "waiting" if is_waiting else "working"
        if phase != self._phase:
            (self._registry.works if phase == "working" else self._registry.waits)(self._owner)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._phase = phase
        if self._timer is None and (arriving or not self._streams) and not self.transport.is_closing():
            began_s = arriving[0].began_s if arriving else self._loop.time()
            due_s = began_s + (self.bounds.body_s if arriving else self.bounds.idle_s)
            self._timer = self._loop.call_at(due_s, self._expire)

    def _expire(self) -> None:
        """End the streams whose bodies did not arrive in time, or the connection if it has none."""
        self._timer = None
        if not self._streams:
            self.shutdown()
            self.end()
        for stream in list(self._streams.values()):
            if not stream.is_whole and self._loop.time() >= stream.began_s + self.bounds.body_s:
                stream.reset(ErrorCodes.CANCEL)
        self.flush()
        self.watch()


class Http2Stream:
    """A request over HTTP/2, as ASGI has it."""

    def __init__(self, connection: Http2Connection, number: int) -> None:
        self.number = number
        self.began_s = asyncio.get_running_loop().time()
        # The body has arrived; the answer was sent; the request counts in the registry.
        self.is_whole = self.is_answered = self.has_place = False
        # Set at each change: of the body, of the room for the answer, or that the client has gone.
        self.changed = asyncio.Event()
        self._connection = connection
        self._parts: list[bytes] = []
        self._unread_bytes = 0
        self._is_gone = self._is_done = self._has_trailers = self._is_blocked = False

    @property
    def waits_for_client(self) -> bool:
        """True if the client has to send more of the body, or to take more of the answer."""
        return not self.is_whole or self._is_blocked

    async def run(self, app: Application, scope: dict[str, Any]) -> None:
        """Have the application answer."""
        try:
            await app(scope, self.receive, self.send)
        except ProtocolError as error:
            LOG.debug("an answer over HTTP/2 cannot be sent: %s", error)
        finally:
            self.reset(ErrorCodes.NO_ERROR if self.is_answered else ErrorCodes.INTERNAL_ERROR)
            self._connection.forget(self)

    def take(self, data: bytes, size: int) -> None:
        """Take a part of the body, `size` bytes of the window with its padding."""
        if self._is_gone:
            self._connection.http.acknowledge_received_data(size, self.number)
            return
        self._parts.append(data)
        self._unread_bytes += size
        self.changed.set()

    def complete(self) -> None:
        """The body has arrived."""
        self.is_whole = True
        self.changed.set()

    def lose(self) -> None:
        """The client has gone, or took the request back."""
        # Nobody waits for the rest of it.
        self._is_gone = self.is_whole = self._is_done = True
        self.changed.set()

    def reset(self, code: ErrorCodes) -> None:
        """End the stream if either side has not ended it."""
        if not self._is_done or not self.is_whole:
            self._connection.reset(self.number, code)
            self.lose()

    async def receive(self) -> dict[str, Any]:
        """The next message to the application; its bytes make room for as many of the client."""
        while not (self._parts or self.is_whole):
            await self._wait()
        if self._is_gone or self._is_done:
            return {"type": "http.disconnect"}
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        size, self._unread_bytes = self._unread_bytes, 0
        if size:
            self._connection.http.acknowledge_received_data(size, self.number)
            self._connection.flush()
        return {"type": "http.request", "body": data, "more_body": not self.is_whole}

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message of the application."""
        if self._is_gone:
            return
        if message["type"] == "http.response.start":
            # Answers are whole when they start.
            self._connection.give_place(self)
            self._has_trailers = message.get("trailers", False)
            fields = [it for it in message.get("headers", ()) if it[0] not in HOP_HEADERS]
            self._connection.http.send_headers(
                self.number, [(b":status", str(message["status"]).encode()), *fields]
            )
        elif message["type"] == "http.response.body":
            is_last = not message.get("more_body", False) and not self._has_trailers
            await self._write(message.get("body", b""), is_last)
        else:
            self._connection.http.send_headers(self.number, message["headers"], end_stream=True)
            self._end()
        self._connection.flush()

    async def _write(self, data: bytes, is_last: bool) -> None:
        """Send data as the client gives room for it; a client that gives none for long has gone."""
        connection, start = self._connection, 0
        while start < len(data) or is_last:
            room = min(connection.http.local_flow_control_window(self.number), FRAME_BYTES, len(data) - start)
            if start < len(data) and (room <= 0 or connection.flow.write_paused):
                connection.flush()
                self._is_blocked = True
                connection.watch()
                try:
                    async with asyncio.timeout(connection.bounds.idle_s):
                        await (self._wait() if room <= 0 else connection.flow.drain())
                except TimeoutError:
                    self.reset(ErrorCodes.CANCEL)
                self._is_blocked = False
                connection.watch()
                if self._is_gone:
                    return
                continue
            ends = is_last and start + room == len(data)
            connection.http.send_data(self.number, data[start : start + room], end_stream=ends)
            connection.note_sent()
            connection.flush()
            start += room
            if ends:
                self._end()
                return

    def _end(self) -> None:
        self._is_done = self.is_answered = True

    async def _wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()
