"""The outermost layer: request ids, limits, security headers, and an answer to what nobody foresaw."""

from __future__ import annotations

import logging
import uuid
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.problems import http_problem

LOG = logging.getLogger(__name__)
# The largest body we expect is a plan of some ten stages, a few kB.
BODY_LIMIT_BYTES = 1 << 20
# Where nobody has to say who they are, a page that was rebound to this address must not be served.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Shell:
    """Wraps the application; `hosts` are the names by which it may be addressed (empty: any)."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = LOOPBACK) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                is_asset = not scope["path"].startswith("/v1")
                answer.setdefault("Cache-Control", "no-cache" if is_asset else "no-store")
            await send(message)

        refused = self._refusal(scope["method"], headers, str((scope.get("server") or ("",))[0]))
        if refused:
            await http_problem(request_id, 403, refused)(scope, receive, dressed)
            return
        body = await _read(receive) if scope["method"] not in SAFE else b""
        if body is None:
            detail = f"the request is larger than {BODY_LIMIT_BYTES} bytes"
            await http_problem(request_id, 413, detail)(scope, receive, dressed)
            return
        try:
            await self._app(scope, _replay(body, receive), dressed)
        except Exception:
            LOG.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            detail = f"the service failed; its log names the request {request_id}"
            await http_problem(request_id, 500, detail)(scope, receive, dressed)

    def _refusal(self, method: str, headers: Headers, own: str) -> str:
        host = _host(headers)
        # Probes and scrapes call it by its address; rebinding needs a name.
        if self._hosts and host not in self._hosts and not (host == own and _is_address(host)):
            return f"the service does not answer to the name {host!r}"
        origin = headers.get("origin")
        if method not in SAFE and origin and urlsplit(origin).netloc != headers.get("host"):
            return f"a page of {origin} may not change anything here"
        return ""


def _host(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _read(receive: Receive) -> bytes | None:
    """The body, or None where it is over the limit."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for the application: the body that was read, then whatever comes."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
