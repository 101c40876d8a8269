"""The CPU time of a model server: a limit like `limits.cpu` of Kubernetes, and that of its batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ipa.metering import table
from ipa.metering.make import counter
from ipa.model.plan import CFS_PERIOD_S

# Where a container sees the quota and the period of its CPU limit, in microseconds: cgroup v2, then v1.
CGROUP = Path("/sys/fs/cgroup")
CPU_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
# Where batches are further apart, the CPU time between them is that of probes and scrapes too.
CLOSE_S = 1.0


class GivenCores:
    """The cores that this process may use: IPA_CORES, or the content of the file that IPA_CORES_FILE names.

    Without IPA_CORES they are the container's limit, or 1 if it has none.
    """

    def __init__(self, environ: Mapping[str, str], cgroup: Path = CGROUP) -> None:
        self._cores = float(environ.get("IPA_CORES") or 1.0)
        for names in () if environ.get("IPA_CORES") else CPU_LIMITS:
            # Without a limit the quota is `max` or -1.
            with suppress(OSError, ValueError):
                quota, period = (float(it) for name in names for it in (cgroup / name).read_text().split())
                self._cores = quota / period if quota > 0 and period > 0 else self._cores
        path = environ.get("IPA_CORES_FILE")
        self._path = Path(path) if path else None
        self._version = (0, 0)

    def now(self) -> float:
        """The cores now. A missing or invalid file changes nothing."""
        if self._path:
            with suppress(OSError, ValueError):
                stat = self._path.stat()
                if self._version != (version := (stat.st_ino, stat.st_mtime_ns)):
                    self._version = version
                    cores = float(self._path.read_text())
                    self._cores = cores if 0 < cores < inf else self._cores
        return self._cores


class CpuQuota:
    """A token bucket of CPU seconds: it fills at `cores` per second, up to one period's worth.

    Use may overdraw it; the caller then waits until the debt is paid, as CFS throttles a container that has
    used up its period. Whole cores are enforced by the number of threads and never wait here.
    """

    def __init__(
        self, cores: float, *, period_s: float = CFS_PERIOD_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        if cores <= 0:
            raise ValueError(f"cores must be above 0, not {cores:g}")
        self.cores = cores
        self._period_s = period_s
        self._balance_s = cores * period_s
        self._monotonic = monotonic
        self._filled_at_s = monotonic()

    def resize(self, cores: float) -> None:
        """Fill at this rate from now on; a debt stays, and is paid back at the new rate."""
        self.settle(0.0)
        self.cores = cores

    def settle(self, cpu_s: float) -> None:
        """Account for `cpu_s` seconds of CPU time used since the last call, spread over that time.

        HTTP and JSON count too, as in a container, but the income covers the little that an idle server uses.
        """
        now_s = self._monotonic()
        income_s = (now_s - self._filled_at_s) * self.cores
        self._filled_at_s = now_s
        self._balance_s = min(self.cores * self._period_s, self._balance_s + income_s - cpu_s)

    def charge(self, cpu_s: float) -> float:
        """Account for `cpu_s` as `settle` does, and return the seconds to wait until the debt is paid.

        A busy replica therefore takes cpu_s / cores; an idle one up to a period less.
        """
        self.settle(cpu_s)
        is_limited = self.cores != int(self.cores)
        return max(0.0, -self._balance_s / self.cores) if is_limited else 0.0


@cache
def _counters(registry: CollectorRegistry) -> tuple[Counter, Counter, Counter]:
    """The counters of batches, their seconds and their items, created once for all models of a process.

    MLServer's worker processes share them by files, so they must not be created before a worker starts.
    """
    metrics = (table.REPLICA_BATCHES, table.REPLICA_SERVICE_SECONDS, table.REPLICA_ITEMS)
    batches, seconds, items = (counter(metric, registry) for metric in metrics)
    return batches, seconds, items


class BatchMoment(NamedTuple):
    """The time at which a batch begins or ends, and the event loop's CPU seconds until then."""

    at_s: float
    coded_s: float


class BatchTimes:
    """Counts the batches of a model, which serves them one after another.

    The time of a batch is its time in the model, the event loop's CPU time since the batch before (spent on
    encoding and decoding), and the wait until the quota has paid for it; waiting in a queue is excluded. It
    is at least the time on a busy replica, which has no CPU time saved up.
    """

    def __init__(self, model: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._batches, self._seconds, self._items = (each.labels(model) for each in _counters(registry))
        # The clock of the event loop's thread, in which this object is created.
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._ended, self._coding_s = self.now(), 0.0
        self._paid_at_s = self._ended.at_s

    def add(
        self, begun: BatchMoment, ended: BatchMoment, items: int, wait_s: float = 0.0, busy_s: float = 0.0
    ) -> None:
        """Count a batch that the quota has paid for `wait_s` after its end, `busy_s` at the quota's rate."""
        if begun.at_s - self._ended.at_s < CLOSE_S:
            self._coding_s = begun.coded_s - self._ended.coded_s
        paid_at_s = ended.at_s + wait_s
        self._batches.inc()
        # One that began before the batch before it was paid for paid its coding with its debt.
        self._seconds.inc(max(busy_s, paid_at_s - max(begun.at_s - self._coding_s, self._paid_at_s)))
        self._items.inc(items)
        self._ended, self._paid_at_s = ended, paid_at_s

    def now(self) -> BatchMoment:
        """The current moment; to be called when a batch begins or ends."""
        return BatchMoment(time.monotonic(), time.clock_gettime(self._clock))
