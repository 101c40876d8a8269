"""Health of the connection to the API server, as metrics of the service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.watch import Watcher
from ipa.metering import table
from ipa.metering.make import counted, gauged


class KubeHealth(Collector):
    """Reads the figures whenever the metrics are asked for."""

    def __init__(self, client: KubeClient, events: KubeEvents, watchers: Sequence[Watcher]) -> None:
        self._client, self._events, self._watchers = client, events, watchers

    def collect(self) -> Iterator[Metric]:
        """Clock skew, lists and failures of the watches, Events that were not told."""
        skew_s = self._client.skew_s
        yield gauged(table.KUBE_SKEW, [] if skew_s is None else [((), skew_s)])
        # More may come while the service runs.
        watchers = list(self._watchers)
        places = [(each.feed.namespace, each.feed.what) for each in watchers]
        lists = [each.lists for each in watchers]
        failures = [each.failures for each in watchers]
        yield counted(table.KUBE_LISTS, zip(places, lists, strict=True))
        yield counted(table.KUBE_FAILURES, zip(places, failures, strict=True))
        yield counted(table.KUBE_EVENTS_DROPPED, [((), self._events.dropped)])
