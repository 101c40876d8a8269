"""The EventSink port over Kubernetes Events: what `kubectl describe` shows at the end of an object."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import EVENT, ObjectRef, ResourceKind
from ipa.adapters.kube.transport import Json
from ipa.control.ports import Clock
from ipa.model.decision import Event
from ipa.model.errors import ConflictError, ForbiddenError, IpaError, NotFoundError, UnavailableError
from ipa.model.pipeline import Pipeline

log = logging.getLogger("ipa.kube")

COMPONENT = "ipa-serving"
# The API server forgets an Event after an hour; what is said again within this counts up.
SAME_S = 600.0
# For one object, as client-go's recorder: what a person can read.
PER_MINUTE = 10
# Of the events API; longer messages are refused there.
LONGEST_MESSAGE = 1024
# So many are remembered; more are only told anew.
REMEMBERED = 1000
# A role that allows no Events is not asked with each of them.
FORBIDDEN_S = 600.0


def event_name(about: Json, event: Event) -> str:
    """The Event's name: the same for the same thing said of the same object, after a restart too."""
    metadata = about["metadata"]
    said = "\0".join((metadata["uid"], event.reason.value, event.message, str(event.is_warning)))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    # A name of 253 characters at most.
    return f"{metadata['name'][:200]}.{digest}"


def event_body(kind: ResourceKind, about: Json, event: Event, at: datetime) -> Json:
    """The body of a new Event about the object of that kind."""
    metadata, stamp = about["metadata"], at.strftime("%Y-%m-%dT%H:%M:%SZ")
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
        "metadata": {"name": event_name(about, event), "namespace": metadata["namespace"]},
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
    """The message, as long as the API server allows (it counts bytes)."""
    raw = message.encode()
    if len(raw) <= LONGEST_MESSAGE:
        return message
    return raw[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


class KubeEvents:
    """Tells of pipelines by Events on their objects. Nothing is raised; thread-safe.

    `place` is the object that a pipeline's Events are about, an IpaError if it has none. All calls for one
    event together take no longer than one call of the client may.
    """

    def __init__(self, client: KubeClient, clock: Clock, place: Callable[[Pipeline], ObjectRef]) -> None:
        self._client, self._clock, self._place = client, clock, place
        self._lock = threading.Lock()
        # How often each Event was told, and when last, by its name; and the times of Events of each object.
        self._told: dict[str, tuple[int, float]] = {}
        self._recent_s: dict[str, list[float]] = {}
        self._silent_until_s = 0.0
        # Not told: for want of room, or of an answer.
        self.dropped = 0

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Tell it; the same again within ten minutes only counts up."""
        began_s = self._clock.monotonic_s()
        if began_s < self._silent_until_s:
            self._drop(pipeline, event, "Events are not allowed")
            return
        try:
            self._emit(pipeline, event, began_s)
        except ForbiddenError as error:
            self._silent_until_s = began_s + FORBIDDEN_S
            self._drop(pipeline, event, error.message)
        except IpaError as error:
            self._drop(pipeline, event, error.message)

    def _emit(self, pipeline: Pipeline, event: Event, began_s: float) -> None:
        place = self._place(pipeline)
        namespace = place.namespace
        about = self._client.get(place.kind, namespace, place.name)
        name = event_name(about, event)
        # Counted before it is told: one that fails must not be tried without end either.
        count = self._count(about["metadata"]["uid"], name, began_s)
        if not count:
            self._drop(pipeline, event, f"{PER_MINUTE} were told in this minute")
            return
        # By the server's clock, which is what kubectl shows ages against.
        now_there = self._clock.now() + timedelta(seconds=self._client.skew_s or 0.0)
        body = event_body(place.kind, about, event, now_there)
        last = {"count": count, "lastTimestamp": body["lastTimestamp"]}
        if count > 1:
            # One that the server has forgotten is told anew.
            with suppress(NotFoundError):
                self._in_time(began_s).merge(EVENT, namespace, name, last)
                return
        try:
            self._in_time(began_s).create(EVENT, namespace, body)
        except ConflictError:
            # Told by the service before it was restarted, or by its other replica.
            again = {**last, "firstTimestamp": body["firstTimestamp"]}
            self._in_time(began_s).merge(EVENT, namespace, name, again)

    def _count(self, uid: str, name: str, now_s: float) -> int:
        """The count of the Event, with this time; 0 if the object has no room for it this minute."""
        with self._lock:
            recent = [at_s for at_s in self._recent_s.get(uid, ()) if now_s - at_s < 60.0]
            if len(recent) >= PER_MINUTE:
                return 0
            self._recent_s[uid] = [*recent, now_s]
            before, last_s = self._told.pop(name, (0, now_s))
            count = before + 1 if now_s - last_s <= SAME_S else 1
            self._told[name] = (count, now_s)
            if len(self._told) > REMEMBERED:
                del self._told[next(iter(self._told))]
            return count

    def _in_time(self, began_s: float) -> KubeClient:
        """The client with what is left of one call's time."""
        left_s = self._client.timeout_s - (self._clock.monotonic_s() - began_s)
        if left_s <= 0.0:
            raise UnavailableError("the API server took too long")
        return self._client.within(left_s)

    def _drop(self, pipeline: Pipeline, event: Event, why: str) -> None:
        self.dropped += 1
        log.warning("event of %s not told (%s): %s %s", pipeline.name, why, event.reason.value, event.message)
