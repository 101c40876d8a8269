"""Connections that begin with HTTP/2 at the port of router and queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ipa.dataplane.http import Application, Response
from ipa.serving.connections import ServerBounds
from ipa.serving.protocol import BoundedConfig, BoundedServer
from ipa.serving.relay import PREFACE

BOUNDS = ServerBounds(connections=100, address_connections=100)
LARGE = 4 << 20
WITHIN_S = 300.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers each byte with itself; `ended` once a connection to it has closed."""

    def __init__(self, *, fails: bool = False) -> None:
        self.ended = asyncio.Event()
        self.started = 0
        self._fails = fails
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        if self._fails:
            raise OSError("gRPC needs the packages grpcio and protobuf")
        if self._server is None:
            self.started += 1
            self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
            if data.endswith(b"bye"):
                break
        writer.close()
        self.ended.set()


def served(
    echo: Echo | None, scenario: Callable[[Callable[[], Awaitable[Streams]]], Awaitable[None]]
) -> None:
    """Run the scenario, which is given how to connect to a server with that one beside it."""

    async def nothing() -> None:
        return None

    async def here(_call: Any) -> Response:
        return Response(b"here")

    async def run() -> None:
        application = Application({("GET", "/"): here}, start=nothing, stop=nothing)
        config = BoundedConfig(
            application, BOUNDS, host="127.0.0.1", port=0, lifespan="on", log_level="critical", h2_server=echo
        )
        server = BoundedServer(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(WITHIN_S):
                await scenario(lambda: asyncio.open_connection("127.0.0.1", port))
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


def test_they_are_passed_on_both_ways_and_http_is_answered_at_the_same_port() -> None:
    async def scenario(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(PREFACE + b"hello")
        assert await reader.readexactly(len(PREFACE) + 5) == PREFACE + b"hello"
        # More than fits into what either side holds.
        writer.write(bytes(LARGE))
        assert await reader.readexactly(LARGE) == bytes(LARGE)
        other_reader, other = await connect()
        other.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert (await other_reader.read()).endswith(b"here")
        other.close()
        # The far end closes after what it has sent.
        writer.write(b"bye")
        assert await reader.read() == b"bye"
        writer.close()

    served(Echo(), scenario)


def test_the_far_end_closes_with_its_client_and_starts_once() -> None:
    echo = Echo()

    async def scenario(connect: Callable[[], Awaitable[Streams]]) -> None:
        for _ in range(2):
            reader, writer = await connect()
            writer.write(PREFACE)
            await reader.readexactly(len(PREFACE))
            writer.close()
            await echo.ended.wait()
            echo.ended.clear()
        assert echo.started == 1

    served(echo, scenario)


@pytest.mark.parametrize("echo", [None, Echo(fails=True)], ids=["none", "fails"])
def test_without_a_server_of_http2_they_end(echo: Echo | None) -> None:
    async def scenario(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(PREFACE + b"\r\nSM\r\n\r\n")
        answer = await reader.read()
        assert answer == b"" if echo else answer.startswith(b"HTTP/1.1 400 ")
        writer.close()

    served(echo, scenario)
