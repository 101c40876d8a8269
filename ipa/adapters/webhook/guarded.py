"""One HTTP request to a receiver that is not trusted: its address, its time and its answer are bounded.

Over httpcore, whose network backends are where a connection can be looked at before it is made.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import httpcore
import httpx

from ipa.adapters.webhook.addresses import refusal

# Of an answer; what is longer is closed unread. We only want its status.
ANSWER_BYTES = 64 * 1024


FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class DeliveryError(Exception):
    """The receiver did not answer in time, or may not be reached."""


class _InTime(httpcore.NetworkStream):
    """A connection of which every use together ends by a deadline, however the peer drips."""

    def __init__(self, stream: httpcore.NetworkStream, left_s: Callable[[], float]) -> None:
        self._stream, self._left_s = stream, left_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _InTime(self._stream.start_tls(ssl_context, server_hostname, self._left_s()), self._left_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Guard(httpcore.NetworkBackend):
    """Connects to an address that was looked at, not to a name that may mean another by then."""

    def __init__(self, *, private: bool, resolve: Callable[..., Any]) -> None:
        self._private, self._resolve = private, resolve
        self._backend = httpcore.SyncBackend()
        self.until_s = 0.0

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        refused: list[str] = []
        failed: Exception | None = None
        for address in self._addresses(host, port):
            why = refusal(address, private=self._private)
            if why:
                refused.append(why)
                continue
            try:
                stream = self._backend.connect_tcp(
                    address, port, self._left_s(), local_address, socket_options
                )
                return _InTime(stream, self._left_s)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        if failed is not None:
            raise failed
        raise httpcore.ConnectError(f"{host}: {'; '.join(refused) or 'has no address'}")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            # Also what only the system reads as an address, as 2130706433 or 0x7f.1.
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        return [str(entry[4][0]) for entry in found]

    def _left_s(self) -> float:
        left_s = self.until_s - time.monotonic()
        if left_s <= 0.0:
            raise httpcore.ReadTimeout("the receiver took too long")
        return left_s


class Sender:
    """Posts to one URL. For one thread; a connection is kept for the next post where the receiver does."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        private: bool,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Callable[..., Any] = socket.getaddrinfo,
    ) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._guard = _Guard(private=private, resolve=resolve)
        # No proxies of the environment, no retries, no redirects: httpcore has none of them by itself.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, max_connections=1, network_backend=self._guard
        )

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, httpx.Headers]:
        """The status and the headers of the answer. DeliveryError: there was none in time."""
        self._guard.until_s = time.monotonic() + self._timeout_s
        try:
            with self._pool.stream("POST", self._url, headers=[*headers.items()], content=body) as answer:
                self._drain(answer)
                return answer.status, httpx.Headers(answer.headers)
        except FAILURES as error:
            raise DeliveryError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _drain(self, answer: httpcore.Response) -> None:
        """Read a short answer, so that the connection can be used again."""
        read = 0
        # The status counts, whatever becomes of the rest.
        with suppress(*FAILURES):
            for part in answer.iter_stream():
                read += len(part)
                if read > ANSWER_BYTES:
                    return
