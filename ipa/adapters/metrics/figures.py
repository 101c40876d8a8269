"""Figures that others keep, as metrics: each is asked for whenever the metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric without labels: what it is called and means, and how it is read."""

    name: str
    meaning: str
    read: Callable[[], float]
    counts: bool = True


class Figures(Collector):
    """Metrics of these figures."""

    def __init__(self, *figures: Figure) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Each as it is now."""
        for figure in self._figures:
            kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
            yield kind(figure.name, figure.meaning, value=figure.read())
