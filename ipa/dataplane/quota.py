"""A limit on the CPU time of one model server, like `limits.cpu` of Kubernetes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path

from ipa.model.plan import CFS_PERIOD_S

# Where a container sees the quota and the period of its CPU limit, in microseconds: cgroup v2, then v1.
CGROUP = Path("/sys/fs/cgroup")
CPU_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def container_cores(cgroup: Path = CGROUP) -> float | None:
    """The CPU limit of the container that this process is in, in cores; None if it has none."""
    for names in CPU_LIMITS:
        # Without a limit the quota is `max` or -1.
        with suppress(OSError, ValueError):
            quota, period = (float(it) for name in names for it in (cgroup / name).read_text().split())
            if quota > 0 and period > 0:
                return quota / period
    return None


class GivenCores:
    """The cores that a process is given: those of IPA_CORES, or of the file that IPA_CORES_FILE names.

    Without IPA_CORES those of its container's limit, or 1 if that has none.
    """

    def __init__(self, environ: Mapping[str, str], cgroup: Path = CGROUP) -> None:
        given = environ.get("IPA_CORES")
        self._cores = float(given) if given else container_cores(cgroup) or 1.0
        path = environ.get("IPA_CORES_FILE")
        self._path = Path(path) if path else None
        self._seen = (0, 0)

    def now(self) -> float:
        """The cores now. A file that is missing, or makes no sense, changes nothing."""
        if self._path:
            with suppress(OSError, ValueError):
                found = self._path.stat()
                seen = (found.st_ino, found.st_mtime_ns)
                if seen != self._seen:
                    self._seen = seen
                    cores = float(self._path.read_text())
                    self._cores = cores if 0 < cores < inf else self._cores
        return self._cores


class CpuQuota:
    """A token bucket of CPU seconds: it fills at `cores` per second, up to one period's worth.

    Use may overdraw it; the caller then waits until the debt is paid, as CFS throttles a container that has
    used up its period. Whole cores are enforced by affinity instead and never wait here.
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
        """Fill at this rate from now on; what is owed stays, and is paid back at the new rate."""
        self.settle(0.0)
        self.cores = cores

    def settle(self, cpu_s: float) -> None:
        """Account for `cpu_s` seconds of CPU time used since the last call, spread over that time.

        HTTP and JSON count too, as in a container, but the income covers the little that an idle server uses.
        """
        capacity_s = self.cores * self._period_s
        self._balance_s = min(capacity_s, self._balance_s + self._income_s() - cpu_s)

    def charge(self, cpu_s: float) -> float:
        """Account for `cpu_s` as `settle` does, and return the seconds to wait until the debt is paid.

        A busy replica therefore takes cpu_s / cores; an idle one up to a period less.
        """
        self.settle(cpu_s)
        is_limited = self.cores != int(self.cores)
        return max(0.0, -self._balance_s / self.cores) if is_limited else 0.0

    def _income_s(self) -> float:
        now_s = self._monotonic()
        income_s = (now_s - self._filled_at_s) * self.cores
        self._filled_at_s = now_s
        return income_s
