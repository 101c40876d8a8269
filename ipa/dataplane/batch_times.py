"""The batches of a stage's model, counted in the process that serves them: their number, time and items."""

from __future__ import annotations

import threading
import time
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ipa.metering import table
from ipa.metering.make import counter

# Where batches are further apart, the CPU time between them is that of probes and scrapes too.
CLOSE_S = 1.0


@cache
def _counters(registry: CollectorRegistry) -> tuple[Counter, Counter, Counter]:
    """The counters of batches, of their seconds and of their items, made once for all models of a process.

    MLServer's worker processes share them by files, so they must not be made before a worker begins.
    """
    metrics = (table.REPLICA_BATCHES, table.REPLICA_SERVICE_SECONDS, table.REPLICA_ITEMS)
    batches, seconds, items = (counter(metric, registry) for metric in metrics)
    return batches, seconds, items


class BatchTimes:
    """Counts the batches of a model, in the thread that serves them one after another.

    A batch takes its time in the model, and the CPU time of the event loop since the batch before: that codes
    what a client sends and gets. Time in a queue is not in it.
    """

    def __init__(self, model: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._batches, self._seconds, self._items = (each.labels(model) for each in _counters(registry))
        # Of the event loop's thread, which makes this; not every system tells another thread's time.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock = clock_of(threading.get_ident()) if clock_of else None
        self._ended_s, self._coded_s, self._coding_s = time.monotonic(), self._loop_cpu_s(), 0.0

    def add(self, begun_s: float, coded_s: float, items: int) -> None:
        """Count a batch that ends now; `begin` returned `begun_s` and `coded_s` when it began."""
        if begun_s - self._ended_s < CLOSE_S:
            self._coding_s = coded_s - self._coded_s
        self._ended_s, self._coded_s = time.monotonic(), self._loop_cpu_s()
        self._batches.inc()
        self._seconds.inc(self._ended_s - begun_s + self._coding_s)
        self._items.inc(items)

    def begin(self) -> tuple[float, float]:
        """The time now, and the CPU time of the event loop until now, both in s."""
        return time.monotonic(), self._loop_cpu_s()

    def _loop_cpu_s(self) -> float:
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)
