"""Work that is cancelled once its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")
# The status that nginx logs for a request whose client left; no standard has one.
CLIENT_CLOSED = 499


class GoneError(Exception):
    """The client has gone, so that nobody takes the answer."""


async def while_asked(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. It is cancelled if the client closes the connection; then GoneError.

    The request's body must have been read.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        return working.result()
    finally:
        for each in (working, leaving):
            each.cancel()
        # Cancelled work may have to clean up: it releases its place once nothing computes in it.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return once the connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
