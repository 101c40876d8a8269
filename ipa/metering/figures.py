"""Figures that others keep, as metrics: each is asked for whenever the metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from ipa.metering import table
from ipa.metering.make import counted, gauged
from ipa.metering.metric import Metric, MetricKind


class Figures(Collector):
    """Metrics without labels, each with how it is read."""

    def __init__(self, *figures: tuple[Metric, Callable[[], float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        """Each as it is now."""
        for metric, read in self._figures:
            make = counted if metric.kind is MetricKind.COUNTER else gauged
            yield make(metric, [((), read())])


class Recorder(Protocol):
    """What keeps the record."""

    failures: int

    def degraded(self) -> tuple[str, ...]:
        """Why it cannot be written, or soon cannot."""
        ...

    @property
    def keeper(self) -> Kept:
        """What keeps it within its bounds."""
        ...


class Kept(Protocol):
    """What keeps the record within its bounds."""

    record_bytes: int
    is_bounded: bool


class Teller(Protocol):
    """What tells events to a receiver."""

    delivered: int
    failed: int
    dropped: int

    @property
    def waiting(self) -> int:
        """Events that wait."""
        ...


class Followers(Protocol):
    """Who follows events."""

    open: int
    dropped: int


class Dropper(Protocol):
    """What drops what it cannot hold."""

    dropped: int


def record_figures(store: Recorder) -> Figures:
    """How the record fares."""
    return Figures(
        (table.RECORD_FAILURES, lambda: store.failures),
        (table.STORE_DEGRADED, lambda: bool(store.degraded())),
        (table.RECORD_BYTES, lambda: store.keeper.record_bytes),
        (table.RECORD_BOUNDED, lambda: store.keeper.is_bounded),
    )


def webhook_figures(webhook: Teller) -> Figures:
    """How the webhook fares."""
    return Figures(
        (table.WEBHOOK_DELIVERED, lambda: webhook.delivered),
        (table.WEBHOOK_FAILURES, lambda: webhook.failed),
        (table.WEBHOOK_DROPPED, lambda: webhook.dropped),
        (table.WEBHOOK_QUEUE, lambda: webhook.waiting),
    )


def stream_figures(streams: Followers) -> Figures:
    """How those fare who follow events."""
    return Figures((table.STREAMS, lambda: streams.open), (table.STREAMS_DROPPED, lambda: streams.dropped))


def log_figures(logs: Dropper) -> Figures:
    """How the log fares."""
    return Figures((table.LOG_DROPPED, lambda: logs.dropped))
