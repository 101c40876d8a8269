"""The record as server-sent events, and as an export in lines.

Uses Starlette's StreamingResponse: importing sse-starlette replaces uvicorn's signal handling, which
`ipa serve` replaces itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ipa.api.auth import AdmittedCaller, Context, CurrentCaller
from ipa.api.context import Streams
from ipa.api.limits import client_name
from ipa.api.queries import Using, named_record
from ipa.control.audit.record import MARK, RecordFeed, record_in
from ipa.control.canonical import canonical_json
from ipa.model.access import EVERYWHERE, Operation
from ipa.model.errors import IpaError, UnauthenticatedError, UnavailableError
from ipa.service.service import Service

LOG = logging.getLogger(__name__)
# Entries of one read of an export.
BATCH = 500
# Milliseconds after which a browser that lost the stream connects again.
RETRY_MS = 2000
router = APIRouter(prefix="/v1", tags=["events"])
AfterId = Annotated[int | None, Query(ge=0, lt=1 << 62, description="only events after the one with this id")]
LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,18}$", description="the id of the last event that was received")
]


async def chosen_record(service: Using, pipeline: Annotated[str | None, Query()] = None) -> str | None:
    """The pipeline whose events are requested, or PIPELINE@POLICY; None for all."""
    return None if pipeline is None else await named_record(pipeline, service)


async def exported_record(
    caller: CurrentCaller,
    pipeline: Annotated[
        str | None, Query(description="a pipeline, or NAME~ID: the record of an earlier one of that name")
    ] = None,
) -> str | None:
    """The record to export; None for all. Only a present pipeline's record needs no right to all."""
    if pipeline is not None and MARK not in pipeline:
        return await named_record(pipeline, caller.service)
    caller.must(Operation.READ, EVERYWHERE)
    return pipeline


Chosen = Annotated[str | None, Depends(chosen_record)]
Exported = Annotated[str | None, Depends(exported_record)]
# The schema of an event; its data is JSON.
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
EXAMPLE = (
    "id: 42\nevent: change\n"
    'data: {"pipeline":"video","kind":"change","what":"landed","at":"2026-11-24T12:00:00+00:00", ...}\n\n'
)


class HeldStream(StreamingResponse):
    """A streaming response that holds one of the places for streams."""

    def __init__(self, streams: Streams, content: AsyncIterator[str], media_type: str) -> None:
        # X-Accel-Buffering: nginx would buffer some kilobytes of events.
        super().__init__(content, headers={"X-Accel-Buffering": "no"}, media_type=media_type)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client leaves or is too slow. BusyError, UnavailableError: no place is free."""

        is_late = False

        async def in_time(message: Message) -> None:
            nonlocal is_late
            try:
                async with asyncio.timeout(self._streams.send_s):
                    await send(message)
            except TimeoutError:
                is_late = True
                raise

        with self._streams.place(client_name(scope)):
            try:
                await super().__call__(scope, receive, in_time)
            except Exception:
                if not is_late:
                    raise
                # The server closes the connection of an answer that is left unfinished.
                self._streams.dropped += 1
                LOG.warning("a client of the event stream read nothing for %g s", self._streams.send_s)


class StreamWatch:
    """A check, every `check_s`, that the client of a stream may still read it.

    `pipeline` is the subject of the stream; it may be removed, and its name given to another.
    """

    def __init__(self, streams: Streams, caller: AdmittedCaller, pipeline: str | None) -> None:
        self._streams, self._again, self.service = streams, caller.again, caller.service
        self._pipeline, self._record = pipeline, pipeline and self.service.record_of(pipeline)
        self._clock = asyncio.get_running_loop().time
        self._looked_s = self._sure_s = self._clock()

    async def ends(self) -> str:
        """The reason to end the stream now, in words; empty if it goes on."""
        try:
            await self._look()
        except IpaError as error:
            self._streams.ended += 1
            return error.message
        if self._pipeline is not None and not self.service.sees(self._pipeline, self._record or ""):
            self._streams.ended += 1
            return f"pipeline {self._pipeline!r} no longer exists"
        return ""

    async def _look(self) -> None:
        if self._again is None or self._clock() - self._looked_s < self._streams.check_s:
            return
        self._looked_s = self._clock()
        try:
            caller = await to_thread.run_sync(self._again, limiter=self._streams.threads)
        except UnavailableError:
            if self._clock() - self._sure_s > self._streams.unsure_s:
                raise
            return
        self._sure_s, self.service = self._clock(), caller.service


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events, until the client disconnects",
            "content": {"text/event-stream": {"itemSchema": EVENT, "example": EXAMPLE}},
        }
    },
)
async def follow_events(
    context: Context,
    caller: CurrentCaller,
    pipeline: Chosen,
    after: AfterId = None,
    follow: Annotated[bool, Query(description="follow new events; false ends after the present ones")] = True,
    last_event_id: LastEventId = None,
) -> HeldStream:
    """Stream `decision`, `change` and `control` events as they are recorded.

    The data of an event is its entry in the record. With Last-Event-ID (or `after`) the stream starts after
    that event; `reset` means that there are too many, or that the id is of another store: read the status
    again. `store` means that the record cannot be read for now. The stream ends within 2 s after its token or
    the right to read the pipeline is revoked.
    """
    streams = context.streams
    if streams is None:
        raise UnavailableError("this service has no record to follow")
    seq = after if last_event_id is None else int(last_event_id)
    reader = _Reader(streams.feed, pipeline, seq)
    events = _events(
        streams, StreamWatch(streams, caller, pipeline), reader, streams.longest_s if follow else 0.0
    )
    return HeldStream(streams, events, "text/event-stream")


async def _events(
    streams: Streams, watch: StreamWatch, reader: _Reader, longest_s: float
) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop().time
    begun_s = sent_s = clock()
    yield f"retry: {RETRY_MS}\n\n"
    while not streams.stopping():
        if why := await watch.ends():
            # A comment, which clients ignore; their next request is answered with the error.
            yield f": ended, since {why}\n\n"
            return
        for event in await run_in_threadpool(reader.read, watch.service):
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
    """The position of one client in the record's feed. `more`: further events can be read at once.

    It reads the pipelines that the client may see, or the one that it asks for.
    """

    def __init__(self, feed: RecordFeed, pipeline: str | None, seq: int | None) -> None:
        self._feed, self._pipeline, self._seq = feed, pipeline, seq
        self._placed = self._failing = self.more = False

    def read(self, service: Service) -> list[str]:
        """The new events of the visible pipelines."""
        self.more = False
        try:
            events = [*self._place(), *self._next(service)]
        except IpaError as error:
            is_reported, self._failing = self._failing, True
            return [] if is_reported else [_event("store", {"detail": error.message})]
        self._failing = False
        return events

    def _place(self) -> Iterator[str]:
        if self._placed:
            return
        newest = self._feed.newest(now=True)
        if self._seq is None:
            self._seq = newest
        elif self._feed.is_gone(self._seq):
            detail = f"what follows {self._seq} is no longer kept as events; the newest is {newest}"
            self._seq = newest
            yield _event("reset", {"newest": newest, "detail": detail}, newest)
        self._placed = True

    def _next(self, service: Service) -> list[str]:
        assert self._seq is not None
        entries = self._feed.after(self._seq)
        if entries:
            self._seq, self.more = entries[-1].seq, True
        # Canonical JSON has no line breaks.
        return [
            f"id: {entry.seq}\nevent: {entry.values['kind']}\ndata: {entry.text}\n\n"
            for entry in entries
            if self._pipeline in (None, entry.values["pipeline"])
            and service.sees(str(entry.values["pipeline"]), record_in(entry.values))
        ]


def _event(kind: str, data: dict[str, Any], seq: int | None = None) -> str:
    place = "" if seq is None else f"id: {seq}\n"
    return f"{place}event: {kind}\ndata: {canonical_json(data)}\n\n"


@router.get(
    "/audit",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One entry per line: its text and the digest of the text",
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
        }
    },
)
async def export_record(
    context: Context, caller: CurrentCaller, pipeline: Exported, after: AfterId = None
) -> HeldStream:
    """Export the record, oldest first, as lines. `ipa audit --check FILE` verifies them.

    Each pipeline that has had a name has its own record. `record` in an entry names it, if that is not
    the pipeline's name. Who may read a pipeline may export its record; all records at once, and that of an
    earlier pipeline of a name, are for readers of every namespace.
    """
    record, streams = context.record, context.streams
    if record is None or streams is None:
        raise UnavailableError("this service keeps no record")
    # The record may be that of a pipeline that was removed.
    is_present = pipeline is not None and MARK not in pipeline
    watch = StreamWatch(streams, caller, pipeline if is_present else None)
    # Resolved once: the name may be given to another pipeline while lines are sent.
    wanted = caller.service.record_of(pipeline) if pipeline is not None and is_present else pipeline

    async def lines() -> AsyncIterator[str]:
        seq = after or 0
        # First, so that a verifier knows which entries retention removed.
        for checkpoint in await run_in_threadpool(lambda: list(record.checkpoints(seq, wanted))):
            yield f"{checkpoint.line()}\n"
        while entries := await run_in_threadpool(record.entries, seq, BATCH, wanted):
            if why := await watch.ends():
                # Cut off, so that it is not taken for a complete export.
                raise UnauthenticatedError(f"the export was ended, since {why}")
            seq = entries[-1].seq
            yield "".join(f"{entry.line()}\n" for entry in entries)

    return HeldStream(streams, lines(), "application/jsonl")
