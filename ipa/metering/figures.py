"""Counters that other components keep, as metrics that are read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from ipa.metering import table
from ipa.metering.make import counted, gauged
from ipa.metering.metric import Metric, MetricKind


class Figures(Collector):
    """A collector of metrics without labels, each with the function that reads it."""

    def __init__(self, *figures: tuple[Metric, Callable[[], float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        """Yield each metric with its current value."""
        for metric, read in self._figures:
            make = counted if metric.kind is MetricKind.COUNTER else gauged
            yield make(metric, [((), read())])


class RecordStore(Protocol):
    """The store of the record."""

    failures: int

    def degraded(self) -> tuple[str, ...]:
        """The reasons why it cannot be written, or soon cannot."""
        ...

    @property
    def keeper(self) -> RecordRetention:
        """The retention of its record."""
        ...


class RecordRetention(Protocol):
    """The retention of the record."""

    record_bytes: int
    is_bounded: bool


class WebhookCounts(Protocol):
    """The webhook."""

    delivered: int
    failed: int
    dropped: int

    @property
    def waiting(self) -> int:
        """The number of events that wait."""
        ...


class StreamCounts(Protocol):
    """The open event streams."""

    open: int
    dropped: int


class DropCount(Protocol):
    """A bounded buffer that drops what does not fit."""

    dropped: int


def record_figures(store: RecordStore) -> Figures:
    """Return the metrics of the record."""
    return Figures(
        (table.RECORD_FAILURES, lambda: store.failures),
        (table.STORE_DEGRADED, lambda: bool(store.degraded())),
        (table.RECORD_BYTES, lambda: store.keeper.record_bytes),
        (table.RECORD_BOUNDED, lambda: store.keeper.is_bounded),
    )


def webhook_figures(webhook: WebhookCounts) -> Figures:
    """Return the metrics of the webhook."""
    return Figures(
        (table.WEBHOOK_DELIVERED, lambda: webhook.delivered),
        (table.WEBHOOK_FAILURES, lambda: webhook.failed),
        (table.WEBHOOK_DROPPED, lambda: webhook.dropped),
        (table.WEBHOOK_QUEUE, lambda: webhook.waiting),
    )


def stream_figures(streams: StreamCounts) -> Figures:
    """Return the metrics of the event streams."""
    return Figures((table.STREAMS, lambda: streams.open), (table.STREAMS_DROPPED, lambda: streams.dropped))


def log_figures(logs: DropCount) -> Figures:
    """Return the metrics of the log."""
    return Figures((table.LOG_DROPPED, lambda: logs.dropped))
