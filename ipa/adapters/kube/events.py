"""The EventSink port over Kubernetes Events: what `kubectl describe` shows at the end of an object."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import EVENT, ObjectRef, ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.control.ports import Clock
from ipa.model.decision import Event
from ipa.model.errors import ForbiddenError, IpaError, UnavailableError
from ipa.model.pipeline import Pipeline

log = logging.getLogger("ipa.kube")

COMPONENT = "ipa-serving"
# For one object, as client-go's recorder: what a person can read.
PER_MINUTE = 10
# Of the events API; longer messages are refused there.
LONGEST_MESSAGE = 1024
# A role that allows no Events is not asked with each of them.
FORBIDDEN_S = 600.0


def event_body(kind: ResourceKind, about: Json, event: Event, at: datetime) -> Json:
    """The body of a new Event about the object of that kind."""
    metadata, stamp = about["metadata"], at.strftime("%Y-%m-%dT%H:%M:%SZ")
    # A name of 253 characters at most.
    name = f"{metadata['name'][:200]}.{secrets.token_hex(8)}"
    involved = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": involved,
        # The same string as in the API, the metrics and the record.
        "reason": event.reason.value,
        "message": shortened(event.message),
        "type": "Warning" if event.is_warning else "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def shortened(message: str) -> str:
    """The message, cut to the bytes that the API server allows."""
    raw = message.encode()
    if len(raw) <= LONGEST_MESSAGE:
        return message
    return raw[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


class KubeEvents:
    """An EventSink that writes Events on pipelines' objects. It raises nothing, and is thread-safe.

    `place` returns the object that a pipeline's Events are about; IpaError if there is none. All calls for
    one event together have the time limit of one call of the client.
    """

    def __init__(self, client: KubeClient, clock: Clock, place: Callable[[Pipeline], ObjectRef]) -> None:
        self._client, self._clock, self._place = client, clock, place
        self._lock = threading.Lock()
        # The times of Events of each object.
        self._recent_s: dict[str, list[float]] = {}
        self._silent_until_s = 0.0
        # Events dropped: the object has too many, or the API server did not answer.
        self.dropped = 0

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Write the event."""
        began_s = self._clock.monotonic_s()
        if began_s < self._silent_until_s:
            self._drop(pipeline, event, "Events are not allowed")
            return
        try:
            place = self._place(pipeline)
            about = self._client.get(place.kind, place.namespace, place.name)
            uid = about["metadata"]["uid"]
            # Counted before it is sent, so that failing Events are limited too.
            with self._lock:
                recent = [at_s for at_s in self._recent_s.get(uid, ()) if began_s - at_s < 60.0]
                has_room = len(recent) < PER_MINUTE
                self._recent_s[uid] = [*recent, began_s] if has_room else recent
            if not has_room:
                self._drop(pipeline, event, f"{PER_MINUTE} were told in this minute")
                return
            left_s = self._client.timeout_s - (self._clock.monotonic_s() - began_s)
            if left_s <= 0.0:
                raise UnavailableError("the API server took too long")
            # By the server's clock, which is what kubectl shows ages against.
            now_there = self._clock.now() + timedelta(seconds=self._client.skew_s or 0.0)
            body = event_body(place.kind, about, event, now_there)
            self._client.within(left_s).create(EVENT, place.namespace, body)
        except ForbiddenError as error:
            self._silent_until_s = began_s + FORBIDDEN_S
            self._drop(pipeline, event, error.message)
        except IpaError as error:
            self._drop(pipeline, event, error.message)

    def _drop(self, pipeline: Pipeline, event: Event, why: str) -> None:
        self.dropped += 1
        log.warning("event of %s dropped (%s): %s %s", pipeline.name, why, event.reason.value, event.message)
