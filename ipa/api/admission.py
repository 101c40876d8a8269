"""The admission of a request: who sends it, its body within bounds, and a place for its kind of work."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.auth import challenge_of, identify_caller, place_of
from ipa.api.limits import (
    BODY_LIMIT_BYTES,
    CLIENT_CLOSED,
    INLINE_BYTES,
    JSON_LIMIT_BYTES,
    MOST_DEEP,
    MOST_MEMBERS,
    MOST_VALUES,
    SAFE,
    ApiLimits,
    GoneError,
    JsonRoute,
    client_of,
    ration,
)
from ipa.api.problems import http_problem, ipa_problem
from ipa.api.rules import Work, work_of
from ipa.model.errors import IpaError
from ipa.serving.body_budget import RETRY_S, Incoming, NoRoomError, aside, structure

LOG = logging.getLogger(__name__)
# Seconds after which a client that takes nothing of a large answer is dropped: others wait for its place.
SEND_S = 10.0


class RequestAdmission:
    """Middleware that admits requests, and refuses them as early as possible.

    First the caller (401, 403) and its ration (429), then the body: 413 if it is too large, 408 if it does
    not arrive in time, 422 if it is nested too deeply or holds too many values, 503 if there is no room for
    it. The place is held until the answer is sent; a client that does not read a large one is dropped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as held:
            refusal: Response | None = None
            work = Work.NONE
            try:
                work = await _admit_caller(scope)
                if scope["method"] not in SAFE:
                    receive = _replay(await _body(scope, receive, held), receive)
                limits: ApiLimits = scope["app"].state.context.limits
                await held.enter_async_context(_work_place(limits, work, client_of(scope)))
            except GoneError:
                refusal = Response(status_code=CLIENT_CLOSED)
            except HTTPException as error:
                refusal = http_problem(
                    _request_id(scope), error.status_code, error.detail, headers=error.headers
                )
            except IpaError as error:
                LOG.info("%s %s refused: %s", scope["method"], scope["path"], error.message)
                headers = {"WWW-Authenticate": challenge_of(scope)} if error.status == 401 else {}
                refusal = ipa_problem(_request_id(scope), error, headers)
            if refusal is None:
                await self._app(scope, receive, _in_time(send) if work is Work.LIST else send)
                return
            # What it held is free while the client reads why.
            await held.aclose()
            await refusal(scope, receive, send)


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))


async def _admit_caller(scope: Scope) -> Work:
    """The work of the request, whose caller is admitted and counted. Errors: those of `identify_caller`."""
    place = place_of(scope["app"].router, scope)
    if place is None:
        # No route: the router answers 404, or 405 with the methods.
        return Work.NONE
    work = work_of(place.route)
    scope["state"]["admitted"] = await identify_caller(scope, place, work)
    limits: ApiLimits = scope["app"].state.context.limits
    if work is Work.WRITE:
        ration(limits.changing, "changing", client_of(scope), scope)
    elif work not in (Work.NONE, Work.HEALTH, Work.SOLVE):
        # Solves are counted by their routes, as expensive ones.
        ration(limits.reads, "reading", client_of(scope), scope)
    return work


def _work_place(limits: ApiLimits, work: Work, client: str) -> AbstractAsyncContextManager[None]:
    match work:
        case Work.READ:
            return limits.quick.enter(client)
        case Work.LIST:
            return limits.lists.enter(client)
        case Work.VERIFY:
            return limits.verifying.enter(client)
        case Work.WRITE:
            return limits.changes.enter(client)
        case _:
            # Computations take their places in the use case, streams for as long as they are open.
            return nullcontext()


def _in_time(send: Send) -> Send:
    async def timed(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return timed


async def _body(scope: Scope, receive: Receive, held: AsyncExitStack) -> bytes:
    """The body of the request, whose room is held; HTTPException if it is refused."""
    headers = Headers(scope=scope)
    limits: ApiLimits = scope["app"].state.context.limits
    most_bytes = JSON_LIMIT_BYTES if isinstance(scope.get("route"), JsonRoute) else BODY_LIMIT_BYTES
    incoming = Incoming(asyncio.timeout(limits.body_s))
    held.callback(limits.bodies.release, incoming)
    body = await _read(headers, receive, limits, incoming, most_bytes)
    if "yaml" not in headers.get("content-type", "").partition(";")[0]:
        await _check(body)
    return body


async def _read(
    headers: Headers, receive: Receive, limits: ApiLimits, incoming: Incoming, most_bytes: int
) -> bytes:
    """The whole body of at most that size. GoneError if the client leaves before it is there."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > len(str(most_bytes)) or int(length) > most_bytes):
        raise _too_large(most_bytes)
    try:
        async with incoming.deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                data = message.get("body", b"")
                if incoming.size_bytes + len(data) > most_bytes:
                    raise _too_large(most_bytes)
                limits.bodies.add(incoming, data)
                if not message.get("more_body", False):
                    return limits.bodies.complete(incoming)
                await limits.reading.take()
    except NoRoomError as error:
        raise _no_room(error) from None
    except TimeoutError:
        if incoming.is_dropped:
            raise _no_room(NoRoomError()) from None
        raise HTTPException(408, f"the request's body did not arrive within {limits.body_s:g} s") from None


async def _check(body: bytes) -> None:
    """Refuse JSON that no route could take."""
    fault = await aside(len(body) > INLINE_BYTES, structure_fault, body)
    if fault:
        raise HTTPException(422, f"the request's body {fault}")


def structure_fault(body: bytes) -> str:
    """The reason to refuse a JSON text by its brackets and commas alone; empty if there is none.

    A text that is not JSON may pass: the parser reports its fault.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened <= MOST_DEEP and opened + body.count(b",") < MOST_MEMBERS:
        return ""
    found = structure(body)
    if found.count(b",") + found.count(b"[") >= MOST_VALUES:
        return f"has more than {MOST_VALUES} values"
    if found.count(b":") > MOST_MEMBERS:
        return f"has more than {MOST_MEMBERS} keys"
    brackets = found.translate(None, b",:")
    # Each pass removes the innermost level.
    for _ in range(MOST_DEEP):
        if not brackets:
            return ""
        brackets = brackets.replace(b"[]", b"")
    return f"is nested deeper than {MOST_DEEP}, or its brackets do not match" if brackets else ""


def _no_room(error: NoRoomError) -> HTTPException:
    return HTTPException(503, str(error), headers={"Retry-After": str(RETRY_S)})


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"the request is larger than {most_bytes} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for the application: the body that was read, then later messages."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
