"""The cost of local pipelines, as metrics of the service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ipa.metering import table
from ipa.metering.make import counted


class Costed(Protocol):
    """Source of the costs of pipelines so far."""

    def allocated_core_seconds(self, pipeline: str) -> float:
        """Cores of all replicas, over the time each was alive."""
        ...

    def restarts(self, pipeline: str) -> int:
        """The number of replicas that died and were replaced."""
        ...

    def corrections(self, pipeline: str) -> int:
        """Number of corrections of a queue's configuration."""
        ...


class LocalCosts(Collector):
    """Reads the costs whenever the metrics are asked for."""

    def __init__(self, workload: Costed, pipelines: Sequence[str]) -> None:
        self._workload = workload
        self._pipelines = tuple(pipelines)

    def collect(self) -> Iterator[Metric]:
        """The core-seconds allocated, the replicas replaced and the queues put right, by pipeline."""
        names = self._pipelines
        paid = [((name,), self._workload.allocated_core_seconds(name)) for name in names]
        yield counted(table.ALLOCATED, paid)
        yield counted(table.RESTARTS, [((name,), self._workload.restarts(name)) for name in names])
        yield counted(table.CORRECTIONS, [((name,), self._workload.corrections(name)) for name in names])
