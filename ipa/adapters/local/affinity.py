"""Which CPUs a replica is bound to, and how many cores all replicas have had for how long."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence


class CpuMap:
    """Replicas packed onto the CPUs of this machine: whole cores to CPUs of their own while there are any."""

    def __init__(self, cpus: Sequence[int] | None = None) -> None:
        self._load: dict[int, float] = dict.fromkeys(cpus or sorted(os.sched_getaffinity(0)), 0.0)
        self._places: dict[str, dict[int, float]] = {}

    def place(self, replica: str, cores: float) -> tuple[int, ...]:
        """The CPUs of a new replica: the least loaded, for a fraction the fullest on which it still fits."""
        wanted = min(len(self._load), max(1, math.ceil(cores)))
        share = cores / wanted
        if cores < 1:
            fitting = [cpu for cpu, load in self._load.items() if load + cores <= 1 + 1e-9]
            fullest = max(fitting, key=lambda cpu: self._load[cpu], default=None)
            chosen = [fullest] if fullest is not None else self._least_loaded(1)
        else:
            chosen = self._least_loaded(wanted)
        for cpu in chosen:
            self._load[cpu] += share
        self._places[replica] = dict.fromkeys(chosen, share)
        return tuple(chosen)

    def release(self, replica: str) -> None:
        """The replica is gone."""
        for cpu, share in self._places.pop(replica, {}).items():
            self._load[cpu] -= share

    def _least_loaded(self, number: int) -> list[int]:
        return sorted(self._load, key=lambda cpu: (round(self._load[cpu], 9), cpu))[:number]


class CoreMeter:
    """The integral of allocated cores over time."""

    def __init__(self) -> None:
        self._cores = 0.0
        self._total_s = 0.0
        self._since_s = 0.0

    def add(self, cores: float, now_s: float) -> None:
        """So many cores more (or, negative, less) from now on."""
        self._total_s = self.core_seconds(now_s)
        self._since_s = now_s
        self._cores += cores

    def core_seconds(self, now_s: float) -> float:
        """Core seconds until now."""
        return self._total_s + self._cores * (now_s - self._since_s)
