"""The server's bounds: which connection makes room for another, and when one is closed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ipa.serving import protocol
from ipa.serving.connections import FEW, Connections, ServerBounds, address_group, within_files
from ipa.serving.protocol import (
    KEPT_CONNECTIONS,
    MOST_PIPELINED,
    BoundedConfig,
    BoundedProtocol,
    BoundedServer,
)

WAIT_S = 300.0


class Fake:
    """A connection that says when it is closed to make room."""

    def __init__(self) -> None:
        self.is_displaced = False

    def displace(self) -> None:
        self.is_displaced = True


def admitted(registry: Connections, host: str, count: int = 1, *, waits: bool = True) -> list[Fake]:
    made = [Fake() for _ in range(count)]
    for each in made:
        assert registry.admit(each, host)
        if waits:
            registry.waits(each)
    return made


def test_the_connection_that_waited_longest_makes_room() -> None:
    registry = Connections(ServerBounds(connections=10, address_connections=10))
    first, second, third = admitted(registry, "10.0.0.1", 3)
    registry.waits(first)
    admitted(registry, "10.0.0.2", 7, waits=False)
    admitted(registry, "10.0.0.3")
    assert [each.is_displaced for each in (first, second, third)] == [False, True, False]
    assert (len(registry), registry.displaced, registry.refused) == (10, 1, 0)


def test_a_connection_that_is_answered_is_never_closed_for_another() -> None:
    registry = Connections(ServerBounds(connections=10, address_connections=10))
    busy = admitted(registry, "10.0.0.1", 9)
    for each in busy:
        registry.works(each)
    busy += admitted(registry, "10.0.0.2", waits=False)
    assert not registry.admit(Fake(), "10.0.0.3")
    assert not any(each.is_displaced for each in busy)
    registry.forget(busy[0])
    assert registry.admit(Fake(), "10.0.0.3")


def test_an_address_at_its_bound_makes_room_by_its_own_connections() -> None:
    registry = Connections(ServerBounds(connections=100, address_connections=5))
    [other] = admitted(registry, "10.0.0.2")
    mine = admitted(registry, "10.0.0.1", 5)
    admitted(registry, "10.0.0.1")
    assert (other.is_displaced, mine[0].is_displaced) == (False, True)


def test_the_last_places_are_for_addresses_with_few_connections() -> None:
    registry = Connections(ServerBounds(connections=100, address_connections=100))
    admitted(registry, "10.0.0.1", 90, waits=False)
    assert not registry.admit(Fake(), "10.0.0.1")
    admitted(registry, "10.0.0.2", FEW, waits=False)
    assert not registry.admit(Fake(), "10.0.0.2")
    admitted(registry, "10.0.0.3", FEW)


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_count_together_that_one_client_has(host: str, group: str) -> None:
    assert address_group(host) == group


def test_connections_leave_files_for_the_rest_of_the_process() -> None:
    assert within_files(ServerBounds(connections=1000), 20_000).connections == 1000
    assert within_files(ServerBounds(connections=1000), 1024).connections == 768
    small = within_files(ServerBounds(connections=1000), 256)
    assert (small.connections, small.address_connections) == (64, 16)
    shared = within_files(ServerBounds(connections=1000, address_connections=1000), 1024)
    assert (shared.connections, shared.address_connections) == (768, 768)


async def application(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answers /early without the body, /held once it is let, and all else with the size of its body."""
    if scope["type"] != "http":
        return
    size = 0
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    if scope["path"] == "/held":
        scope["inside"].release()
        await asyncio.to_thread(scope["lets"].wait, WAIT_S)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(
    bounds: ServerBounds,
    lets: threading.Event | None = None,
    inside: threading.Semaphore | None = None,
    app: Callable[..., Any] = application,
) -> Iterator[Callable[[], socket.socket]]:
    """Connects to a server with those bounds."""
    started = threading.Event()

    async def with_events(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "lets": lets, "inside": inside}, receive, send)

    class Server(BoundedServer):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            started.set()

    server = Server(BoundedConfig(with_events, bounds, loop="asyncio", log_config=None, lifespan="off"))
    made: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def connect() -> socket.socket:
            made.append(socket.create_connection(listener.getsockname(), timeout=WAIT_S))
            return made[-1]

        try:
            assert started.wait(WAIT_S)
            yield connect
        finally:
            for each in made:
                each.close()
            server.should_exit = True
            thread.join(WAIT_S)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


LINE = b"POST / HTTP/1.1\r\nHost: x\r\n"


def test_an_answer_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, delays = BoundedProtocol.connection_made, []

    def connection_made(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        accepted = transport.get_extra_info("socket")
        delays.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0)

    monkeypatch.setattr(BoundedProtocol, "connection_made", connection_made)
    with serving(ServerBounds()) as connect:
        connection = connect()
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")
    assert delays == [False]


async def test_what_many_closed_connections_took_is_given_back_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(protocol, "give_back_memory", lambda: threads.append(threading.get_ident()))
    server = BoundedServer(BoundedConfig(application, ServerBounds(), log_config=None))
    connections: set[Any] = server.server_state.connections
    for count, given in ((KEPT_CONNECTIONS, 0), (0, 0), (KEPT_CONNECTIONS + 1, 0), (0, 1), (0, 1)):
        connections.clear()
        connections.update(range(count))
        await server.on_tick(1)
        assert len(threads) == given
    assert threads != [threading.get_ident()]


def test_a_server_gives_back_what_bodies_took(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(protocol, "give_back_bodies", lambda: given.append(True))
    with serving(ServerBounds()):
        assert given == [True]


def test_a_body_of_many_chunks_arrives_whole() -> None:
    with serving(ServerBounds(chunk_bytes=1024)) as connect:
        connection = connect()
        connection.sendall(LINE + b"Content-Length: 500000\r\nConnection: close\r\n\r\n" + b"x" * 500_000)
        assert rest(connection).endswith(b"\r\n\r\n500000")


def test_requests_sent_together_are_answered_in_order() -> None:
    with serving(ServerBounds(idle_s=0.2)) as connect:
        connection = connect()
        connection.sendall(b"".join(LINE + b"Content-Length: %d\r\n\r\n" % n + b"x" * n for n in range(1, 6)))
        answers = rest(connection).split(b"HTTP/1.1 200 OK")[1:]
        assert [answer[-1:] for answer in answers] == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize(
    ("bounds", "sent", "status"),
    [
        (ServerBounds(head_s=0.2), b"GET / HT", b"408"),
        (ServerBounds(body_s=0.2), LINE + b"Content-Length: 5\r\n\r\nx", b"408"),
        (ServerBounds(head_bytes=2000), b"GET / HTTP/1.1\r\nX: " + b"x" * 3000, b"431"),
        (ServerBounds(), b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (ServerBounds(), b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (ServerBounds(), b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
    ],
    ids=["head", "body", "long head", "no HTTP", "no host", "two hosts"],
)
def test_a_request_that_does_not_come_whole_is_told_why(
    bounds: ServerBounds, sent: bytes, status: bytes
) -> None:
    with serving(bounds) as connect:
        connection = connect()
        connection.sendall(sent)
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"application/problem+json" in answer


def test_a_silent_connection_is_closed() -> None:
    with serving(ServerBounds(head_s=0.2)) as connect:
        assert rest(connect()) == b""


def test_a_byte_now_and_then_does_not_keep_an_idle_connection() -> None:
    with serving(ServerBounds(head_s=0.3, idle_s=0.3)) as connect:
        connection = connect()
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536)
        connection.sendall(b"GET /")
        ended = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not ended.wait(0.05):
                    connection.sendall(b"X")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert b"HTTP/1.1 408 " in rest(connection)
        finally:
            ended.set()
            thread.join()


def test_the_rest_of_a_request_that_was_answered_is_dropped_and_then_the_next_one_read() -> None:
    with serving(ServerBounds(idle_s=0.3)) as connect:
        connection = connect()
        connection.sendall(LINE.replace(b"/", b"/early", 1) + b"Content-Length: 60000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"x" * 60_000 + LINE + b"Content-Length: 3\r\n\r\nabc")
        assert rest(connection).endswith(b"\r\n\r\n3")


def test_the_rest_of_a_request_that_was_answered_is_not_read_without_an_end() -> None:
    bounds = ServerBounds(dropped_bytes=50_000, linger_s=WAIT_S)
    with serving(bounds) as connect:
        connection = connect()
        connection.sendall(LINE.replace(b"/", b"/early", 1) + b"Content-Length: 100000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"x" * 60_000)


def test_who_finds_every_place_taken_by_an_answer_is_told_to_come_again() -> None:
    lets, inside = threading.Event(), threading.Semaphore(0)
    with serving(ServerBounds(connections=3, address_connections=3), lets, inside) as connect:
        held = [connect() for _ in range(3)]
        for each in held:
            each.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        # Until their requests are read those wait for their clients, and make room themselves.
        assert all(inside.acquire(timeout=WAIT_S) for _ in held)
        assert b"Retry-After: 1" in rest(connect())
        lets.set()
        assert [rest(each).startswith(b"HTTP/1.1 200 ") for each in held].count(True) == 3


def test_requests_after_one_that_cannot_be_read_end_with_the_answers_before_it() -> None:
    with serving(ServerBounds()) as connect:
        connection = connect()
        connection.sendall(LINE + b"Content-Length: 1\r\n\r\nx" + LINE + b"Content-Length: x\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 200 ") == 1
        broken = connect()
        chunked = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
        broken.sendall(LINE + b"Content-Length: 1\r\n\r\nx" + chunked + b"no size\r\n")
        assert rest(broken).count(b"HTTP/1.1 200 ") == 1


def test_no_more_requests_wait_on_a_connection_than_it_may_hold() -> None:
    with serving(ServerBounds(idle_s=0.2)) as connect:
        within, beyond = connect(), connect()
        request = LINE + b"Content-Length: 0\r\n\r\n"
        within.sendall(request * (MOST_PIPELINED + 1))
        assert rest(within).count(b"HTTP/1.1 200 ") == MOST_PIPELINED + 1
        beyond.sendall(request * (MOST_PIPELINED + 9))
        assert rest(beyond).count(b"HTTP/1.1 200 ") == MOST_PIPELINED + 1


def test_a_request_to_change_the_protocol_is_answered_and_the_next_one_too() -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with serving(ServerBounds(idle_s=0.2)) as connect:
        connection = connect()
        connection.sendall(upgrade + LINE + b"Content-Length: 2\r\n\r\nab")
        answers = rest(connection).split(b"HTTP/1.1 200 OK")[1:]
        assert [answer[-1:] for answer in answers] == [b"0", b"2"]


@pytest.mark.parametrize("piece_bytes", [24, 5, 1])
def test_a_client_of_http_2_is_told_in_http_1_and_its_connection_ends(piece_bytes: int) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    with serving(ServerBounds()) as connect:
        connection = connect()
        for start in range(0, len(preface), piece_bytes):
            connection.sendall(preface[start : start + piece_bytes])
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n")
    assert b"Connection: close" in answer and b"send it over HTTP/1.1" in answer


def test_a_trailer_is_no_header_and_has_an_end() -> None:
    headers: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers.append(scope["headers"])
        await application({**scope, "path": "/early"}, receive, send)

    chunked = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving(ServerBounds(head_bytes=2000), app=app) as connect:
        connection = connect()
        connection.sendall(chunked + b"1\r\nx\r\n0\r\nAuthorization: y\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert b"authorization" not in dict(headers[0])
        for endless in (b"0\r\nX: ", b"1;x="):
            other = connect()
            with suppress(OSError):
                other.sendall(chunked + endless + b"x" * 50_000)
            assert rest(other).startswith(b"HTTP/1.1 431 ")
