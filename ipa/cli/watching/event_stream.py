"""The service's stream of events, followed over breaks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa.model.errors import UnavailableError

if TYPE_CHECKING:
    from ipa.clients.base import PipelineClient
    from ipa.control.ports import Clock


# A stream that ended is taken up again after so long.
AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `id` is empty for what is said of the stream itself."""

    id: str
    kind: str
    data: str

    def words(self) -> str:
        """The event as a line for people."""
        said: dict[str, Any] = json.loads(self.data)
        if self.kind in ("reset", "store"):
            return f"{self.kind}: {said['detail']}"
        by = f" by {said['by']}" if said["by"] else ""
        why = f": {said['why']}" if said["why"] else ""
        line = f"{self.id} {said['at']} {said['pipeline']} {said['kind']} {said['what']}{by}{why}"
        # What people write may hold anything that a terminal obeys.
        return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def followed(
    service: PipelineClient, pipeline: str | None, place: int | None, clock: Clock, *, follow: bool
) -> Iterator[Event]:
    """The events after that place; with `follow` without end, over breaks of the stream."""
    while True:
        try:
            for event in parsed(service.events(pipeline, after=place, follow=follow)):
                place = int(event.id) if event.id else place
                yield event
        except UnavailableError:
            # Before the first event it is no break: nothing answers there.
            if not follow or place is None:
                raise
        if not follow:
            return
        clock.wait(AGAIN_S)


def parsed(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a text/event-stream; comments are none."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "data" in fields:
                yield Event(fields.get("id", ""), fields.get("event", ""), fields["data"])
            fields = {}
