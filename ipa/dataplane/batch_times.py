"""The batches of a stage's model, counted in the process that serves them: their number, time and items."""

from __future__ import annotations

import threading
import time
from functools import cache
from typing import NamedTuple

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


class BatchMoment(NamedTuple):
    """The time at which a batch begins or ends, and the CPU time of the event loop until then, in s."""

    at_s: float
    coded_s: float


class BatchTimes:
    """Counts the batches of a model, which serves them one after another.

    A batch takes its time in the model, the CPU time of the event loop since the batch before, which codes
    what a client sends and gets, and the time until its CPU time is paid for. Time in a queue is not in it.
    It takes no less than on a busy replica, which has saved up no CPU time.
    """

    def __init__(self, model: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._batches, self._seconds, self._items = (each.labels(model) for each in _counters(registry))
        # Of the event loop's thread, which makes this; not every system tells another thread's time.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock = clock_of(threading.get_ident()) if clock_of else None
        self._ended, self._coding_s = self.now(), 0.0
        self._paid_at_s = self._ended.at_s

    def add(
        self, begun: BatchMoment, ended: BatchMoment, items: int, wait_s: float = 0.0, busy_s: float = 0.0
    ) -> None:
        """Count a batch whose CPU time is paid for `wait_s` after its end, and is `busy_s` at its quota."""
        if begun.at_s - self._ended.at_s < CLOSE_S:
            self._coding_s = begun.coded_s - self._ended.coded_s
        paid_at_s = ended.at_s + wait_s
        self._batches.inc()
        # One that began before the batch before it was paid for paid its coding with its debt.
        self._seconds.inc(max(busy_s, paid_at_s - max(begun.at_s - self._coding_s, self._paid_at_s)))
        self._items.inc(items)
        self._ended, self._paid_at_s = ended, paid_at_s

    def now(self) -> BatchMoment:
        """The moment now; called where a batch begins or ends."""
        return BatchMoment(time.monotonic(), self._loop_cpu_s())

    def _loop_cpu_s(self) -> float:
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)
