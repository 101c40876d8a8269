"""The watches of a service: a thread for each kind of object in each namespace of its pipelines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.kube.watch import AtMost, Watcher, feeds
from ipa.control.loop.clock import StopSignal, SystemClock
from ipa.model.pipeline import Pipeline

# Namespace and name of each object of a pipeline; nothing where it cannot run there.
PlacesOf = Callable[[Pipeline], Sequence[tuple[str, str]]]


class Watchers:
    """Calls `wake(pipeline)` when its objects of that kind changed, at most once in `gap_s`."""

    def __init__(
        self,
        client: KubeClient,
        kind: ResourceKind,
        places_of: PlacesOf,
        pipelines: Iterable[Pipeline],
        wake: Callable[[str], None],
        *,
        gap_s: float,
        stop: StopSignal,
    ) -> None:
        self._clock = SystemClock(stop)
        self._wake = AtMost(wake, gap_s, self._clock)
        self._client, self._kind, self._places_of = client, kind, places_of
        self._pipelines: dict[tuple[str, str], str] = {}
        self.watchers: list[Watcher] = []
        self._threads: list[threading.Thread] = []
        self._started = False
        for pipeline in sorted(pipelines, key=lambda each: [place[0] for place in self._places_of(each)]):
            self.add(pipeline)

    def start(self) -> None:
        """Begin to watch."""
        self._started = True
        for thread in self._threads:
            thread.start()

    def add(self, pipeline: Pipeline) -> None:
        """Watch this pipeline too."""
        for namespace, name in self._places_of(pipeline):
            if not any(watcher.feed.namespace == namespace for watcher in self.watchers):
                self._watch(namespace)
            self._pipelines[namespace, name] = pipeline.name

    def remove(self, pipeline: Pipeline) -> None:
        """Watch it no longer. Its namespace is watched on: another may come there."""
        for place in [place for place, name in self._pipelines.items() if name == pipeline.name]:
            del self._pipelines[place]

    def _watch(self, namespace: str) -> None:
        for feed in feeds(self._client, namespace, self._kind):
            watcher = Watcher(feed, self._changed, self._clock)
            name = f"watch-{namespace}-{feed.what}"
            thread = threading.Thread(target=watcher.run, name=name, daemon=True)
            self.watchers.append(watcher)
            self._threads.append(thread)
            if self._started:
                thread.start()

    def close(self) -> None:
        """End every watch; a call under way ends by its deadline. `stop` is to be set before."""
        for watcher in self.watchers:
            watcher.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(self._client.timeout_s)

    def _changed(self, namespace: str, name: str) -> None:
        pipeline = self._pipelines.get((namespace, name))
        if pipeline is not None:
            self._wake(pipeline)
