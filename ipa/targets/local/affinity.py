"""Which CPUs a replica is bound to, and how many cores all replicas have had for how long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def move(pid: int, cpus: Collection[int]) -> None:
    """Bind every thread of the process to those CPUs; nothing where it has ended."""
    moved: set[str] = set()
    with suppress(ProcessLookupError, FileNotFoundError):
        # A thread that starts meanwhile has the CPUs of the one that started it: look until none is new.
        while new := {task.name for task in Path(f"/proc/{pid}/task").iterdir()} - moved:
            for thread in new:
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), cpus)
            moved |= new


@dataclass(slots=True)
class CpuAssignment:
    """The CPUs of one process: exclusive ones, or the pool that the others share."""

    cores: float
    cpus: tuple[int, ...] = ()
    is_exclusive: bool = False
    pid: int = 0


class CpuMap:
    """Processes on the CPUs of this machine, as the kubelet's static policy has them. Thread-safe.

    A replica of whole cores has CPUs of its own while there are any free; replicas of less, and what has no
    cores of its own, share the rest, or all CPUs where none is left. Whoever comes late, as in a change
    beside what is still there, gets its own as soon as others have gone.
    """

    def __init__(
        self, cpus: Sequence[int] | None = None, move: Callable[[int, Collection[int]], None] = move
    ) -> None:
        self._cpus = tuple(cpus or sorted(os.sched_getaffinity(0)))
        self._move = move
        self._places: dict[str, CpuAssignment] = {}
        self._lock = threading.Lock()

    def place(self, name: str, cores: float = 0) -> tuple[int, ...]:
        """The CPUs of a new process, until others come or go."""
        with self._lock:
            self._places[name] = CpuAssignment(cores)
            self._share_out()
            return self._places[name].cpus

    def started(self, name: str, pid: int) -> None:
        """Record the process of a placed replica."""
        with self._lock:
            place = self._places[name]
            place.pid = pid
            # Others may have come or gone since it was placed.
            self._move(pid, place.cpus)

    def resize(self, name: str, cores: float) -> None:
        """Give a placed process other cores."""
        with self._lock:
            place = self._places[name]
            place.cores, place.is_exclusive = cores, False
            self._share_out()

    def release(self, name: str) -> None:
        """It is gone."""
        with self._lock:
            if self._places.pop(name, None):
                self._share_out()

    def _share_out(self) -> None:
        taken = {cpu for place in self._places.values() if place.is_exclusive for cpu in place.cpus}
        # From the last CPU on: the first is where a machine handles its interrupts.
        free = [cpu for cpu in reversed(self._cpus) if cpu not in taken]
        for place in self._places.values():
            wanted = int(place.cores)
            if not place.is_exclusive and wanted == place.cores and 0 < wanted <= len(free):
                place.is_exclusive = True
                self._put(place, tuple(sorted(free[:wanted])))
                free = free[wanted:]
        for place in self._places.values():
            if not place.is_exclusive:
                self._put(place, tuple(sorted(free)) or self._cpus)

    def _put(self, place: CpuAssignment, cpus: tuple[int, ...]) -> None:
        if place.cpus != cpus and place.pid:
            self._move(place.pid, cpus)
        place.cpus = cpus


class CoreMeter:
    """The integral of allocated cores over time."""

    def __init__(self) -> None:
        self._cores = 0.0
        self._total_s = 0.0
        self._since_s = 0.0

    def add(self, cores: float, now_s: float) -> None:
        """Add cores (or, if negative, remove them) from now on."""
        self._total_s = self.core_seconds(now_s)
        self._since_s = now_s
        self._cores += cores

    def core_seconds(self, now_s: float) -> float:
        """Core seconds until now."""
        return self._total_s + self._cores * (now_s - self._since_s)
