"""Limits of one request, of one client, and of all requests; cancellation for clients that have gone."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import CapacityLimiter
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ipa.model.errors import BusyError
from ipa.serving.body_budget import BodyBudget, Turns

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A file of a pipeline or profile may have 1 MB.
BODY_LIMIT_BYTES = 1 << 20
# A configuration of 250 stages; describing all that is wrong with a body of this size takes the event loop
# some 10 ms.
JSON_LIMIT_BYTES = 32 << 10
# Files are nested 20 deep at most; deeper JSON is of no use to anyone.
MOST_DEEP = 32
# More than twice the keys below: most values are those of keys, the others are in lists.
MOST_VALUES = 100_000
# Keys of all objects of a body. Creating them is the slowest part of reading JSON, and blocks the loop:
# 20 ms for this many. A profile of 1 MB has as many.
MOST_MEMBERS = 40_000
# The same in YAML, which takes twenty times as long to read: a profile of 20 variants, 6 core sizes and 7
# batch sizes has 5 000.
MOST_YAML_VALUES = 8_000
# A file up to this size is parsed by the event loop itself, within a millisecond or few; a larger one in a
# thread.
INLINE_BYTES = 4 << 10
# Problems of a request that an answer lists, and characters of each.
MOST_PROBLEMS = 100
MOST_SHOWN = 500
# A browser sends some twenty headers of a few kB together.
MOST_HEADERS = 100
HEADERS_LIMIT_BYTES = 32 << 10
# Seconds' worth of changes that may come at once.
CHANGES_S = 30.0
# Requests that are identified at the same time.
IDENTIFYING = 16
# Clients that are remembered; the one that was idle longest is forgotten first, which favours it.
MOST_CLIENTS = 10_000
# The status that nginx logs for a request whose client left; no standard has one.
CLIENT_CLOSED = 499
T = TypeVar("T")


class GoneError(Exception):
    """The client has disconnected, so that nobody receives the answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
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
        # Wait for cancelled work to clean up: only then is its place free.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return once the connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def shortened(text: str) -> str:
    """The text, cut to the length that answers quote."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


@dataclass(frozen=True, slots=True)
class Allowance:
    """The state of a client's token bucket: `allowed` if this request is, `after_s` until the next is."""

    allowed: bool
    left: int
    after_s: float


class TokenBuckets:
    """A token bucket for each client: `rate_rps` requests a second, `most` of them at once.

    By default, `most` is what one second allows.
    """

    def __init__(
        self, rate_rps: float, now_s: Callable[[], float] = time.monotonic, most: float | None = None
    ) -> None:
        self._rate_rps, self._most, self._now_s = rate_rps, max(most or rate_rps, 1.0), now_s
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
        """Take a token from the client's bucket, if it has one; return the state of the bucket."""
        with self._lock:
            now_s = self._now_s()
            tokens, since_s = self._clients.pop(client, (self._most, now_s))
            tokens = min(tokens + (now_s - since_s) * self._rate_rps, self._most)
            # Sums of thirds are not exactly one.
            allowed = tokens >= 1 - 1e-9
            tokens -= allowed
            self._clients[client] = tokens, now_s
            if len(self._clients) > MOST_CLIENTS:
                self._clients.popitem(last=False)
        return Allowance(allowed, max(math.floor(tokens), 0), max(1 - tokens, 0.0) / self._rate_rps)


@dataclass
class _Inside:
    """The requests of one client in a gate: how many run, and which wait."""

    running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def count(self) -> int:
        return self.running + len(self.waiting)


class RequestGate:
    """Admits `running` requests at once, of one client at most `each`, and lets `waiting` more wait.

    Clients take turns, and a full gate drops the newest waiting request of the client with the most of them,
    so that no client keeps others out. BusyError for a request that is dropped or finds no place. For one
    event loop; a waiting request holds no thread.
    """

    def __init__(self, running: int, waiting: int, each: int | None = None) -> None:
        self._running, self._most, self._each = running, running + waiting, each or running
        # In the order of their turns.
        self._clients: OrderedDict[str, _Inside] = OrderedDict()
        self._active = 0

    @property
    def inside(self) -> int:
        """The number of requests that run or wait."""
        return sum(each.count for each in self._clients.values())

    @asynccontextmanager
    async def enter(self, client: str = "") -> AsyncIterator[None]:
        """Wait for a place; BusyError if too many wait already."""
        mine = self._clients.get(client) or _Inside()
        if self.inside >= self._most:
            self._make_room(mine.count)
        self._clients[client] = mine
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.waiting.append(turn)
        self._admit()
        try:
            await turn
        except BaseException:
            # The request was dropped or cancelled, possibly after it was admitted.
            if turn in mine.waiting:
                mine.waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave(mine)
            self._forget(client)
            raise
        try:
            yield
        finally:
            self._leave(mine)
            self._forget(client)

    def _make_room(self, mine: int) -> None:
        """Drop a request of the client that has the most; BusyError if that is the new one."""
        waiting = [each for each in self._clients.values() if each.waiting]
        greediest = max(waiting, key=lambda each: each.count, default=None)
        if greediest is None or greediest.count <= mine + 1:
            raise _busy()
        turn = greediest.waiting.pop()
        if not turn.done():
            turn.set_exception(_busy())

    def _admit(self) -> None:
        """Start the requests that may run."""
        while self._active < self._running:
            fits = (name for name, it in self._clients.items() if it.waiting and it.running < self._each)
            name = next(fits, None)
            if name is None:
                return
            self._clients.move_to_end(name)
            turn = self._clients[name].waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._clients[name].running += 1
                self._active += 1

    def _leave(self, mine: _Inside) -> None:
        mine.running -= 1
        self._active -= 1
        self._admit()

    def _forget(self, client: str) -> None:
        if client in self._clients and not self._clients[client].count:
            del self._clients[client]


def _busy() -> BusyError:
    # The number is not shown: most are requests of other clients.
    return BusyError(
        "too many requests of this kind are running or waiting",
        hint="Try again in a moment; the control of pipelines is not affected.",
    )


class ApiLimits:
    """The limits of one service."""

    def __init__(
        self,
        rate_rps: float = 400.0,
        solves: int = 2,
        waiting: int = 16,
        *,
        reads_rps: float = 1000.0,
        changes_rps: float = 10.0,
        body_s: float = 6.0,
        bodies_bytes: int = 16_000_000,
    ) -> None:
        self.buckets = TokenBuckets(rate_rps)
        self.reads = TokenBuckets(reads_rps)
        # Each change stays in the record. Setting up an installation makes some hundred at once.
        self.changing = TokenBuckets(changes_rps, most=CHANGES_S * changes_rps)
        self.solves = RequestGate(solves, waiting)
        # Each takes one of 40 threads; one client has at most half of a kind.
        self.quick = RequestGate(16, 200, each=8)
        self.changes = RequestGate(8, 100, each=4)
        # Each takes some megabytes, and the interpreter from the ticks: more at once would come no sooner.
        self.lists = RequestGate(2, 62, each=1)
        # Each reads a whole record.
        self.verifying = RequestGate(1, 8)
        # Threads of their own: callers that are not identified yet do not delay those that are.
        self.identifying = RequestGate(IDENTIFYING, 200)
        self.identifying_threads = CapacityLimiter(IDENTIFYING)
        self.health_threads = CapacityLimiter(1)
        self.metrics_threads = CapacityLimiter(1)
        self.bodies = BodyBudget(bodies_bytes)
        self.read_turns = Turns()
        self.body_s = body_s


class JsonRoute(APIRoute):
    """A route whose body is JSON of at most `JSON_LIMIT_BYTES`: 415 for any other.

    A body without a content type is taken for JSON. FastAPI parses and validates in the event loop.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request."""
        if self.body_field is not None and scope["method"] in (self.methods or ()):
            headers = MutableHeaders(scope=scope)
            # FastAPI takes JSON only under its content type.
            kind = headers.setdefault("content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise HTTPException(415, f"a body of {kind!r} is not accepted here; send application/json")
        await super().handle(scope, receive, send)


def client_name(scope: Scope) -> str:
    """The client that limits count the request for: the name of the identity, else the address."""
    admitted = scope.get("state", {}).get("admitted")
    name = admitted.identity.name if admitted is not None else ""
    return name or client_address(scope)


def client_address(scope: Scope) -> str:
    """The address that a request comes from."""
    return str((scope.get("client") or ("unknown",))[0])


def ration(buckets: TokenBuckets, kind: str, client: str, scope: Scope) -> None:
    """Count a request of that kind; BusyError, with Retry-After, if the client is over its limit."""
    allowance = buckets.take(client)
    again_s = max(math.ceil(allowance.after_s), 1)
    scope["state"]["headers"] = {
        "RateLimit-Policy": f'"{kind}";q={buckets.most};w={buckets.window_s}',
        "RateLimit": f'"{kind}";r={allowance.left};t={again_s}',
    }
    if not allowance.allowed:
        most = f"{buckets.most} {kind} requests in {buckets.window_s} s"
        raise BusyError(f"more than {most} came from {client}", hint=f"Try again in {again_s} s.")
