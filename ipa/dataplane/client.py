"""The HTTP client of the queue and the router."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

# The caller gives up much earlier, at the deadline. This bound closes a connection whose peer vanished.
LONGEST_ANSWER_S = 600.0
# Within one network a connection takes milliseconds; a retry may reach another pod.
CONNECT_S = 1.0
# MLServer closes idle connections after 5 s: close earlier, or a request may be written to a closing one.
IDLE_S = 4.0
# As large as the largest request.
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class ConnectionLostError(Exception):
    """The connection was refused or broke without an answer. With `was_sent` the server may have started."""

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class OversizedAnswerError(Exception):
    """The answer has more than MAX_ANSWER_BYTES."""


class Client:
    """A client that posts JSON over persistent connections, from `open` to `close`."""

    def __init__(self, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Begin, in the event loop that it is used in."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=LONGEST_ANSWER_S, sock_connect=CONNECT_S),
            headers={"content-type": "application/json"},
            # A cookie of one answer would travel with the requests of others.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept-encoding", "user-agent", "accept"),
        )

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Post the body. Return the status, body and headers.

        Errors: ConnectionLostError, OversizedAnswerError.
        """
        assert self._session is not None, "it is open"
        try:
            # A redirect is an answer other than 200: no other server may get the request.
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, await self._read(response), response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ConnectionLostError(f"{url}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ConnectionLostError(f"{url}: {error or type(error).__name__}", was_sent=True) from error

    async def get(self, url: str, within_s: float) -> tuple[int, bytes]:
        """Get the URL. Return the status and body. Errors as `post`: ConnectionLostError after `within_s`."""
        assert self._session is not None, "it is open"
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.get(url, allow_redirects=False, timeout=timeout) as response:
                return response.status, await self._read(response)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ConnectionLostError(f"{url}: {error or type(error).__name__}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_answer_bytes:
                # Close the connection, with the rest of the answer unread.
                response.close()
                raise OversizedAnswerError(f"the answer has more than {self._max_answer_bytes} bytes")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def close(self) -> None:
        """Close every connection."""
        if self._session:
            await self._session.close()
