"""HTTP requests to an untrusted receiver: its address is checked, its time and its answer are bounded.

It uses httpcore, since a network backend of httpcore can check an address before it connects.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx

Address = IPv4Address | IPv6Address
# The metadata services of clouds, which hold credentials, beside the link-local 169.254.169.254: AWS over
# IPv6, Alibaba, Azure. Refused even if private networks are allowed.
METADATA = frozenset(
    ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
# Networks with an IPv4 address in the last 32 bits: NAT64, "translated" and the deprecated "compatible" ones.
NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
EMBEDDING = (*NAT64, IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))
# The public addresses of IPv6 are these; all other networks are reserved, or have another use.
UNICAST = (IPv6Network("2000::/3"), *NAT64)


def refusal(text: str, *, private: bool) -> str:
    """Return why the address is refused, empty if it is not. `private` allows private networks."""
    outer = ip_address(text)
    for address in (outer, *_embedded(outer)):
        why = _refusal(address, private=private)
        if why:
            return f"{text} is {why}"
    return ""


def _refusal(address: Address, *, private: bool) -> str:
    if address in METADATA:
        return "a cloud's metadata service, which holds credentials"
    if address.is_link_local:
        return "link-local, as the metadata services of clouds, which hold credentials"
    if address.is_multicast or address.is_unspecified:
        return "not the address of a single host"
    if not private and not _is_public(address):
        return "not public; IPA_WEBHOOK_NETWORKS=private allows it"
    return ""


def _is_public(address: Address) -> bool:
    """True if the address is public; those that it embeds are judged by themselves."""
    if isinstance(address, IPv4Address):
        return address.is_global
    plain = IPv6Address(int(address))
    is_unicast = any(plain in network for network in UNICAST)
    return is_unicast and (address.is_global or bool(_embedded(address)))


def _embedded(address: Address) -> tuple[Address, ...]:
    """The addresses that traffic to this one is forwarded to."""
    if isinstance(address, IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    plain = IPv6Address(int(address))
    if int(plain) > 1 and any(plain in network for network in EMBEDDING):
        return (IPv4Address(int(plain) & 0xFFFF_FFFF),)
    return ()


# The most that is read of an answer, of which only the status counts; a longer one is closed unread.
ANSWER_BYTES = 64 * 1024


FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class DeliveryError(Exception):
    """The receiver did not answer in time, or its address is refused."""


class _InTime(httpcore.NetworkStream):
    """A connection with one deadline for all of its reads and writes, however slowly the peer sends."""

    def __init__(self, stream: httpcore.NetworkStream, left_s: Callable[[], float]) -> None:
        self._stream, self._left_s = stream, left_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _InTime(self._stream.start_tls(ssl_context, server_hostname, self._left_s()), self._left_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Guard(httpcore.NetworkBackend):
    """A backend that connects to the address that it checked, not to a name, which may change meanwhile."""

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
            # This also resolves forms that only the system reads as an address: 2130706433, 0x7f.1.
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
    """A sender to one URL, over a persistent connection if the receiver keeps it. Not thread-safe."""

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
        # httpcore uses no proxy of the environment, retries nothing and follows no redirect.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, max_connections=1, network_backend=self._guard
        )

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, httpx.Headers]:
        """Post the body. Return the answer's status and headers. DeliveryError: there was none in time."""
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
        """Read a short answer, so that the connection can be reused."""
        read = 0
        # The status counts, even if the rest of the answer fails.
        with suppress(*FAILURES):
            for part in answer.iter_stream():
                read += len(part)
                if read > ANSWER_BYTES:
                    return
