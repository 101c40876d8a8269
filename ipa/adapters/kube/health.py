"""How well we get on with the API server, as metrics of the service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.watch import Watcher


class KubeHealth(Collector):
    """Reads the figures whenever the metrics are asked for."""

    def __init__(self, client: KubeClient, events: KubeEvents, watchers: Sequence[Watcher]) -> None:
        self._client, self._events, self._watchers = client, events, watchers

    def collect(self) -> Iterator[Metric]:
        """Clock skew, lists and failures of the watches, Events that were not told."""
        skew = GaugeMetricFamily(
            "ipa_kube_clock_skew_seconds", "How far the API server's clock is ahead of ours."
        )
        if self._client.skew_s is not None:
            skew.add_metric([], self._client.skew_s)
        yield skew
        labels = ["namespace", "kind"]
        lists = CounterMetricFamily("ipa_kube_watch_lists", "Lists made to begin a watch.", labels=labels)
        failures = CounterMetricFamily("ipa_kube_watch_failures", "Watches that failed.", labels=labels)
        for watcher in list(self._watchers):
            place = [watcher.feed.namespace, watcher.feed.what]
            lists.add_metric(place, watcher.lists)
            failures.add_metric(place, watcher.failures)
        yield lists
        yield failures
        yield CounterMetricFamily(
            "ipa_kube_events_dropped", "Events that were not told.", value=self._events.dropped
        )
