"""CPU times of this machine and its processes, as Linux counts them in /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from ipa.profiling.measure import CpuTimes

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Columns of /proc/stat <man 5 proc_stat>: what processes ran, and what the hypervisor gave to other machines.
# Interrupts do not count: those of the loopback interface are of the measurement itself.
USER, NICE, SYSTEM, STEAL = 0, 1, 2, 7


def cpu_times(pids: Collection[int], bound: Collection[int] = (), proc: Path = PROC) -> CpuTimes | None:
    """The times of the CPUs of this process, its own and that of `pids` counted as its own.

    `bound` are the CPUs that the replica is bound to. None where the kernel does not count them.
    """
    allowed = os.sched_getaffinity(0)
    columns = {cpu: times for cpu, times in _cpus(proc) if cpu in allowed}
    if not columns:
        return None
    own = {os.getpid(), *pids}
    own_s, others_s = 0.0, {}
    for pid, name, used_s in _processes(proc):
        if pid in own:
            own_s += used_s
        else:
            others_s[pid, name] = used_s
    return CpuTimes(
        at_s=time.monotonic(),
        used_s={cpu: sum(it[at] for at in (USER, NICE, SYSTEM, STEAL)) for cpu, it in columns.items()},
        stolen_s=sum(it[STEAL] for it in columns.values()),
        own_s=own_s,
        bound=frozenset(bound) if set(bound) < set(columns) else frozenset(),
        others_s=others_s,
    )


def _cpus(proc: Path) -> Iterator[tuple[int, list[float]]]:
    """Each CPU with its columns in seconds."""
    with suppress(OSError, ValueError):
        for line in (proc / "stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name != "cpu" and len(ticks) > STEAL:
                yield int(name.removeprefix("cpu")), [int(each) / TICKS_PER_S for each in ticks]


def _processes(proc: Path) -> Iterator[tuple[int, str, float]]:
    """Each process with its name and the seconds that it ran."""
    for folder in proc.iterdir():
        if folder.name.isdigit():
            # It may have ended since.
            with suppress(OSError, ValueError, IndexError):
                head, _, tail = (folder / "stat").read_text().rpartition(")")
                fields = tail.split()
                yield (
                    int(folder.name),
                    head.partition("(")[2],
                    (int(fields[11]) + int(fields[12])) / TICKS_PER_S,
                )
