"""Quiet of a machine during a measurement: the CPU time that others took from the measured replica.

Starts no process and reads no clock: a replica reports the CPU times of its machine, and the caller waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol, TypeVar

from ipa.model.plan import cores_of

# Others that take a tenth of the CPUs make a batch about a tenth longer: the scatter that plans tolerate
# (ipa.profiling.lint.SCATTER_RATIO, whose module takes long to import).
QUIET_RATIO = 0.10
# CPU times are counted in hundredths of a second: half a second of two CPUs is right to a few percent.
LOOK_S = 0.5
# A round is measured this many times at most until none of it was disturbed.
TRIES = 3
# The client that sends the batches, beside the replica.
CLIENT_CPUS = 1

Measurement = TypeVar("Measurement")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """The CPU times of a machine so far, in seconds since any moment, at `at_s`.

    `used_s` is by CPU the time of all processes and the time stolen from it by the hypervisor, `stolen_s` the
    latter of all CPUs; `own_s` is the time of the replica and of the process that measures it. `bound` are
    the CPUs of the replica, empty if it may run on any. `others_s` is the time of each other process by pid
    and name, as far as they are seen.
    """

    at_s: float
    used_s: Mapping[int, float]
    stolen_s: float = 0.0
    own_s: float = 0.0
    bound: frozenset[int] = frozenset()
    others_s: Mapping[tuple[int, str], float] = field(default_factory=dict)


class WatchedReplica(Protocol):
    """A replica that reports the CPU times of its machine."""

    def cpu_times(self) -> CpuTimes | None:
        """The CPU times so far; None if they are not seen from here."""


@dataclass(frozen=True, slots=True)
class ForeignUse:
    """The use of a replica's CPUs by others between two looks.

    `ratio` is their share of the `needed` CPUs, steal included: use that other CPUs have room for does not
    count. `stolen_cores` is the steal, `largest` the process that used most and its cores, if it is seen.
    """

    ratio: float
    needed: int
    stolen_cores: float = 0.0
    largest: str = ""

    @property
    def is_quiet(self) -> bool:
        """True if it changes no measurement by more than plans tolerate."""
        return self.ratio <= QUIET_RATIO

    def __str__(self) -> str:
        cpus = "the CPU that it needs" if self.needed == 1 else f"the {self.needed} CPUs that it needs"
        stolen = f"steal: {cores_of(round(self.stolen_cores, 2))}" if self.stolen_cores >= 0.01 else ""
        details = "; ".join(filter(None, (self.largest, stolen)))
        return f"others used {self.ratio:.0%} of {cpus}" + (f" ({details})" if details else "")


def foreign_use(before: CpuTimes, after: CpuTimes, cores: float) -> ForeignUse | None:
    """The use by others between the looks, beside a replica of that many cores; None if no time went by."""
    took_s = after.at_s - before.at_s
    if took_s <= 0 or not after.used_s:
        return None
    used = {cpu: (used_s - before.used_s.get(cpu, used_s)) / took_s for cpu, used_s in after.used_s.items()}
    own = (after.own_s - before.own_s) / took_s
    stolen = max((after.stolen_s - before.stolen_s) / took_s, 0.0)
    needed = min(len(used), ceil(cores) + CLIENT_CPUS)
    room = len(used) - needed
    # What the hypervisor took was taken from CPUs that had work, which are those measured on.
    foreign = max(sum(used.values()) - own - stolen - room, 0.0) + stolen
    if after.bound:
        # Others may be bound to the same CPUs, whatever room there is beside them.
        foreign = max(foreign, sum(used.get(cpu, 0.0) for cpu in after.bound) - own)
    return ForeignUse(min(max(foreign, 0.0) / needed, 1.0), needed, stolen, _largest(before, after, took_s))


def _largest(before: CpuTimes, after: CpuTimes, took_s: float) -> str:
    """The process that used most, with its cores; empty if none used a hundredth of a core."""
    grown = {key: (s - before.others_s.get(key, 0.0)) / took_s for key, s in after.others_s.items()}
    (pid, name), cores = max(grown.items(), key=lambda each: each[1], default=((0, ""), 0.0))
    return f"{name}, pid {pid}: {cores_of(round(cores, 2))}" if cores >= 0.01 else ""


@dataclass
class QuietWatch:
    """Has measured again what was disturbed, and waits up to `left_s` in all for quiet.

    `wait` sleeps for seconds, `say` receives why it waits. `disturbed` counts points that stayed disturbed,
    `is_seen` is true once the CPU times of a machine were seen.
    """

    left_s: float
    wait: Callable[[float], None]
    say: Callable[[str], None]
    disturbed: int = 0
    is_seen: bool = False

    def measured(
        self, replica: WatchedReplica, cores: float, place: str, measure: Callable[[int], Measurement]
    ) -> tuple[Measurement, float | None]:
        """The undisturbed result of `measure`, else the least disturbed one with the share of the others.

        `measure` is given the number of its calls before.
        """
        best: tuple[Measurement, float] | None = None
        for attempt in range(TRIES):
            before = replica.cpu_times()
            found = measure(attempt)
            after = replica.cpu_times()
            use = foreign_use(before, after, cores) if before and after else None
            self.is_seen = self.is_seen or use is not None
            if use is None or use.is_quiet:
                return found, None
            if best is None or use.ratio < best[1]:
                best = found, use.ratio
            is_last = attempt == TRIES - 1
            if is_last or not self._becomes_quiet(replica, cores, use, place):
                break
        assert best is not None, "it is quiet or disturbed"
        return best[0], round(best[1], 2)

    def _becomes_quiet(self, replica: WatchedReplica, cores: float, use: ForeignUse, place: str) -> bool:
        """True once the machine is quiet; False if the time to wait is over before."""
        seen = replica.cpu_times()
        is_told = False
        while True:
            self.wait(LOOK_S)
            now = replica.cpu_times()
            latest = foreign_use(seen, now, cores) if seen and now else None
            if latest is None or latest.is_quiet:
                return True
            use, seen = latest, now
            self.left_s -= LOOK_S
            if self.left_s <= 0:
                return False
            if not is_told:
                self.say(f"  {cores_of(cores)}, {place}: {use}; waiting up to {self.left_s:.0f} s for quiet")
                is_told = True
