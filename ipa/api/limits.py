"""How much may be asked for: of one request, of one client, and of all together."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ipa.model.errors import BusyError

# The largest body we expect is a plan of some ten stages, a few kB; a pipeline's file may have 1 MB.
BODY_LIMIT_BYTES = 1 << 20
# A body that has not come by then will not.
BODY_LIMIT_S = 10.0
# Files are nested 20 deep at most; deeper JSON is of no use to anyone.
MOST_DEEP = 32
# A browser sends some twenty headers of a few kB together.
MOST_HEADERS = 100
HEADERS_LIMIT_BYTES = 32 << 10
# What a connection may have sent of a request that is not whole: more than we take, so that we can say so.
UNREAD_LIMIT_BYTES = 16 * HEADERS_LIMIT_BYTES
# Clients that are remembered; of more the one that asked least lately is forgotten, which favours it.
MOST_CLIENTS = 10_000
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def too_deep(body: bytes) -> bool:
    """Whether a JSON text is nested deeper than anything we take."""
    if body.count(b"[") + body.count(b"{") <= MOST_DEEP:
        return False
    depth = 0
    for found in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if found[0] in b"[{" else -1
        if depth > MOST_DEEP:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a client has left: `after_s` until there is more; `allowed` whether this one was within."""

    allowed: bool
    left: int
    after_s: float


class Buckets:
    """A token bucket for each client: `rate_rps` requests a second, a second's worth of them at once."""

    def __init__(self, rate_rps: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rate_rps, self._most, self._now_s = rate_rps, max(rate_rps, 1.0), now_s
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def most(self) -> int:
        """Requests that may come at once."""
        return math.floor(self._most)

    @property
    def window_s(self) -> int:
        """Seconds in which an empty bucket fills."""
        return math.ceil(self._most / self._rate_rps)

    def take(self, client: str) -> Allowance:
        """Take one for that client, where there is one."""
        with self._lock:
            now_s = self._now_s()
            tokens, since_s = self._clients.pop(client, (self._most, now_s))
            tokens = min(tokens + (now_s - since_s) * self._rate_rps, self._most)
            # Sums of thirds are not quite one.
            allowed = tokens >= 1 - 1e-9
            tokens -= allowed
            self._clients[client] = tokens, now_s
            if len(self._clients) > MOST_CLIENTS:
                self._clients.popitem(last=False)
        return Allowance(allowed, max(math.floor(tokens), 0), max(1 - tokens, 0.0) / self._rate_rps)


class Gate:
    """So many at once, and so many more that wait for them; BusyError for who comes beyond.

    Of one event loop; who waits holds no thread, and leaves where it is cancelled.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(running)
        self._most, self._inside = running + waiting, 0

    @property
    def inside(self) -> int:
        """How many have a place or wait for one."""
        return self._inside

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a place; BusyError where too many wait already."""
        if self._inside >= self._most:
            raise BusyError(
                f"{self._inside} plans are being computed or waited for already",
                hint="Ask again in a moment; what is controlled goes on as it did.",
            )
        self._inside += 1
        try:
            async with self._slots:
                yield
        finally:
            self._inside -= 1


class Limits:
    """Those of one service."""

    def __init__(self, rate_rps: float = 400.0, solves: int = 2, waiting: int = 16) -> None:
        self.buckets = Buckets(rate_rps)
        self.solves = Gate(solves, waiting)


class JsonRoute(APIRoute):
    """A route whose body is JSON: 415 for any other. A body of no said kind is taken for JSON."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request."""
        if self.body_field is not None and scope["method"] in (self.methods or ()):
            kind = dict(scope["headers"]).get(b"content-type", b"application/json").decode("latin-1")
            kind = kind.partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise HTTPException(415, f"a body of {kind!r} is not taken here; send application/json")
        await super().handle(scope, receive, send)


async def rationed(request: Request, response: Response) -> None:
    """Count an expensive request of its client; BusyError, with Retry-After, where it had its share."""
    limits = request.app.state.services.limits
    client = request.client.host if request.client else "unknown"
    found = limits.buckets.take(client)
    again_s = max(math.ceil(found.after_s), 1)
    request.scope["state"]["headers"] = {
        "RateLimit-Policy": f'"expensive";q={limits.buckets.most};w={limits.buckets.window_s}',
        "RateLimit": f'"expensive";r={found.left};t={again_s}',
    }
    if not found.allowed:
        most = f"{limits.buckets.most} expensive requests in {limits.buckets.window_s} s"
        raise BusyError(f"more than {most} came from {client}", hint=f"Ask again in {again_s} s.")


Rationed = Depends(rationed)
