"""A watch's answer: events as they come, until the server, the caller or silence ends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

from ipa.adapters.kube.responses import Json
from ipa.adapters.kube.transport import LONGEST_BODY, Budget, Request, Transport, read_part
from ipa.model.errors import UnavailableError

# The server ends a watch when it was asked to; one that is silent for this much longer is gone.
GRACE_RATIO = 0.2


class Stream:
    """Events of a watch, to be iterated once by one thread and closed by any.

    Errors while it is iterated: those of every call, ExpiredError (410), and UnavailableError where the
    connection broke or the server kept silent although it was to end the watch long ago.
    """

    def __init__(self, transport: Transport, request: Request, timeout_s: float, watch_s: float) -> None:
        self._transport, self._request = transport, request
        self._timeout_s, self._idle_s = timeout_s, watch_s * (1.0 + GRACE_RATIO)
        self._lock = threading.Lock()
        self._response: Any = None
        self._closed = False

    def __iter__(self) -> Iterator[Json]:
        what = self._request.what
        if self._closed:
            return
        with self._transport.opened(self._request, self._timeout_s, self._idle_s) as response:
            if not self._keep(response):
                return
            # However much it says: a watch that outlives its time by that much is not believed.
            budget = Budget(what, self._idle_s, self._idle_s)
            rest = b""
            while part := read_part(response, budget):
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LONGEST_BODY:
                    raise UnavailableError(f"{what}: an event is longer than {LONGEST_BODY} bytes")
                for line in lines:
                    if line.strip():
                        yield _event_of(what, line)
                budget.check()
            if rest.strip():
                raise UnavailableError(f"{what}: the answer was cut off")

    def close(self) -> None:
        """End it; the thread that waits for an event goes on at once."""
        with self._lock:
            self._closed = True
            response = self._response
        if response is None:
            return
        try:
            response.shutdown()
        except (AttributeError, OSError, ValueError, RuntimeError):
            # It has ended by itself.
            return

    def _keep(self, response: Any) -> bool:
        with self._lock:
            self._response = response
            return not self._closed


def _event_of(what: str, line: bytes) -> Json:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise UnavailableError(f"{what}: an event is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise UnavailableError(f"{what}: an event has no object")
    return event
