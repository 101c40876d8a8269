"""The little of HTTP that queue and router need, as plain ASGI: routes, bounded bodies, problems."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# A page as base64 PNG is below 1 MB; 64 of them in one request fit.
MAX_BODY_BYTES = 64 * 1024 * 1024
# Long enough that clients, which let go of idle connections first, never write into one being closed.
KEEP_ALIVE_S = 75

# What is left of a request's time, from router to queue; from the client to the router it is optional.
BUDGET_HEADER = "ipa-budget-ms"


class HttpError(Exception):
    """Answered as problem+json (RFC 9457): a status, a code for programs and a detail for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail

    def response(self) -> Response:
        """The answer that says so."""
        problem = {"type": "about:blank", "title": self.code, "status": self.status}
        body = orjson.dumps({**problem, "code": self.code, "detail": self.detail})
        return Response(body, self.status, "application/problem+json")


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request with its whole body."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    client: str

    def budget_s(self) -> float | None:
        """Seconds of the budget header, None without one; HttpError 400 where it is no number."""
        text = self.headers.get(BUDGET_HEADER)
        if text is None:
            return None
        try:
            return float(text) / 1000
        except ValueError:
            raise HttpError(400, "input", f"{BUDGET_HEADER}: {text!r} is not a number of ms") from None

    def require_loopback(self) -> None:
        """HttpError 403 unless the caller is on this machine."""
        if not is_loopback(self.client):
            raise HttpError(403, "forbidden", "the admin address answers this machine only")


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Response]]


class Application:
    """An ASGI application over exact routes (method, path); `start` and `stop` frame its life."""

    def __init__(
        self,
        routes: Mapping[tuple[str, str], Handler],
        *,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._routes = routes
        self._start = start
        self._stop = stop
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                response = await self._respond(scope, receive)
            except HttpError as error:
                response = error.response()
            await _send(send, response)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path = scope["path"]
        handler = self._routes.get((scope["method"], path))
        if handler is None:
            known = any(path == route for _, route in self._routes)
            raise HttpError(405, "method", path) if known else HttpError(404, "not_found", path)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await self._body(receive)
        client = scope.get("client") or ("", 0)
        return await handler(Call(path, headers, body, client[0]))

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise HttpError(413, "too_large", f"the body may have {self._max_body_bytes} bytes at most")
            chunks.append(chunk)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _send(send: Send, response: Response) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *((name.encode(), value.encode("latin-1")) for name, value in response.headers.items()),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(application: Application, host: str, port: int, drain_s: float = 5.0) -> None:
    """Serve until told to stop (SIGTERM, SIGINT).

    Then no new connection is accepted, and what is in flight has `drain_s` to be answered.
    """
    uvicorn.run(
        application,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, math.ceil(drain_s)),
    )
