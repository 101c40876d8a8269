"""The outermost layer: request ids, limits, security headers, and an answer to what nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.limits import (
    BODY_LIMIT_BYTES,
    BODY_LIMIT_S,
    HEADERS_LIMIT_BYTES,
    MOST_DEEP,
    MOST_HEADERS,
    too_deep,
)
from ipa.api.problems import http_problem

LOG = logging.getLogger(__name__)
# Where nobody has to say who they are, a page that was rebound to this address must not be served.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # For browsers that do not know frame-ancestors.
    "X-Frame-Options": "DENY",
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
                for name, value in scope["state"].get("headers", {}).items():
                    answer[name] = value
                is_asset = not scope["path"].startswith("/v1")
                answer.setdefault("Cache-Control", "no-cache" if is_asset else "no-store")
            await send(message)

        refused = self._refusal(scope["method"], headers, str((scope.get("server") or ("",))[0]))
        if refused:
            await http_problem(request_id, 403, refused)(scope, receive, dressed)
            return
        try:
            _check_headers(headers)
            body = await _read(headers, receive) if scope["method"] not in SAFE else b""
        except HTTPException as error:
            # What else comes of it would be read to no end.
            ending = {"Connection": "close"}
            answer = http_problem(request_id, error.status_code, error.detail, headers=ending)
            await answer(scope, receive, dressed)
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
            return f"the service does not answer to the name {headers.get('host', '')!r}"
        origin = headers.get("origin")
        if method not in SAFE and origin and urlsplit(origin).netloc != headers.get("host"):
            return f"a page of {origin} may not change anything here"
        return ""


def _host(headers: Headers) -> str:
    """The name by which it is called, without the port; empty where that is none."""
    found = _HOST.fullmatch(headers.get("host", ""))
    return (found["v6"] or found["name"]).lower() if found else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_headers(headers: Headers) -> None:
    """431 where there are too many, 415 for a body that must be unpacked: what it becomes is not known."""
    if len(headers.raw) > MOST_HEADERS:
        raise HTTPException(431, f"{len(headers.raw)} headers are more than {MOST_HEADERS}")
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > HEADERS_LIMIT_BYTES:
        raise HTTPException(431, f"headers of {size} bytes are more than {HEADERS_LIMIT_BYTES}")
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise HTTPException(415, f"a body packed by {encoding!r} is not taken; send it as it is")


async def _read(headers: Headers, receive: Receive) -> bytes:
    """The body. 413 where it is too large, 408 where it does not come, 422 where it is nested too deeply."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > BODY_LIMIT_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > BODY_LIMIT_BYTES:
                    raise _too_large()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise HTTPException(408, f"the request's body did not come within {BODY_LIMIT_S:g} s") from None
    if "yaml" not in headers.get("content-type", "") and too_deep(bytes(body)):
        raise HTTPException(422, f"the request's body is nested deeper than {MOST_DEEP}")
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the request is larger than {BODY_LIMIT_BYTES} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for the application: the body that was read, then whatever comes."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
