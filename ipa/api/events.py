"""The record as it grows, as server-sent events; and as lines to keep.

Written over Starlette's StreamingResponse: sse-starlette takes uvicorn's way of stopping in hand when it is
imported, which `ipa serve` has in hand itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ipa.adapters.store.feed import Feed
from ipa.api.reading import Using, named_record
from ipa.api.services import Services
from ipa.api.streams import Streams
from ipa.control.audit import Recorded
from ipa.control.canonical import canonical_json
from ipa.model.errors import IpaError, UnavailableError

LOG = logging.getLogger(__name__)
# Entries of one read of an export.
BATCH = 500
# A browser that lost the stream comes back after so long.
RETRY_MS = 2000
router = APIRouter(prefix="/v1", tags=["events"])


AfterId = Annotated[int | None, Query(ge=0, lt=1 << 62, description="the id of an event: those after it")]
LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,18}$", description="the id of the last event that was received")
]


def chosen_record(services: Using, pipeline: Annotated[str | None, Query()] = None) -> str | None:
    """The pipeline whose events are asked for, or one with @ and a policy beside it; None for all."""
    return None if pipeline is None else named_record(pipeline, services)


Chosen = Annotated[str | None, Depends(chosen_record)]
# Of each event, once it is read; the data is JSON.
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
EXAMPLE = (
    "id: 42\nevent: change\n"
    'data: {"pipeline":"video","kind":"change","what":"landed","at":"2026-11-24T12:00:00+00:00", ...}\n\n'
)


class EventStream(StreamingResponse):
    """Server-sent events to one client, which is dropped where it does not take them in time."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, content: AsyncIterator[str]) -> None:
        # X-Accel-Buffering: nginx would keep events until it has some kilobytes.
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client goes, or is too slow."""

        is_late = False

        async def in_time(message: Message) -> None:
            nonlocal is_late
            try:
                async with asyncio.timeout(self._streams.send_s):
                    await send(message)
            except TimeoutError:
                is_late = True
                raise

        self._streams.open += 1
        try:
            await super().__call__(scope, receive, in_time)
        except Exception:
            if not is_late:
                raise
            # The server closes the connection of an answer that is left unfinished.
            self._streams.dropped += 1
            LOG.warning("a client that follows events took none for %g s", self._streams.send_s)
        finally:
            self._streams.open -= 1


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events, until the client goes",
            "content": {"text/event-stream": {"itemSchema": EVENT, "example": EXAMPLE}},
        }
    },
)
def follow_events(
    services: Using,
    pipeline: Chosen,
    after: AfterId = None,
    follow: Annotated[bool, Query(description="go on; false ends with what there is")] = True,
    last_event_id: LastEventId = None,
) -> EventStream:
    """What is decided and done, as it happens: `decision`, `change` and `control` events.

    The data of an event is its entry in the record. With Last-Event-ID (or `after`) those after that one come
    first; `reset` says that there are too many, or that it is of another store: read the status anew. `store`
    says that the record cannot be read for now.
    """
    streams = streams_of(services)
    if streams.open >= streams.most:
        raise UnavailableError(f"{streams.open} streams of events are open already", hint="Try again later.")
    seq = after if last_event_id is None else int(last_event_id)
    reader = _Reader(streams.feed, services.pipelines, pipeline, seq)
    return EventStream(streams, _events(streams, reader, streams.longest_s if follow else 0.0))


def streams_of(services: Services) -> Streams:
    """The streams of the service; UnavailableError where it has no record to follow."""
    if services.streams is None:
        raise UnavailableError("this service has no record to follow")
    return services.streams


async def _events(streams: Streams, reader: _Reader, longest_s: float) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop().time
    begun_s = sent_s = clock()
    yield f"retry: {RETRY_MS}\n\n"
    while not streams.stopping():
        for event in await run_in_threadpool(reader.read):
            sent_s = clock()
            yield event
        if reader.more:
            continue
        if clock() - begun_s >= longest_s:
            return
        if clock() - sent_s >= streams.heartbeat_s:
            sent_s = clock()
            yield ": nothing new\n\n"
        await asyncio.sleep(streams.feed.poll_s)


class _Reader:
    """One client's place in the feed. `more`: there is more to read at once.

    Of the pipelines that the client may see (`seen`), or of the one that they ask for.
    """

    def __init__(self, feed: Feed, seen: Collection[str], pipeline: str | None, seq: int | None) -> None:
        self._feed, self._seen, self._pipeline, self._seq = feed, seen, pipeline, seq
        self._placed = self._failing = self.more = False

    def read(self) -> list[str]:
        """What is new, as events."""
        self.more = False
        try:
            found = [*self._place(), *self._next()]
        except IpaError as error:
            told, self._failing = self._failing, True
            return [] if told else [_event("store", {"detail": error.message})]
        self._failing = False
        return found

    def _place(self) -> Iterator[str]:
        if self._placed:
            return
        newest = self._feed.newest(now=True)
        if self._seq is None:
            self._seq = newest
        elif self._feed.gone(self._seq):
            detail = f"what follows {self._seq} is not kept here as events; the newest is {newest}"
            self._seq = newest
            yield _event("reset", {"newest": newest, "detail": detail}, newest)
        self._placed = True

    def _next(self) -> list[str]:
        assert self._seq is not None
        found = self._feed.after(self._seq)
        if found:
            self._seq, self.more = found[-1].seq, True
        return [event_of(entry) for entry in found if self._is_asked(entry)]

    def _is_asked(self, entry: Recorded) -> bool:
        name = str(entry.values["pipeline"])
        # What a policy decides beside a pipeline is recorded as PIPELINE@POLICY.
        return name == self._pipeline or (self._pipeline is None and name.partition("@")[0] in self._seen)


def event_of(entry: Recorded) -> str:
    """The entry as a server-sent event."""
    # Canonical JSON has no line breaks.
    return f"id: {entry.seq}\nevent: {entry.values['kind']}\ndata: {entry.text}\n\n"


def _event(kind: str, data: dict[str, Any], seq: int | None = None) -> str:
    place = "" if seq is None else f"id: {seq}\n"
    return f"{place}event: {kind}\ndata: {canonical_json(data)}\n\n"


@router.get(
    "/audit",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An entry a line: its text, and the digest of that",
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
        }
    },
)
def export_record(services: Using, pipeline: Chosen, after: AfterId = None) -> StreamingResponse:
    """The record, oldest first, as lines to keep. `ipa audit --check FILE` verifies them again."""
    record = services.record
    if record is None:
        raise UnavailableError("this service keeps no record")

    def lines() -> Iterator[str]:
        seq = after or 0
        while found := record.entries(seq, BATCH, pipeline):
            seq = found[-1].seq
            yield "".join(f"{entry.line()}\n" for entry in found)

    return StreamingResponse(lines(), media_type="application/jsonl")
