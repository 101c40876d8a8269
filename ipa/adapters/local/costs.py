"""What the local pipelines cost, as metrics of the service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Costed(Protocol):
    """What can say what its pipelines have cost so far."""

    def allocated_core_seconds(self, pipeline: str) -> float:
        """Cores of all replicas, over the time each was alive."""
        ...

    def restarts(self, pipeline: str) -> int:
        """How many replicas died and were replaced."""
        ...


class LocalCosts(Collector):
    """Reads the costs whenever the metrics are asked for."""

    def __init__(self, workload: Costed, pipelines: Sequence[str]) -> None:
        self._workload = workload
        self._pipelines = tuple(pipelines)

    def collect(self) -> Iterator[Metric]:
        """The core-seconds allocated and the replicas replaced, by pipeline."""
        paid = CounterMetricFamily(
            "ipa_allocated_core_seconds", "Cores of all replicas over the time alive.", labels=["pipeline"]
        )
        restarts = CounterMetricFamily("ipa_replica_restarts", "Replicas that died.", labels=["pipeline"])
        for pipeline in self._pipelines:
            paid.add_metric([pipeline], self._workload.allocated_core_seconds(pipeline))
            restarts.add_metric([pipeline], self._workload.restarts(pipeline))
        yield paid
        yield restarts
