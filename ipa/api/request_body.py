"""Request bodies: read after authentication, and bounded before any route sees them."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
)
from ipa.api.problems import http_problem
from ipa.serving.body_budget import RETRY_S, Incoming, NoRoomError, aside
from ipa.serving.json_structure import structure


class BodyReader:
    """Middleware inside of authentication: reads the body and refuses it as soon as possible.

    413 if it is too large, 408 if it does not arrive in time, 422 if it is nested too deeply or holds too
    many values, 503 if there is no room for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limits: ApiLimits = scope["app"].state.context.limits
        budget = limits.bodies
        incoming = Incoming(asyncio.timeout(limits.body_s))
        try:
            try:
                most = JSON_LIMIT_BYTES if isinstance(scope.get("route"), JsonRoute) else BODY_LIMIT_BYTES
                body = await _read(headers, receive, limits, incoming, most)
                if "yaml" not in headers.get("content-type", "").partition(";")[0]:
                    await _check(body)
            except HTTPException as error:
                budget.release(incoming)
                request_id = str(scope.get("state", {}).get("request_id", ""))
                answer = http_problem(request_id, error.status_code, error.detail, headers=error.headers)
                await answer(scope, receive, send)
                return
            except GoneError:
                await Response(status_code=CLIENT_CLOSED)(scope, receive, send)
                return
            await self._app(scope, _replay(body, receive), send)
        finally:
            budget.release(incoming)


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
