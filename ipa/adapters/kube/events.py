"""The EventSink port over Kubernetes Events: what `kubectl describe` shows at the end of an object."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import EVENT, ObjectRef, ResourceKind
from ipa.adapters.kube.responses import Json
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


@dataclass(frozen=True, slots=True)
class Told:
    """One Event that was told: how often, and when first and last."""

    count: int
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Book:
    """Written Events by name, and the times of Events of each object."""

    told: dict[str, Told] = field(default_factory=dict)
    recent_s: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def counted(self, name: str, now_s: float) -> Told | None:
        """The Event where it was told a while ago at most, counted up; None where it is to be told anew."""
        before = self.told.get(name)
        if before is None or now_s - before.first_s > 6 * SAME_S or now_s - before.last_s > SAME_S:
            return None
        return replace(before, count=before.count + 1, last_s=now_s)

    def may_tell(self, uid: str, now_s: float) -> bool:
        """Return True if this minute has room for one more Event of the object."""
        return len(self._minute(uid, now_s)) < PER_MINUTE

    def with_told(self, uid: str, name: str, told: Told) -> Book:
        """The book with that Event in it; the oldest are forgotten."""
        kept = {**self.told, name: told}
        while len(kept) > REMEMBERED:
            del kept[min(kept, key=lambda one: kept[one].last_s)]
        now_s = told.last_s
        recent = {one: found for one in self.recent_s if (found := self._minute(one, now_s))}
        return Book(kept, {**recent, uid: (*self._minute(uid, now_s), now_s)})

    def _minute(self, uid: str, now_s: float) -> tuple[float, ...]:
        return tuple(at_s for at_s in self.recent_s.get(uid, ()) if now_s - at_s < 60.0)


def event_name(about: Json, event: Event) -> str:
    """The Event's name: the same for the same thing said of the same object, after a restart too."""
    metadata = about["metadata"]
    said = "\0".join((metadata["uid"], event.reason.value, event.message, str(event.is_warning)))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    # A name of 253 characters at most.
    return f"{metadata['name'][:200]}.{digest}"


def event_body(kind: ResourceKind, about: Json, event: Event, at: datetime) -> Json:
    """The body of a new Event about the object of that kind."""
    metadata = about["metadata"]
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
        "firstTimestamp": stamp(at),
        "lastTimestamp": stamp(at),
        "count": 1,
    }


def shortened(message: str) -> str:
    """The message, as long as the API server allows (it counts bytes)."""
    raw = message.encode()
    if len(raw) <= LONGEST_MESSAGE:
        return message
    return raw[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


def stamp(at: datetime) -> str:
    """The time as Kubernetes writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class KubeEvents:
    """Tells of pipelines by Events on their objects. Nothing is raised; thread-safe.

    `place` is the object that a pipeline's Events are about, an IpaError if it has none. All calls for one
    event together take no longer than one call of the client may.
    """

    def __init__(self, client: KubeClient, clock: Clock, place: Callable[[Pipeline], ObjectRef]) -> None:
        self._client, self._clock, self._place = client, clock, place
        self._lock = threading.Lock()
        self._book = Book()
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
        uid, name = about["metadata"]["uid"], event_name(about, event)
        with self._lock:
            if not self._book.may_tell(uid, began_s):
                self._drop(pipeline, event, f"{PER_MINUTE} were told in this minute")
                return
            told = self._book.counted(name, began_s) or Told(1, began_s, began_s)
            # Counted before it is told: one that fails must not be tried without end either.
            self._book = self._book.with_told(uid, name, told)
        # By the server's clock, which is what kubectl shows ages against.
        now_there = self._clock.now() + timedelta(seconds=self._client.skew_s or 0.0)
        body = event_body(place.kind, about, event, now_there)
        now = body["lastTimestamp"]
        if told.count > 1:
            try:
                counted = {"count": told.count, "lastTimestamp": now}
                self._in_time(began_s).merge(EVENT, namespace, name, counted)
                return
            except NotFoundError:
                # Forgotten by the server, or never told.
                pass
        try:
            self._in_time(began_s).create(EVENT, namespace, body)
        except ConflictError:
            # Told by the service before it was restarted, or by its other replica.
            again = {"count": told.count, "firstTimestamp": now, "lastTimestamp": now}
            self._in_time(began_s).merge(EVENT, namespace, name, again)

    def _in_time(self, began_s: float) -> KubeClient:
        """The client with what is left of one call's time."""
        left_s = self._client.timeout_s - (self._clock.monotonic_s() - began_s)
        if left_s <= 0.0:
            raise UnavailableError("the API server took too long")
        return self._client.within(left_s)

    def _drop(self, pipeline: Pipeline, event: Event, why: str) -> None:
        self.dropped += 1
        log.warning("event of %s not told (%s): %s %s", pipeline.name, why, event.reason.value, event.message)
