"""The gate before the routes: headers, the caller, the body within bounds, and a place for the work.

It also counts requests, adds headers to answers, and answers unexpected errors.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.auth import EXPENSIVE, RoutePlace, Work, challenge_of, find_place, identify_caller, work_of
from ipa.api.context import ApiContext
from ipa.api.limits import (
    BODY_LIMIT_BYTES,
    CLIENT_CLOSED,
    HEADERS_LIMIT_BYTES,
    INLINE_BYTES,
    JSON_LIMIT_BYTES,
    MOST_DEEP,
    MOST_HEADERS,
    MOST_MEMBERS,
    MOST_VALUES,
    SAFE,
    ApiLimits,
    GoneError,
    JsonRoute,
    client_name,
    ration,
)
from ipa.api.problems import http_problem, ipa_problem
from ipa.model.errors import IpaError, StandbyError
from ipa.service.service import Service
from ipa.serving.body_budget import RETRY_S, Incoming, NoRoomError, aside, structure

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
# Seconds after which a client that takes nothing of a large answer is dropped: others wait for its place.
SEND_S = 10.0


class Gate:
    """Middleware that refuses requests as early as possible; `hosts`: the names it answers to (empty: any).

    First by the headers (403, 415, 431), then the caller (401, 403) and its rate limit (429), then a change
    at a replica that does not lead (409), then the body: 413 if it is too large, 408 if it does not arrive in
    time, 422 if it is nested too deeply or holds too many values, 503 if there is no memory for it. The place
    is held until the answer is sent; a client that does not read a large answer is dropped. The time of a
    request ends when its answer begins, since streams do not end.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = LOOPBACK) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: ApiContext = scope["app"].state.context
        # Files here are small, so parts of them are never sent: `Range` is ignored, as RFC 9110 allows.
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"range"]
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        place, began_s = find_place(scope["app"].router, scope), time.monotonic()
        # The values if no answer is sent: the client has gone, or the server failed.
        status, seconds, started = 500, 0.0, False

        async def dressed(message: Message) -> None:
            nonlocal status, seconds, started
            if message["type"] == "http.response.start":
                status, seconds, started = message["status"], time.monotonic() - began_s, True
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                for name, value in scope["state"].get("headers", {}).items():
                    answer[name] = value
                is_asset = not scope["path"].startswith("/v1")
                answer.setdefault("Cache-Control", "no-cache" if is_asset else "no-store")
            await send(message)

        if context.http is not None:
            context.http.in_flight.inc()
        try:
            await self._answer(context, place, scope, receive, dressed)
        except Exception:
            LOG.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            detail = f"the service failed; its log names the request {request_id}"
            await http_problem(request_id, 500, detail)(scope, receive, dressed)
        finally:
            if context.http is not None:
                context.http.in_flight.dec()
                route, seconds = scope["state"].get("template", ""), seconds or time.monotonic() - began_s
                context.http.answered(route, scope["method"], status, seconds)

    async def _answer(
        self, context: ApiContext, place: RoutePlace | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Call the application, or answer with the reason for refusing the request."""
        request_id, limits, headers = scope["state"]["request_id"], context.limits, Headers(scope=scope)
        async with AsyncExitStack() as held:
            refusal: Response
            try:
                self._check_names(context, scope, headers)
                _check_size(headers)
                work = await _admit_caller(limits, place, scope)
                if scope["method"] not in SAFE:
                    receive = _replay(await _body(limits, scope, headers, receive, held), receive)
                await held.enter_async_context(_work_place(limits, work, client_name(scope)))
            except GoneError:
                refusal = Response(status_code=CLIENT_CLOSED)
            except HTTPException as error:
                refusal = http_problem(request_id, error.status_code, error.detail, headers=error.headers)
            except IpaError as error:
                LOG.info("%s %s refused: %s", scope["method"], scope["path"], error.message)
                challenge = {"WWW-Authenticate": challenge_of(scope)} if error.status == 401 else {}
                refusal = ipa_problem(request_id, error, challenge)
            else:
                await self._app(scope, receive, _in_time(send) if work is Work.LIST else send)
                return
            # Release its memory and place before the client reads the refusal.
            await held.aclose()
            await refusal(scope, receive, send)

    def _check_names(self, context: ApiContext, scope: Scope, headers: Headers) -> None:
        """403 for another host name, a change from another site's page, or a proxy before an open service."""
        host = _host(headers)
        own = str((scope.get("server") or ("",))[0])
        # Probes and scrapes use its address; rebinding needs a name.
        if self._hosts and host not in self._hosts and not (host == own and _is_address(host)):
            raise HTTPException(403, f"the service does not answer to the name {headers.get('host', '')!r}")
        origin = headers.get("origin")
        if scope["method"] not in SAFE and origin and urlsplit(origin).netloc != headers.get("host"):
            raise HTTPException(403, f"a page of {origin} may not change anything here")
        names = (name.decode("latin-1") for name, _ in headers.raw)
        proxied = None if context.authenticators else next(filter(PROXIED.fullmatch, names), None)
        if proxied:
            raise HTTPException(403, UNPROXIED.format(name=proxied))


def _host(headers: Headers) -> str:
    """The host name of the request, without the port; empty if there is none."""
    match = _HOST.fullmatch(headers.get("host", ""))
    return (match["v6"] or match["name"]).lower() if match else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_size(headers: Headers) -> None:
    """431 for too many headers, 415 for a compressed body: its size is not known."""
    if len(headers.raw) > MOST_HEADERS:
        raise HTTPException(431, f"{len(headers.raw)} headers; at most {MOST_HEADERS} are accepted")
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > HEADERS_LIMIT_BYTES:
        raise HTTPException(431, f"headers of {size} bytes; at most {HEADERS_LIMIT_BYTES} are accepted")
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise HTTPException(415, f"a body encoded with {encoding!r} is not accepted; send it uncompressed")


async def _admit_caller(limits: ApiLimits, place: RoutePlace | None, scope: Scope) -> Work:
    """The work of the request, after its caller was admitted and counted.

    Errors: those of `identify_caller`, BusyError, StandbyError.
    """
    if place is None:
        # No route: the router answers 404, or 405 with the methods.
        return Work.NONE
    work = work_of(place.route)
    caller = scope["state"]["admitted"] = await identify_caller(scope, place, work)
    if work is Work.WRITE:
        ration(limits.changing, "changing", client_name(scope), scope)
        _check_leader(caller.service)
    elif work not in (Work.NONE, Work.HEALTH, Work.SOLVE):
        ration(limits.reads, "reading", client_name(scope), scope)
    if work is Work.SOLVE or place.route in EXPENSIVE:
        ration(limits.buckets, "expensive", client_name(scope), scope)
    return work


def _check_leader(service: Service) -> None:
    """StandbyError, which names the leader, if another replica leads.

    Changes of the store alone are refused too: with a store of its own, the leader would not see them.
    """
    standing = service.standing()
    if not standing.leading:
        leader = standing.leader if standing.leader != standing.identity else ""
        raise StandbyError(
            f"this replica, {standing.identity}, {standing.words}",
            hint=f"Ask {leader}, or try the Service again." if leader else "Try again in a moment.",
        )


def _work_place(limits: ApiLimits, work: Work, client: str) -> AbstractAsyncContextManager[None]:
    """The place for the work: computations take theirs in the use case, streams while they are open."""
    gates = {
        Work.READ: limits.quick,
        Work.LIST: limits.lists,
        Work.VERIFY: limits.verifying,
        Work.WRITE: limits.changes,
    }
    return gates[work].enter(client) if work in gates else nullcontext()


def _in_time(send: Send) -> Send:
    async def timed(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return timed


async def _body(
    limits: ApiLimits, scope: Scope, headers: Headers, receive: Receive, held: AsyncExitStack
) -> bytes:
    """The body of the request, counted in the memory budget; HTTPException if it is refused."""
    most_bytes = JSON_LIMIT_BYTES if isinstance(scope.get("route"), JsonRoute) else BODY_LIMIT_BYTES
    incoming = Incoming(asyncio.timeout(limits.body_s))
    held.callback(limits.bodies.release, incoming)
    body = await _read(headers, receive, limits, incoming, most_bytes)
    if "yaml" not in headers.get("content-type", "").partition(";")[0]:
        fault = await aside(len(body) > INLINE_BYTES, structure_fault, body)
        if fault:
            raise HTTPException(422, f"the request's body {fault}")
    return body


async def _read(
    headers: Headers, receive: Receive, limits: ApiLimits, incoming: Incoming, most_bytes: int
) -> bytes:
    """The whole body of at most that size. GoneError if the client leaves before it is complete."""
    too_large = HTTPException(413, f"the request is larger than {most_bytes} bytes")
    length = headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > len(str(most_bytes)) or int(length) > most_bytes):
        raise too_large
    try:
        async with incoming.deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                data = message.get("body", b"")
                if incoming.size_bytes + len(data) > most_bytes:
                    raise too_large
                limits.bodies.add(incoming, data)
                if not message.get("more_body", False):
                    return limits.bodies.complete(incoming)
                await limits.read_turns.take()
    except NoRoomError as error:
        raise _no_room(error) from None
    except TimeoutError:
        if incoming.is_dropped:
            raise _no_room(NoRoomError()) from None
        raise HTTPException(408, f"the request's body did not arrive within {limits.body_s:g} s") from None


def structure_fault(body: bytes) -> str:
    """The reason to refuse a JSON text for its nesting or its number of values; else empty.

    A text that is not JSON may pass: the parser reports its fault.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened <= MOST_DEEP and opened + body.count(b",") < MOST_MEMBERS:
        return ""
    marks = structure(body)
    if marks.count(b",") + marks.count(b"[") >= MOST_VALUES:
        return f"has more than {MOST_VALUES} values"
    if marks.count(b":") > MOST_MEMBERS:
        return f"has more than {MOST_MEMBERS} keys"
    brackets = marks.translate(None, b",:")
    # Each pass removes the innermost level.
    for _ in range(MOST_DEEP):
        if not brackets:
            return ""
        brackets = brackets.replace(b"[]", b"")
    return f"is nested deeper than {MOST_DEEP}, or its brackets do not match" if brackets else ""


def _no_room(error: NoRoomError) -> HTTPException:
    return HTTPException(503, str(error), headers={"Retry-After": str(RETRY_S)})


def _replay(body: bytes, receive: Receive) -> Receive:
    """The application's `receive`: returns the body that was read, then later messages."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
