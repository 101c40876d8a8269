"""The watches of a service: a thread for each kind of object in each namespace of its pipelines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.locate import target_of
from ipa.adapters.kube.split import is_split, parts_of
from ipa.adapters.kube.watch import AtMost, Watcher, feeds
from ipa.control.clock import StopSignal, SystemClock
from ipa.model.errors import IpaError
from ipa.model.pipeline import Pipeline


def objects_of(pipeline: Pipeline) -> tuple[str, ...]:
    """The names of the SeldonDeployments that run the pipeline; the last is where its requests come in."""
    if is_split(pipeline):
        return tuple(part.name for part in parts_of(pipeline))
    return (target_of(pipeline).name,)


def _places(pipeline: Pipeline) -> list[tuple[str, str]]:
    try:
        return [(target_of(pipeline).namespace, name) for name in objects_of(pipeline)]
    except IpaError:
        # It cannot run on Seldon as its file stands: every tick of it says so.
        return []


class Watchers:
    """Calls `wake(pipeline)` when what runs of it changed, at most once in `gap_s`."""

    def __init__(
        self,
        client: KubeClient,
        pipelines: Iterable[Pipeline],
        wake: Callable[[str], None],
        *,
        gap_s: float,
        stop: StopSignal,
    ) -> None:
        clock = SystemClock(stop)
        self._wake = AtMost(wake, gap_s, clock)
        self._client = client
        self._pipelines = {place: pipeline.name for pipeline in pipelines for place in _places(pipeline)}
        found = [
            feed
            for namespace in sorted({namespace for namespace, _ in self._pipelines})
            for feed in feeds(client, namespace)
        ]
        self.watchers = tuple(Watcher(feed, self._changed, clock) for feed in found)
        self._threads = [
            threading.Thread(target=one.run, name=f"watch-{one.feed.namespace}-{one.feed.what}", daemon=True)
            for one in self.watchers
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
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
