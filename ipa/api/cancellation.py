"""Work that is done for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")
# What nginx says of a request whose client did not wait for the answer; no standard has a word for it.
CLIENT_CLOSED = 499


class GoneError(Exception):
    """Whoever asked went away, so that nobody takes the answer."""


async def while_asked(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to. It is cancelled where the client closes the connection; then GoneError.

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
        # What is cancelled may have to tidy up: a place is given back once nothing computes in it any more.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return once the connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
