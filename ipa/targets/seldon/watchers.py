"""The watches of a service: a thread for each kind of object in each namespace of its pipelines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef
from ipa.adapters.kube.watch import AtMost, Watcher, feeds
from ipa.control.loop.clock import StopSignal, SystemClock
from ipa.model.errors import IpaError
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, target_of
from ipa.targets.seldon.split import is_split, parts_of


def objects_of(pipeline: Pipeline) -> tuple[str, ...]:
    """The names of the SeldonDeployments that run the pipeline; the last is where its requests come in."""
    if is_split(pipeline):
        return tuple(part.name for part in parts_of(pipeline))
    return (target_of(pipeline).name,)


def places_of(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Namespace and name of each of them; nothing where it cannot run on Seldon."""
    try:
        return [(target_of(pipeline).namespace, name) for name in objects_of(pipeline)]
    except IpaError:
        # It cannot run on Seldon as its file stands: every tick of it says so.
        return []


def entry_of(pipeline: Pipeline) -> ObjectRef:
    """The SeldonDeployment where the pipeline's requests come in; InputError if its file names none."""
    return ObjectRef(SELDON_DEPLOYMENT, target_of(pipeline).namespace, objects_of(pipeline)[-1])


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
        self._clock = SystemClock(stop)
        self._wake = AtMost(wake, gap_s, self._clock)
        self._client = client
        self._pipelines: dict[tuple[str, str], str] = {}
        self.watchers: list[Watcher] = []
        self._threads: list[threading.Thread] = []
        self._started = False
        for pipeline in sorted(pipelines, key=lambda each: [place[0] for place in places_of(each)]):
            self.add(pipeline)

    def start(self) -> None:
        """Begin to watch."""
        self._started = True
        for thread in self._threads:
            thread.start()

    def add(self, pipeline: Pipeline) -> None:
        """Watch this pipeline too."""
        for namespace, name in places_of(pipeline):
            if not any(watcher.feed.namespace == namespace for watcher in self.watchers):
                self._watch(namespace)
            self._pipelines[namespace, name] = pipeline.name

    def remove(self, pipeline: Pipeline) -> None:
        """Watch it no longer. Its namespace is watched on: another may come there."""
        for place in [place for place, name in self._pipelines.items() if name == pipeline.name]:
            del self._pipelines[place]

    def _watch(self, namespace: str) -> None:
        for feed in feeds(self._client, namespace, SELDON_DEPLOYMENT):
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
