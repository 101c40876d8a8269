"""Watches objects, so that a change of a spec wakes its control loop at once.

The control loop does not depend on it: the next tick reads any change that a watch misses.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.transport import Backoff, ExpiredError, Json, Stream
from ipa.control.loop.scheduler import StopSignal, SystemClock
from ipa.control.ports import Clock
from ipa.metering import table
from ipa.metering.make import Figures
from ipa.model.errors import ForbiddenError, IpaError, UnavailableError
from ipa.model.pipeline import Pipeline

log = logging.getLogger("ipa.kube")

# The server is asked to end a watch after so long, so that one that is silent for longer is known to be dead.
WATCH_S = 30.0
# A watch that the server ends sooner than this is repeated only after a pause.
SHORT_S = 1.0
BACKOFF = Backoff(first_s=1.0, longest_s=30.0)
# A role that allows no watch is not asked again and again.
FORBIDDEN_S = 600.0
GONE = 410

OnChange = Callable[[str, str], None]


class Watcher:
    """Calls `on_change(namespace, name)` when the spec of an object of the kind in the namespace changes.

    `run` is for a thread. It never ends by a failure: it lists again and goes on.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        kind: ResourceKind,
        on_change: OnChange,
        clock: Clock,
        *,
        watch_s: float = WATCH_S,
        seed: int | None = None,
    ) -> None:
        self.namespace, self.kind = namespace, kind
        self.lists, self.failures = 0, 0
        self._client, self._on_change, self._clock, self._watch_s = client, on_change, clock, watch_s
        self._random = random.Random(seed)
        # The version from which to watch, empty: list first. The specs' versions, None before the first list.
        self._version = ""
        self._spec_versions: dict[str, str] | None = None
        self._failed_in_a_row = 0
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._closed = False

    @property
    def what(self) -> str:
        """The plural of its kind, for logs and metrics."""
        return f"{self.kind.kind}s"

    def run(self) -> None:
        """List and watch until the watcher is closed."""
        while not self._closed:
            self.step()

    def close(self) -> None:
        """Let `run` end soon, from any thread. The owner of the clock must interrupt the clock's wait."""
        with self._lock:
            self._closed = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def step(self) -> None:
        """Run one list, or one watch to its end; return the wait before the next."""
        least_s = 0.0
        try:
            if self._version:
                self._watch()
            else:
                items, version = self._client.list_all(self.kind, self.namespace)
                if not version:
                    raise UnavailableError("the list has no resourceVersion")
                self.lists += 1
                versions = {_text(each, "name"): _spec_version(each) for each in items}
                before, self._spec_versions, self._version = self._spec_versions, versions, version
                if before is not None:
                    # Added, changed and deleted objects are in only one of the two.
                    self._tell(name for name, _ in before.items() ^ versions.items())
        except Exception as error:
            if not isinstance(error, IpaError):
                # An answer that no API server gives must not end the watch either.
                log.exception("watch of %s of %s failed", self.what, self.namespace)
            elif not isinstance(error, ExpiredError) and not self._closed:
                self.failures += 1
                # Log when failures begin, not each one.
                level = logging.DEBUG if self._failed_in_a_row else logging.WARNING
                log.log(level, "watch of %s of %s: %s", self.what, self.namespace, error.message)
            least_s = FORBIDDEN_S if isinstance(error, ForbiddenError) else 0.0
            # Changes may have been missed: list again.
            self._version = ""
            self._failed_in_a_row += 1
        # A single failure may be the only one.
        wait_s = max(least_s, BACKOFF.delay_s(self._failed_in_a_row - 1, self._random.random()))
        if wait_s > 0.0 and not self._closed:
            self._clock.wait(wait_s)

    def _watch(self) -> None:
        began_s = self._clock.monotonic_s()
        stream = self._client.watch(self.kind, self.namespace, self._version, self._watch_s)
        with self._lock:
            self._stream = stream
            if self._closed:
                return
        for event in stream:
            kind, body = event.get("type"), event["object"]
            if kind == "ERROR":
                if body.get("code") == GONE:
                    raise ExpiredError("the resourceVersion of the watch is too old")
                raise UnavailableError("the watch ended with an error of the API server")
            if kind not in ("BOOKMARK", "ADDED", "MODIFIED", "DELETED"):
                raise UnavailableError("the watch has an event of an unknown type")
            version = _text(body, "resourceVersion")
            if kind != "BOOKMARK":
                name, after = _text(body, "name"), _spec_version(body) if kind != "DELETED" else ""
                self._spec_versions = self._spec_versions or {}
                if self._spec_versions.pop(name, "") != after:
                    self._tell([name])
                if after:
                    self._spec_versions[name] = after
            self._version, self._failed_in_a_row = version, 0
        # The server ended the watch: resume it, after a pause if it ended at once.
        is_short = self._clock.monotonic_s() - began_s < SHORT_S
        self._failed_in_a_row = self._failed_in_a_row + 1 if is_short else 0

    def _tell(self, names: Iterable[str]) -> None:
        for name in sorted(set(names)):
            try:
                self._on_change(self.namespace, name)
            except Exception:
                # A failing listener must not end the watch.
                log.exception("change of %s/%s could not be told", self.namespace, name)


def _spec_version(body: Json) -> str:
    """A text that changes with the object's spec, but not with its status."""
    return f"{body['metadata'].get('uid')}/{body['metadata'].get('generation')}"


def _text(body: Json, key: str) -> str:
    """A metadata text of the object. UnavailableError if it is missing: every server sends it."""
    metadata = body.get("metadata")
    text = metadata.get(key) if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not text:
        raise UnavailableError(f"the watch has an object without a {key}")
    return text


class Watchers:
    """Calls `wake(pipeline)` when an object of the pipeline changed, at most once in `gap_s`.

    A thread watches each namespace of the pipelines; changes sooner than `gap_s` are left to the next tick.
    `places_of` gives namespace and name of each object of a pipeline.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: ResourceKind,
        places_of: Callable[[Pipeline], Sequence[tuple[str, str]]],
        pipelines: Iterable[Pipeline],
        wake: Callable[[str], None],
        *,
        gap_s: float,
        stop: StopSignal,
    ) -> None:
        self._clock = SystemClock(stop)
        self._client, self._kind, self._places_of = client, kind, places_of
        self._wake, self._gap_s = wake, gap_s
        self._woken_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._pipelines: dict[tuple[str, str], str] = {}
        self.watchers: list[Watcher] = []
        self._threads: list[threading.Thread] = []
        for pipeline in sorted(pipelines, key=lambda each: [place[0] for place in places_of(each)]):
            self.add(pipeline)

    def add(self, pipeline: Pipeline) -> None:
        """Watch the objects of this pipeline too."""
        for namespace, name in self._places_of(pipeline):
            if not any(watcher.namespace == namespace for watcher in self.watchers):
                watcher = Watcher(self._client, namespace, self._kind, self._changed, self._clock)
                self.watchers.append(watcher)
                thread = threading.Thread(target=watcher.run, name=f"watch-{namespace}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._pipelines[namespace, name] = pipeline.name

    def remove(self, pipeline: Pipeline) -> None:
        """Stop watching the pipeline. Its namespace stays watched: another pipeline may come there."""
        for place in [place for place, name in self._pipelines.items() if name == pipeline.name]:
            del self._pipelines[place]

    def close(self) -> None:
        """End every watch; a call under way ends by its deadline. The caller sets `stop` first."""
        for watcher in self.watchers:
            watcher.close()
        for thread in self._threads:
            thread.join(self._client.timeout_s)

    def _changed(self, namespace: str, name: str) -> None:
        pipeline = self._pipelines.get((namespace, name))
        if pipeline is None:
            return
        now_s = self._clock.monotonic_s()
        with self._lock:
            last_s = self._woken_s.get(pipeline)
            if last_s is not None and now_s - last_s < self._gap_s:
                return
            self._woken_s[pipeline] = now_s
        self._wake(pipeline)


def health_figures(client: KubeClient, events: KubeEvents, watchers: Sequence[Watcher]) -> Figures:
    """Return the metrics of the clock, the watches and the Events; watches added later are included."""
    return Figures(
        (table.KUBE_SKEW, lambda: [] if (skew_s := client.skew_s) is None else skew_s),
        (table.KUBE_LISTS, lambda: [((it.namespace, it.what), it.lists) for it in list(watchers)]),
        (table.KUBE_FAILURES, lambda: [((it.namespace, it.what), it.failures) for it in list(watchers)]),
        (table.KUBE_EVENTS_DROPPED, lambda: events.dropped),
    )
