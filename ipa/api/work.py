"""The kind of work of each route, and its bounds: for one identity, and in total."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from enum import StrEnum

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipa.api.limits import ApiLimits, client_of, ration
from ipa.api.problems import ipa_problem
from ipa.api.rules import METRICS_ROUTE, RULES
from ipa.model.access import Operation
from ipa.model.errors import BusyError

# Seconds after which a client that takes nothing of a large answer is dropped: others wait for its place.
SEND_S = 10.0


class Work(StrEnum):
    """The kind of work of a request."""

    # From memory, on the event loop: no thread, no store; the same answer for everybody.
    NONE = "none"
    HEALTH = "health"
    READ = "a read"
    LIST = "a large answer"
    VERIFY = "a whole record"
    SOLVE = "a computation"
    EXPERIMENT = "an experiment"
    WRITE = "a change"
    STREAM = "a stream"


# The bounds of each kind in words; the numbers are those of `limits.ApiLimits`, `Streams` and `JobQueue`.
BOUNDS: Mapping[Work, str] = {
    Work.NONE: "nothing that can be used up",
    Work.HEALTH: "a thread of its own; what is found of the store is kept for some seconds",
    Work.READ: "IPA_API_READS_RPS of one identity; 16 at once, 8 of one identity",
    Work.LIST: "as a read; 4 at once, 2 of one identity; pages of decisions end at 2 MB",
    Work.VERIFY: "as a read; 1 at once",
    Work.SOLVE: "IPA_API_EXPENSIVE_RPS of one identity; IPA_API_SOLVES at once, in turns",
    Work.EXPERIMENT: "as a computation; 1 at once; 16 wait, 4 of one identity; the newest 200 are kept",
    Work.WRITE: "IPA_API_CHANGES_RPS of one identity; 8 at once, 4 of one identity",
    Work.STREAM: "as a read; 100 open, 10 of one identity; each reads on only as it is taken",
}
_PIPELINE = "/v1/pipelines/{pipeline}"
# Routes whose work does not follow from their operation.
_OTHER: Mapping[tuple[str, str], Work] = {
    ("GET", "/healthz"): Work.NONE,
    ("GET", "/readyz"): Work.HEALTH,
    ("GET", "/"): Work.NONE,
    ("GET", "/docs"): Work.NONE,
    ("GET", "/openapi.json"): Work.NONE,
    ("GET", "/problems/{code}"): Work.NONE,
    ("GET", "/assets"): Work.NONE,
    METRICS_ROUTE: Work.LIST,
    ("GET", "/v1/pipelines"): Work.LIST,
    ("GET", "/v1/fleet"): Work.LIST,
    ("GET", "/v1/me"): Work.LIST,
    ("GET", f"{_PIPELINE}/profiles"): Work.LIST,
    ("GET", f"{_PIPELINE}/decisions"): Work.LIST,
    ("GET", f"{_PIPELINE}/history"): Work.LIST,
    ("GET", f"{_PIPELINE}/record"): Work.VERIFY,
    ("GET", "/v1/events"): Work.STREAM,
    ("GET", "/v1/audit"): Work.STREAM,
    ("GET", "/v1/experiments"): Work.LIST,
    ("GET", "/v1/experiments/{experiment_id}/report"): Work.LIST,
    ("POST", "/v1/experiments"): Work.EXPERIMENT,
    ("POST", "/v1/experiments/{experiment_id}:cancel"): Work.WRITE,
    ("DELETE", "/v1/experiments/{experiment_id}"): Work.WRITE,
}


def work_of(route: tuple[str, str]) -> Work:
    """The work of a route: its row, else by its operation."""
    if route in _OTHER:
        return _OTHER[route]
    rule = RULES.get(route)
    if rule is None or rule.operation is Operation.READ:
        return Work.READ
    return Work.SOLVE if rule.operation is Operation.WHAT_IF else Work.WRITE


def count(limits: ApiLimits, work: Work, scope: Scope) -> None:
    """Count the request of its client; BusyError, with Retry-After, if it is over its ration."""
    if work is Work.WRITE:
        ration(limits.changing, "changing", client_of(scope), scope)
    elif work not in (Work.NONE, Work.HEALTH, Work.SOLVE, Work.EXPERIMENT):
        # Solves and experiments are counted by their routes, as expensive ones.
        ration(limits.reads, "reading", client_of(scope), scope)


class WorkPlaces:
    """Middleware inside of the gate and the body reader: a request runs in a place of its kind.

    The place is held until the answer is sent. A client that does not read a large one is dropped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = scope.get("state", {}).get("work")
        if work is None:
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as held:
            limits: ApiLimits = scope["app"].state.context.limits
            try:
                await held.enter_async_context(_place(limits, work, client_of(scope)))
            except BusyError as error:
                answer = ipa_problem(str(scope["state"].get("request_id", "")), error)
                await answer(scope, receive, send)
                return
            await self._app(scope, receive, _in_time(send) if work is Work.LIST else send)


def _place(limits: ApiLimits, work: Work, client: str) -> AbstractAsyncContextManager[None]:
    match work:
        case Work.READ:
            return limits.quick.enter(client)
        case Work.LIST:
            return limits.lists.enter(client)
        case Work.VERIFY:
            return limits.verifying.enter(client)
        case Work.WRITE | Work.EXPERIMENT:
            return limits.changes.enter(client)
        case _:
            # Computations take their places in the use case, streams for as long as they are open.
            return nullcontext()


def _in_time(send: Send) -> Send:
    async def timed(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return timed
