"""The outermost layer: request ids, header limits, security headers, and an answer to unforeseen errors."""

from __future__ import annotations

import logging
import re
import uuid
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.limits import HEADERS_LIMIT_BYTES, MOST_HEADERS, SAFE
from ipa.api.problems import http_problem

LOG = logging.getLogger(__name__)
# Without authentication, a page whose name was rebound to this address must not be served.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
# Headers that a proxy adds, and no browser: the connection's address is then not that of the client.
PROXIED = re.compile(r"(?:.*-)?(?:via|forwarded|original)(?:-.*)?|.*-(?:ip|address)|cdn-loop|cf-.*")
UNPROXIED = (
    "the service is open to this machine only, and the header {name} says that a proxy forwards requests; "
    "turn on authentication (IPA_AUTH=keys), or remove the proxy"
)
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


class Hardening:
    """Middleware around the application; `hosts` are the names that it answers to (empty: any)."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = LOOPBACK) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Files here are small, so parts of them are never sent: `Range` is ignored, as RFC 9110 allows.
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"range"]
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
        if not refused and not scope["app"].state.context.authenticators:
            refused = _proxy_refusal(headers)
        if refused:
            await http_problem(request_id, 403, refused)(scope, receive, dressed)
            return
        try:
            _check_headers(headers)
        except HTTPException as error:
            await http_problem(request_id, error.status_code, error.detail)(scope, receive, dressed)
            return
        try:
            await self._app(scope, receive, dressed)
        except Exception:
            LOG.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            detail = f"the service failed; its log names the request {request_id}"
            await http_problem(request_id, 500, detail)(scope, receive, dressed)

    def _refusal(self, method: str, headers: Headers, own: str) -> str:
        host = _host(headers)
        # Probes and scrapes use its address; rebinding needs a name.
        if self._hosts and host not in self._hosts and not (host == own and _is_address(host)):
            return f"the service does not answer to the name {headers.get('host', '')!r}"
        origin = headers.get("origin")
        if method not in SAFE and origin and urlsplit(origin).netloc != headers.get("host"):
            return f"a page of {origin} may not change anything here"
        return ""


def _host(headers: Headers) -> str:
    """The host name of the request, without the port; empty if there is none."""
    found = _HOST.fullmatch(headers.get("host", ""))
    return (found["v6"] or found["name"]).lower() if found else ""


def _proxy_refusal(headers: Headers) -> str:
    """The reason to refuse a request that came through a proxy; empty if it did not."""
    names = (name.decode("latin-1") for name, _ in headers.raw)
    found = next(filter(PROXIED.fullmatch, names), None)
    return UNPROXIED.format(name=found) if found else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_headers(headers: Headers) -> None:
    """431 for too many headers, 415 for a compressed body: its size is not known."""
    if len(headers.raw) > MOST_HEADERS:
        raise HTTPException(431, f"{len(headers.raw)} headers are more than {MOST_HEADERS}")
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > HEADERS_LIMIT_BYTES:
        raise HTTPException(431, f"headers of {size} bytes are more than {HEADERS_LIMIT_BYTES}")
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise HTTPException(415, f"a body encoded with {encoding!r} is not accepted; send it uncompressed")
