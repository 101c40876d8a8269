"""Minimal HTTP for the queue and the router, as plain ASGI: routes, bodies, problem documents."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import orjson

from ipa.dataplane.tensors import INLINE_BYTES, VALUE_BYTES, parse_object
from ipa.serving.body_budget import BodyBudget, Incoming, NoRoomError, Turns, aside, structure

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger("ipa.dataplane")

# A page as base64 PNG is below 1 MB.
MAX_BODY_BYTES = 8 * 1024 * 1024
# Bytes of all requests that are read or served at once. Above it requests are refused with 503.
MAX_HELD_BYTES = 192 * 1024 * 1024
# A request may have one value for this many bytes of the largest body: a million, seven pictures of
# 224 × 224 × 3.
BYTES_A_VALUE = 8
# A list takes the time and memory of this many values.
LIST_VALUES = 8

# The remaining time budget of a request. The router sends it to the queue; for a client it is optional.
BUDGET_HEADER = "ipa-budget-ms"
# The time budget of a request that has none, by the router's drop_after or SLA neither.
DEFAULT_BUDGET_S = 30.0
# No client waits longer for an answer; a larger value is a mistake in the unit.
MAX_BUDGET_S = 3600.0

# The most of a path that is quoted in an error.
MOST_QUOTED = 100
# The part that a call of a queue is for, if several configurations run side by side: from 1 on.
PART_HEADER = "ipa-part"
FIRST_PART = "1"
PARTS = tuple(map(str, range(1, 17)))

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "::1"})
# Probes and scrapes may use any host name: these paths disclose nothing that the check protects.
OPEN_PATHS = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})


@dataclass(eq=False)
class HttpError(Exception):
    """An error that is answered as problem+json (RFC 9457): status, code for programs, detail for people.

    The member `error` repeats the detail, as the V2 protocol requires; `cause` is a finer code than `code`.
    With `closes` the connection is closed after the answer, so that the rest of the request is not read. A
    503 has a Retry-After of `retry_after_s`, rounded up to whole seconds.
    """

    status: int
    code: str
    detail: str
    cause: str = field(default="", kw_only=True)
    retry_after_s: float = field(default=0.0, kw_only=True)
    closes: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return self.detail

    def response(self) -> Response:
        """The problem document as a response."""
        problem = {"type": "about:blank", "title": self.code, "status": self.status}
        problem |= {"cause": self.cause} if self.cause else {}
        body = orjson.dumps({**problem, "code": self.code, "detail": self.detail, "error": self.detail})
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        headers |= {"retry-after": str(max(1, math.ceil(self.retry_after_s)))} if self.status == 503 else {}
        headers |= {"connection": "close"} if self.closes else {}
        return Response(body, self.status, "application/problem+json", headers)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The most bytes of one request's body, and of all bodies that are read or served at once."""

    body_bytes: int = MAX_BODY_BYTES
    held_bytes: int = MAX_HELD_BYTES

    @property
    def values(self) -> int:
        """The most values of one request."""
        return self.body_bytes // BYTES_A_VALUE


DEFAULT_LIMITS = BodyLimits()


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request with its complete body.

    `hold` counts the memory of parsed values until the request is answered; HttpError 503: too much is held.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    client: str
    hold: Callable[[int], None] = lambda size: None
    limits: BodyLimits = DEFAULT_LIMITS

    @property
    def is_large(self) -> bool:
        """True if the body is too large to process in the event loop."""
        return len(self.body) > INLINE_BYTES

    async def parse_object(self, text: bytes) -> dict[str, Any]:
        """Return the JSON object of a text of the body, after counting its values.

        InputError: not a JSON object. HttpError 413: it has too many values; 503: no memory is left for them.
        """
        self.hold(VALUE_BYTES * await aside(self.is_large, self._values, text))
        return await aside(self.is_large, parse_object, text, "the body")

    def _values(self, text: bytes) -> int:
        """An estimate of the values in a JSON text; a list counts for several."""
        most = self.limits.values
        # The content of strings counts only if it would be too much.
        for form in (bytes, structure):
            counted = form(text)
            values = counted.count(b",") + LIST_VALUES * (counted.count(b"[") + counted.count(b"{"))
            if values <= most:
                return values
        raise HttpError(
            *(413, "too_large"),
            f"the request has more than {most} values (a list counts for {LIST_VALUES}): send fewer, without"
            " nesting, or send them as bytes",
        )

    def budget_s(self) -> float | None:
        """The time budget in seconds; None without the header. HttpError 400: the header is invalid."""
        text = self.headers.get(BUDGET_HEADER)
        if text is None:
            return None
        try:
            budget_s = float(text) / 1000
        except ValueError:
            budget_s = math.nan
        # Also false for NaN.
        if not 0 <= budget_s <= MAX_BUDGET_S:
            most_ms = f"{MAX_BUDGET_S * 1000:.0f}"
            raise HttpError(
                400, "input", f"{BUDGET_HEADER}: {text[:40]!r} is not a number of ms from 0 to {most_ms}"
            )
        return budget_s

    def part(self) -> str:
        """The part that the request is for; without the header the first. HttpError 400: no such part."""
        part = self.headers.get(PART_HEADER, FIRST_PART)
        if part not in PARTS:
            raise HttpError(400, "input", f"{PART_HEADER}: {part[:40]!r} is not one of {', '.join(PARTS)}")
        return part

    def require_supervisor(self, token: str) -> None:
        """Raise HttpError unless the caller is on this machine and has the supervisor's token.

        An empty token means that there is no supervisor: every call is refused.
        """
        if not token:
            raise HttpError(403, "forbidden", "the admin address is off: the process has no token")
        if not is_loopback(self.client) or parse_host(self.headers.get("host")) not in LOOPBACK_NAMES:
            raise HttpError(403, "forbidden", "the admin address answers this machine only")
        if "origin" in self.headers:
            raise HttpError(403, "forbidden", "the admin address does not answer web pages")
        given = self.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise HttpError(401, "unauthenticated", "the admin address needs the token of its supervisor")


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> Response:
        """The response with these headers added."""
        return replace(self, headers={**self.headers, **headers})


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(eq=False)
class Application:
    """An ASGI application over exact routes (method, path). `start` and `stop` are its lifespan hooks.

    `hosts` are the accepted host names, empty for any. The check stops DNS rebinding: a web page that was
    rebound to this machine still sends its own host name. `served` names the served thing in errors.
    `passing` returns the number of connections used for forwarded requests.
    """

    routes: Mapping[tuple[str, str], Handler]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    hosts: frozenset[str] = frozenset()
    served: str = ""
    limits: BodyLimits = DEFAULT_LIMITS
    passing: Callable[[], int] = lambda: 0

    def __post_init__(self) -> None:
        self._budget, self._turns = BodyBudget(self.limits.held_bytes), Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await receive()
            await self.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.stop()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                response = await self._answer(scope, headers, receive)
            except HttpError as error:
                response = error.response()
            except Exception:  # answered, so that the client or the router does not wait
                log.exception("%s %s failed", scope["method"], scope["path"])
                response = HttpError(500, "error", "the request failed; the log has the cause").response()
            given = [
                (b"content-type", response.content_type.encode()),
                (b"content-length", str(len(response.body)).encode()),
                *((name.encode(), value.encode("latin-1")) for name, value in response.headers.items()),
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": given})
            await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Response:
        path = scope["path"]
        client = scope.get("client") or ("", 0)
        host = headers.get("host", "")
        if self.hosts and path not in OPEN_PATHS and parse_host(host) not in self.hosts:
            detail = f"the host name {host[:100]!r} is not accepted here"
            raise HttpError(403, "forbidden", detail, closes=True)
        handler = self.routes.get((scope["method"], path))
        if handler is None and any(path == known for _, known in self.routes):
            raise HttpError(405, "method", f"{path} does not answer {scope['method']}", closes=True)
        if handler is None:
            served = f"; {self.served}" if self.served else ""
            raise HttpError(404, "not_found", f"there is no {path[:MOST_QUOTED]!r} here{served}", closes=True)
        if (coding := headers.get("content-encoding", "identity")) != "identity":
            detail = f"content-encoding: {coding[:40]!r} is not accepted: send the body without compression"
            raise HttpError(415, "input", detail, closes=True)
        incoming = Incoming(asyncio.timeout(None))
        try:
            body = await self._body(receive, incoming)
            hold = partial(self._hold, incoming)
            return await handler(Call(path, headers, body, client[0], hold, self.limits))
        finally:
            self._budget.release(incoming)

    def _hold(self, incoming: Incoming, size: int) -> None:
        """Count bytes as held in memory; HttpError 503, without counting them, if they are too many."""
        try:
            self._budget.hold(incoming, size)
        except NoRoomError as error:
            raise HttpError(503, "dropped", str(error), closes=True) from error

    async def _body(self, receive: Receive, incoming: Incoming) -> bytes:
        try:
            async with incoming.deadline:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HttpError(400, "input", "the connection ended before the body did")
                    chunk = message.get("body", b"")
                    if incoming.size_bytes + len(chunk) > self.limits.body_bytes:
                        most = self.limits.body_bytes
                        detail = f"the body has more than {most} bytes, the most that is accepted"
                        raise HttpError(413, "too_large", detail, closes=True)
                    self._budget.add(incoming, chunk)
                    if not message.get("more_body"):
                        return self._budget.complete(incoming)
                    await self._turns.take()
        except (NoRoomError, TimeoutError) as error:
            raise HttpError(503, "dropped", str(NoRoomError()), closes=True) from error


# Of the clients of a server most give the same.
@lru_cache(maxsize=64)
def parse_host(header: str | None) -> str:
    """The host name in the header Host, without the port; empty if there is none."""
    try:
        return urlsplit(f"//{header or ''}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """True if the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
