"""Connections of HTTP/2: relayed to the server that speaks it, and bounded on their way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipa.serving.connections import WIDE_WAIT_S, Connections, ServerBounds
from ipa.serving.http2 import PREFACE, RELAY_FILES, SPARE_FRAMES, Frames, PassedFrames
from ipa.serving.protocol import BoundedConfig, BoundedServer

DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM = 1
WITHIN_S = 60.0
BOUNDS = ServerBounds(connections=100, address_connections=100, head_bytes=2000)


def frame(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 1) -> bytes:
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
    return head + payload


CALL = frame(HEADERS, 4, b"h" * 20) + frame(DATA, END_STREAM, b"d" * 30)
ANSWER = frame(HEADERS, 4, b"h") + frame(DATA, 0, b"d" * 40) + frame(HEADERS, END_STREAM, b"t")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_frames_are_counted_however_they_arrive(size: int) -> None:
    data = PREFACE + frame(SETTINGS) + CALL + frame(RST_STREAM, 0, bytes(4)) + frame(DATA)
    frames, found = Frames(len(PREFACE)), PassedFrames(0, 0, 0, 0)
    for start in range(0, len(data), size):
        passed = frames.pass_by(data[start : start + size])
        found = PassedFrames(*map(sum, zip(found, passed, strict=True)))
    assert found == PassedFrames(bodies=1, others=4, ended=1, reset=1)
    assert frames.head_bytes == 29


class Beside:
    """A server that answers a call, and keeps what it was sent."""

    def __init__(self, folder: str) -> None:
        self.address, self.taken = f"{folder}/s", bytearray()
        self._ended = asyncio.Event()

    async def ends(self) -> None:
        """Wait until a connection has ended."""
        await self._ended.wait()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.address)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.taken += data
            if data.endswith(CALL):
                writer.write(ANSWER)
        self._ended.set()
        writer.close()

    async def stop(self, grace_s: float) -> None:
        self._server.close()

    def take_usage(self) -> bool:
        return False


def serve(scenario: Callable[[Beside, int], Awaitable[None]], folder: str) -> None:
    """Run a server with another beside it, and the scenario with its port."""

    async def run() -> None:
        beside = Beside(folder)
        listener = socket.create_server(("127.0.0.1", 0))
        config = BoundedConfig(
            no_app,
            BOUNDS,
            beside=lambda: beside,
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        server = BoundedServer(config)
        served = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(WITHIN_S):
            while not server.started:
                await asyncio.sleep(0.01)
            await scenario(beside, listener.getsockname()[1])
            server.should_exit = True
            await served

    asyncio.run(run())


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope)


def test_what_either_side_sends_reaches_the_other(tmp_path: Path) -> None:
    async def scenario(beside: Beside, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + CALL)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        large = frame(DATA, 0, b"d" * 16_000) * 100
        writer.write(large + CALL)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert bytes(beside.taken) == PREFACE + CALL + large + CALL
        writer.close()
        await beside.ends()

    serve(scenario, str(tmp_path))


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, bytes(8), 0) * (SPARE_FRAMES + 1),
        (frame(HEADERS, 4, b"h") + frame(RST_STREAM, 0, bytes(4))) * (SPARE_FRAMES // 2 + 1),
        frame(HEADERS, 0, b"h" * 1000) + frame(CONTINUATION, 0, b"h" * 1000),
        frame(HEADERS) + frame(CONTINUATION) * SPARE_FRAMES,
    ],
    ids=["pings", "rapid reset", "long headers", "empty continuations"],
)
def test_floods_of_frames_end_their_connection(tmp_path: Path, flood: bytes) -> None:
    async def scenario(_beside: Beside, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + flood)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

    serve(scenario, str(tmp_path))


def test_a_client_whose_requests_are_answered_may_go_on(tmp_path: Path) -> None:
    async def scenario(_beside: Beside, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE)
        for _ in range(3):
            writer.write(frame(PING, 0, bytes(8), 0) * (SPARE_FRAMES // 2) + CALL)
            assert await reader.readexactly(len(ANSWER)) == ANSWER
        writer.close()

    serve(scenario, str(tmp_path))


def test_connections_beyond_those_that_are_relayed_wait_and_one_that_idles_for_long_makes_room() -> None:
    now_s = [0.0]
    registry = Connections(BOUNDS, lambda: now_s[0])
    made = [Owner() for _ in range(8)]
    for each in made:
        assert registry.admit(each, "192.0.2.1")
    *relayed, late = made[:7]
    for each in relayed:
        assert registry.widen(each, RELAY_FILES)
        registry.waits(each)
    assert not registry.widen(late, RELAY_FILES)
    now_s[0] += WIDE_WAIT_S
    registry.works(relayed[0])
    assert registry.widen(late, RELAY_FILES)
    assert [each.is_displaced for each in relayed] == [False, True, *[False] * 4]
    assert len(registry) == 7 + 6 * RELAY_FILES


class Owner:
    """The registry's name of a connection."""

    is_displaced = False

    def displace(self) -> None:
        self.is_displaced = True
