"""What a service recorded of a pipeline since the last look, so that a watch misses nothing between two."""

from __future__ import annotations

import json

from ipa.cli.watching.event_stream import Event, followed
from ipa.clients.base import PipelineClient
from ipa.control.ports import Clock
from ipa.model.errors import UnavailableError, UsageError

# After an event that cannot be: the answer says which one is the newest.
BEYOND = (1 << 62) - 1


class News:
    """The events of a pipeline from when this was made; none where the source keeps no record to follow."""

    def __init__(self, source: PipelineClient, pipeline: str, clock: Clock) -> None:
        self._source, self._pipeline, self._clock = source, pipeline, clock
        self._place = BEYOND
        self._is_kept = True
        self.read()

    def read(self) -> list[Event]:
        """What came since the last look, oldest first; what one look misses the next one has."""
        if not self._is_kept:
            return []
        is_first = self._place == BEYOND
        try:
            found = list(followed(self._source, self._pipeline, self._place, self._clock, follow=False))
        except (UsageError, UnavailableError):
            # A cluster and a file have none; of a service that does not answer the status tells.
            self._is_kept = not is_first
            return []
        self._place = next((int(event.id) for event in reversed(found) if event.id), self._place)
        return [] if is_first else [event for event in found if _is_news(event)]


def what_of(event: Event) -> str:
    """What happened: a reason code, an outcome, or a person's deed; empty where it is of the stream."""
    return str(json.loads(event.data).get("what", ""))


def _is_news(event: Event) -> bool:
    """Whether it is more than a tick that changed nothing, which the status shows."""
    return event.kind != "decision" or what_of(event).startswith("apply.")
