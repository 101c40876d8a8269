"""HTTP/2 on a bounded server: each stream is a request, and each bound is counted."""

from __future__ import annotations

import asyncio
import gc
import struct
import weakref
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, SettingsAcknowledged, StreamEnded, StreamReset
from h2.settings import SettingCodes
from uvicorn.protocols.http.flow_control import FlowControl

from ipa.serving.body_budget import Turns
from ipa.serving.connections import Connections, ServerBounds
from ipa.serving.http2 import FRAMES_A_TURN, MOST_STREAMS, PREFACE, SPARE_FRAMES, Http2Connection, Http2Stream
from ipa.serving.protocol import BoundedConfig, BoundedServer

WITHIN_S = 20.0
LARGE = 1 << 20
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "here"), (":path", "/x?a=1")]
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_HEADERS = 4


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = self.is_aborted = self.is_paused = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


class Owner:
    """What the registry knows a connection by."""

    def __init__(self) -> None:
        self.is_displaced = False

    def displace(self) -> None:
        self.is_displaced = True


class Client:
    """A client of a connection without sockets, with the application behind it."""

    def __init__(
        self,
        bounds: ServerBounds | None = None,
        registry: Connections | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.bounds = bounds or ServerBounds()
        self.registry = Connections(self.bounds) if registry is None else registry
        self.owner, self.wire, self.http = Owner(), Wire(), H2Connection()
        self.lets = asyncio.Event()
        self.asked: list[Any] = []
        self.bodies: list[bytes] = []
        assert self.registry.admit(self.owner, "192.0.2.1")
        turns = turns or Turns(10_000)
        self.served = Http2Connection(
            *(self.owner, self.wire, FlowControl(self.wire), self._app, self.registry, self.bounds, turns),  # type: ignore[arg-type]
            *({"type": "http"}, set()),
        )
        self.http.initiate_connection()

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.asked.append(scope)
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        await self.lets.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

    def begin(self, stream: int, *, ends: bool = True) -> None:
        self.http.send_headers(stream, HEAD, end_stream=ends)

    async def exchange(self) -> list[Any]:
        """Send what the client has to send, and return the events of what comes back."""
        events: list[Any] = []
        for _ in range(50):
            if data := self.http.data_to_send():
                self.served.data_received(data)
            await settle()
            if self.wire.written:
                events += self.http.receive_data(self.wire.written)
                self.wire.written = b""
        return events

    async def send(self, data: bytes) -> None:
        """Send bytes that no client of h2 would."""
        self.served.data_received(data)
        for _ in range(len(data) // 64 + 50):
            await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await scenario()

    asyncio.run(bounded())


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


# A POST of / at x, by the static table (RFC 7541, appendix A).
BLOCK = b"\x83\x86\x84\x01\x01x"
BEGIN = PREFACE + frame(SETTINGS, 0, 0)


def test_a_stream_is_a_request_with_its_body_and_answer() -> None:
    async def scenario() -> None:
        client = Client()
        client.lets.set()
        client.begin(1, ends=False)
        client.http.send_data(1, b"hello", end_stream=True)
        events = await client.exchange()
        scope = client.asked[0]
        assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/x", b"a=1")
        assert (b"host", b"here") in scope["headers"] and scope["http_version"] == "2"
        [response] = [it for it in events if isinstance(it, ResponseReceived)]
        assert dict(response.headers) == {b":status": b"200"}
        assert [it.data for it in events if isinstance(it, DataReceived)] == [b"hello"]
        assert [it.stream_id for it in events if isinstance(it, StreamEnded)] == [1]
        assert len(client.registry) == 1

    run(scenario)


def test_a_connection_that_asks_nothing_has_no_state_of_the_protocol() -> None:
    async def scenario() -> None:
        client = Client()
        client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        client.http.increment_flow_control_window(1000)
        acknowledged = [it for it in await client.exchange() if isinstance(it, SettingsAcknowledged)]
        assert len(acknowledged) == 2
        assert client.served._http is None
        # What it agreed to before holds: a window of one byte for the answer.
        client.lets.set()
        client.begin(1, ends=False)
        client.http.send_data(1, b"two", end_stream=True)
        events = await client.exchange()
        assert [it.data for it in events if isinstance(it, DataReceived)] == [b"t"]
        assert not [it for it in events if isinstance(it, SettingsAcknowledged)]

    run(scenario)


def test_connections_that_come_together_begin_in_turns() -> None:
    async def scenario() -> None:
        each_round, turns = 2, Turns(2)
        clients = [Client(turns=turns) for _ in range(7)]
        for client in clients:
            client.served.data_received(client.http.data_to_send())
        begun = [0]
        while begun[-1] < len(clients):
            await asyncio.sleep(0)
            begun.append(sum(bool(client.wire.written) for client in clients))
        assert max(after - before for before, after in pairwise(begun)) == each_round

    run(scenario)


def test_a_connection_that_ends_leaves_nothing_to_a_search_for_garbage() -> None:
    async def scenario() -> None:
        client = Client()
        client.begin(1)
        await client.exchange()
        state = weakref.ref(client.served.http)
        gc.collect()
        gc.disable()
        try:
            client.served.connection_lost()
            client.lets.set()
            await settle()
            assert state() is None
        finally:
            gc.enable()

    run(scenario)


def test_an_idle_connection_waits_and_one_that_is_answered_does_not() -> None:
    async def scenario() -> None:
        bounds = ServerBounds(connections=2, address_connections=2)
        registry = Connections(bounds)
        idle, busy, half = Client(bounds, registry), Client(bounds, registry), Owner()
        await idle.exchange()
        busy.begin(1)
        await busy.exchange()
        # The first that waits makes room: the idle one of HTTP/2.
        assert registry.admit(half, "192.0.2.9")
        assert (idle.owner.is_displaced, busy.owner.is_displaced) == (True, False)
        busy.lets.set()
        await busy.exchange()
        registry.works(half)
        assert registry.admit(Owner(), "192.0.2.8")
        assert busy.owner.is_displaced

    run(scenario)


def test_a_call_that_does_not_arrive_waits_for_its_client() -> None:
    async def scenario() -> None:
        bounds = ServerBounds(connections=1, address_connections=1)
        client = Client(bounds)
        client.begin(1, ends=False)
        await client.exchange()
        assert client.registry.admit(Owner(), "192.0.2.1")
        assert client.owner.is_displaced

    run(scenario)


def test_an_answer_that_its_client_does_not_take_waits_for_its_client() -> None:
    async def scenario() -> None:
        client = Client(ServerBounds(connections=1, address_connections=1))
        client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        client.begin(1, ends=False)
        client.http.send_data(1, b"two", end_stream=True)
        await client.exchange()
        # While the application answers, the connection keeps its place.
        assert not client.registry.admit(Owner(), "192.0.2.1")
        client.lets.set()
        await client.exchange()
        assert client.registry.admit(Owner(), "192.0.2.1")
        assert client.owner.is_displaced

    run(scenario)


def test_each_stream_takes_a_place_and_gives_it_back() -> None:
    async def scenario() -> None:
        client = Client(ServerBounds(connections=4, address_connections=4, request_places=1))
        for stream in (1, 3, 5, 7):
            client.begin(stream)
        events = await client.exchange()
        refused = [it for it in events if isinstance(it, StreamReset)]
        assert [(it.stream_id, it.error_code) for it in refused] == [(7, ErrorCodes.REFUSED_STREAM)]
        assert (len(client.registry), len(client.asked)) == (4, 3)
        client.lets.set()
        await client.exchange()
        assert len(client.registry) == 1
        client.served.connection_lost()
        client.registry.forget(client.owner)
        assert len(client.registry) == 0

    run(scenario)


def test_no_more_of_a_body_is_held_than_the_window_until_the_application_takes_it() -> None:
    async def scenario() -> None:
        client = Client()
        taken = asyncio.Event()
        receive = Http2Stream.receive

        async def later(self: Http2Stream) -> dict[str, Any]:
            await taken.wait()
            return await receive(self)

        Http2Stream.receive = later  # type: ignore[method-assign]
        try:
            client.begin(1, ends=False)
            await client.exchange()
            sent = 0
            while room := min(client.http.local_flow_control_window(1), 16_384):
                client.http.send_data(1, bytes(room))
                sent += room
                await client.exchange()
            assert sent == 65_535
            taken.set()
            await client.exchange()
            assert client.http.local_flow_control_window(1) > 0
        finally:
            Http2Stream.receive = receive  # type: ignore[method-assign]

    run(scenario)


@pytest.mark.parametrize(
    ("what", "flood"),
    [
        ("pings", frame(PING, 0, 0, bytes(8)) * 2 * SPARE_FRAMES),
        ("settings", frame(SETTINGS, 0, 0) * 2 * SPARE_FRAMES),
        (
            "resets",
            b"".join(
                frame(HEADERS, END_HEADERS, 2 * n + 1, BLOCK) + frame(RST_STREAM, 0, 2 * n + 1, bytes(4))
                for n in range(SPARE_FRAMES)
            ),
        ),
        ("continuations", frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, bytes(1000)) * 1000),
        ("a frame that is too large", b"\xff\xff\xff" + bytes(6) + bytes(1000)),
        ("no frames", b"\x00" * 9 + b"x" * 1000),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_floods_of_frames_end_their_connection(what: str, flood: bytes) -> None:
    async def scenario() -> None:
        client = Client()
        read: list[bytes] = []
        take = client.served._take_frames
        client.served._take_frames = lambda: (read.append(take()), read[-1])[1]  # type: ignore[method-assign]
        await client.send(BEGIN + flood)
        assert client.wire.is_closed
        # What it made the server do: a ration, in small turns.
        assert len(read) <= (SPARE_FRAMES + 2) // FRAMES_A_TURN + 2
        assert len(client.asked) <= SPARE_FRAMES // 2 + FRAMES_A_TURN
        assert kinds(client.wire.written)[-1] == GOAWAY

    run(scenario)


def test_a_client_whose_requests_are_answered_may_go_on() -> None:
    async def scenario() -> None:
        client = Client()
        client.lets.set()
        for number in range(SPARE_FRAMES):
            client.begin(2 * number + 1)
            client.http.ping(bytes(8))
            if number % 20 == 19:
                await client.exchange()
        await client.exchange()
        assert len(client.bodies) == SPARE_FRAMES
        assert not client.wire.is_closed

    run(scenario)


def test_a_client_that_takes_requests_back_holds_no_more_streams_than_others() -> None:
    async def scenario() -> None:
        client = Client(ServerBounds(request_places=1))
        await client.send(BEGIN)
        # Each is being answered although the client has gone.
        for number in range(MOST_STREAMS + 20):
            await client.send(frame(HEADERS, END_HEADERS | 1, 2 * number + 1, BLOCK))
            await client.send(frame(RST_STREAM, 0, 2 * number + 1, bytes(4)))
        assert len(client.asked) == len(client.registry) - 1 == MOST_STREAMS

    run(scenario)


def served(
    bounds: ServerBounds, scenario: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """Run the scenario with a connection to a server with those bounds."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    async def main() -> None:
        config = BoundedConfig(app, bounds, port=0, lifespan="off", log_config=None, has_http2=True)
        server = BoundedServer(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(WITHIN_S):
                await scenario(reader, writer)
        finally:
            writer.close()
            server.should_exit = True
            await serving

    asyncio.run(main())


def test_large_bodies_pass_both_ways_over_a_socket() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = H2Connection()
        http.initiate_connection()
        http.send_headers(1, HEAD)
        sent = answered = 0
        while answered < LARGE:
            while sent < LARGE and (room := min(http.local_flow_control_window(1), 16_384, LARGE - sent)):
                sent += room
                http.send_data(1, bytes(room), end_stream=sent == LARGE)
            writer.write(http.data_to_send())
            for event in http.receive_data(await reader.read(1 << 16)):
                if isinstance(event, DataReceived):
                    answered += len(event.data)
                    http.acknowledge_received_data(event.flow_controlled_length, 1)
        assert (sent, answered) == (LARGE, LARGE)

    served(ServerBounds(), scenario)


@pytest.mark.parametrize("data", [BEGIN, BEGIN + frame(HEADERS, END_HEADERS, 1, BLOCK)], ids=["idle", "half"])
def test_a_connection_that_waits_for_its_client_is_ended_in_time(data: bytes) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        # Until the server closes it.
        while await reader.read(1 << 16):
            pass

    served(ServerBounds(idle_s=0.2, body_s=0.2), scenario)


def kinds(written: bytes) -> list[int]:
    """The types of the frames."""
    found = []
    while written:
        found.append(written[3])
        written = written[9 + int.from_bytes(written[:3], "big") :]
    return found


def test_a_server_that_ends_answers_what_came_and_says_so() -> None:
    async def scenario() -> None:
        client = Client()
        client.begin(1)
        await client.exchange()
        client.served.shutdown()
        assert kinds(client.wire.written) == [GOAWAY]
        await client.send(frame(HEADERS, END_HEADERS | 1, 3, BLOCK))
        assert kinds(client.wire.written) == [GOAWAY, RST_STREAM]
        assert len(client.asked) == 1 and not client.wire.is_closed
        client.lets.set()
        await settle()
        assert kinds(client.wire.written) == [GOAWAY, RST_STREAM, HEADERS, DATA]
        assert client.wire.is_closed

    run(scenario)
