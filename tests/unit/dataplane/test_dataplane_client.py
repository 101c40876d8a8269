"""The HTTP client of queue and router, against servers that write what they like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from ipa.dataplane.client import Client, ConnectionLostError, OversizedAnswerError

MOST_BYTES = 1000
WITHIN_S = 300.0
OK = b"HTTP/1.1 200 OK\r\n"
KEPT = OK + b"content-length: 2\r\n\r\nok"


@dataclass
class Server:
    """Answers each request with the next of `answers`, in pieces of `piece` bytes; after the last it closes.

    `asked` are the requests by connection.
    """

    answers: list[bytes]
    piece: int = 1 << 20
    asked: list[list[bytes]] = field(default_factory=list)
    url: str = ""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own: list[bytes] = []
        self.asked.append(own)
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0"
            own.append(head + await reader.readexactly(int(length)))
            answer = self.answers.pop(0)
            for start in range(0, len(answer), self.piece):
                writer.write(answer[start : start + self.piece])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


def run(server: Server, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def whole() -> None:
        listening = await asyncio.start_server(server._answer, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        client = Client(MOST_BYTES)
        await client.open()
        async with asyncio.timeout(WITHIN_S):
            await scenario(client)
        await client.close()
        listening.close()

    asyncio.run(whole())


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok", b"ok"),
        (
            OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
        ),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-after: 1\r\n\r\n", b"a"),
        (OK + b"content-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 \r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
def test_an_answer_is_read_however_it_is_laid_out(answer: bytes, body: bytes, piece: int) -> None:
    async def scenario(client: Client) -> None:
        status, content, _ = await client.post(f"{server.url}/v2/x?y=1", b"{}", {"ipa-budget-ms": "5"})
        assert (status, content) == (200, body)

    server = Server([answer], piece)
    run(server, scenario)
    [[sent]] = server.asked
    lines = sent.decode().split("\r\n")
    assert lines[0] == "POST /v2/x?y=1 HTTP/1.1"
    assert {"content-type: application/json", "content-length: 2", "ipa-budget-ms: 5"} <= {*lines}
    assert lines[-1] == "{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: x\r\n\r\n",
        OK + b"content-length: 9\r\n\r\nshort",
        OK + b"transfer-encoding: gzip\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3\r\nab",
        OK + b"x: " + b"y" * 70_000,
    ],
)
def test_an_answer_that_is_none_loses_the_connection_after_the_request_was_sent(answer: bytes) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ConnectionLostError) as lost:
            await client.post(server.url, b"{}", {})
        assert lost.value.was_sent

    server = Server([answer])
    run(server, scenario)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 1001\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nFFFFFFFF\r\n" + b"a" * 1001,
        OK
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"1F4\r\n"
        + b"a" * 500
        + b"\r\n"
        + b"1F5\r\n"
        + b"a" * 501,
        OK + b"\r\n" + b"a" * 1001,
    ],
)
def test_an_answer_beyond_the_bound_is_not_read(answer: bytes) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(OversizedAnswerError, match="more than 1000 bytes"):
            await client.post(server.url, b"{}", {})

    run(server := Server([answer]), scenario)


def test_connections_are_kept_unless_an_answer_ends_them() -> None:
    closes = OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok"
    more = KEPT + b"HTTP/1.1 200 OK\r\n\r\n"

    async def scenario(client: Client) -> None:
        for _ in range(5):
            assert (await client.post(server.url, b"{}", {}))[1] == b"ok"
        assert await client.get(server.url, 5.0) == (200, b"ok")

    server = Server([KEPT, KEPT, closes, KEPT, more, KEPT])
    run(server, scenario)
    # What came after an answer is not taken for the next one.
    assert [len(each) for each in server.asked] == [3, 2, 1]


def test_one_that_is_given_up_is_not_used_again() -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.post(server.url, b"{}", {})
        with pytest.raises(ConnectionLostError, match=r"no answer within 0\.05 s"):
            await client.get(server.url, 0.05)
        assert (await client.post(server.url, b"{}", {}))[1] == b"ok"

    server = Server([OK, OK, KEPT])
    run(server, scenario)
    assert [len(each) for each in server.asked] == [1, 1, 1]


def test_what_is_refused_was_not_sent() -> None:
    async def scenario(client: Client) -> None:
        for url in ("http://127.0.0.1:1/x", "http://no-such-host.invalid/x"):
            with pytest.raises(ConnectionLostError) as lost:
                await client.post(url, b"{}", {})
            assert not lost.value.was_sent
        for url in ("https://127.0.0.1:1/", "file:///etc/passwd", "http://127.0.0.1:1/a b"):
            with pytest.raises(ValueError, match=r"is not a URL|has spaces"):
                await client.post(url, b"{}", {})
        with pytest.raises(ValueError, match="more than one line"):
            await client.post("http://127.0.0.1:1/x", b"{}", {"x": "a\r\ny: b"})

    run(Server([]), scenario)


def test_what_a_kept_connection_loses_is_sent_once_more_over_a_new_one() -> None:
    """A server that has ended leaves as many broken connections as there were requests at once."""

    async def scenario(restarts: int) -> list[int]:
        requests: list[int] = []
        ended: list[int] = []
        both = asyncio.Barrier(2)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = len(requests)
            requests.append(0)
            with suppress(asyncio.IncompleteReadError, ConnectionResetError):
                while await reader.readuntil(b"\r\n\r\n{}"):
                    requests[number] += 1
                    # The first two are kept, and lose what comes next; so do the later ones, so often.
                    if number < 2 and requests[number] == 1:
                        await both.wait()
                    elif number < 2 + restarts:
                        break
                    writer.write(KEPT)
            writer.close()
            ended.append(number)

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        client = Client()
        await client.open()
        try:
            async with asyncio.timeout(WITHIN_S):
                await asyncio.gather(*(client.post(url, b"{}", {}) for _ in range(2)))
                assert (await client.post(url, b"{}", {}))[1] == b"ok"
        finally:
            await client.close()
            while len(ended) < len(requests):
                await asyncio.sleep(0)
            listening.close()
        return requests

    # The other kept connection is of the same server: nothing is sent over it.
    assert sorted(asyncio.run(scenario(0))) == [1, 1, 2]
    with pytest.raises(ConnectionLostError) as lost:
        asyncio.run(scenario(1))
    assert lost.value.was_sent
