"""The HTTP client of queue and router."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

# A model server that takes longer over one batch is taken for lost.
TIMEOUT_S = 30.0
# MLServer closes idle connections after 5 s: let go before, or a request may be written into the closing.
IDLE_S = 4.0


class ConnectionLostError(Exception):
    """No answer: refused, broken off, or not within TIMEOUT_S."""


class Client:
    """Posts JSON over connections that are kept. Make and close it inside the event loop."""

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"content-type": "application/json"},
            auto_decompress=False,
            skip_auto_headers=("accept-encoding", "user-agent", "accept"),
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer; ConnectionLostError without one."""
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ConnectionLostError(f"{url}: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
