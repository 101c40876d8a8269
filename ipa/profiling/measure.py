"""Measurement of a variant: one replica's service times for back-to-back batches, and its accuracy.

This module starts no process and reads no clock: a `MeasuredReplica` answers batches and reports how long
each took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, cycle, islice
from math import ceil, floor, inf, sqrt
from statistics import fmean, median, stdev
from typing import Any, Protocol, TypeVar

from ipa.model.errors import InputError
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint

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


# A V2 request of one item: its `inputs`, each with one row.
Item = Sequence[Mapping[str, Any]]
# The service times of one round by batch size.
Round = Mapping[int, Sequence[float]]
# The values of one item's outputs by name; more than one row if the stage fans out.
Outputs = Mapping[str, Sequence[Any]]

# Not counted: the first batches of a size allocate memory.
WARM_UP_BATCHES = 2
# Not counted either: a replica below one core first spends the quota that it saved while idle, up to a
# period's worth. Three periods of 100 ms are enough up to three quarters of a core.
WARM_UP_S = 0.3
# Fewer give no high percentile; of fewer than LEAST_STEADY the slowest agree by chance, below the p99.
MIN_BATCHES, LEAST_STEADY = 5, 20
TAIL_QUANTILE = 0.99
# Rounds of all batch sizes in turn; a size whose p99 is steady after LEAST_ROUNDS of them is done.
ROUNDS, LEAST_ROUNDS = 5, 3
# Points whose p99 scatters more are measured longer: half of the scatter that plans tolerate.
STEADY_RATIO = 0.05
# The standard error of a median, in that of a mean: √(π/2).
MEDIAN_ERROR = 1.25
# Few rounds understate their own scatter: Student's t for one standard deviation is about 1 + 0.6 / (n - 1).
FEW_ROUNDS = 0.6
# Twice the items take about this many times as long: a size that would exceed the limit is not tried.
DOUBLING_RATIO = 1.8


@dataclass(frozen=True, slots=True)
class BatchMeasurement:
    """A measured batch: its service time, transport included, and the outputs of every item."""

    latency_s: float
    outputs: tuple[Outputs, ...]


class MeasuredReplica(Protocol):
    """One running model server."""

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        """The answer to the items as one batch."""


class ServedReplica(MeasuredReplica, WatchedReplica, Protocol):
    """A model server that was started to be measured, or that runs already."""

    @property
    def readiness_s(self) -> float | None:
        """Seconds from its start to its readiness; None if it ran already."""

    def memory_gib(self) -> float | None:
        """The most memory it has had so far; None if that cannot be seen from here."""


class MeasurementBench(Protocol):
    """Starts one model server at a time, to be measured alone."""

    @property
    def hardware(self) -> str:
        """The cores and the processor that servers run on."""

    @property
    def method(self) -> str:
        """Method of the measurement, for the profile: launch of servers and requests."""

    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = ...
    ) -> AbstractContextManager[ServedReplica]:
        """A replica that is ready and ends with the block.

        UnavailableError if it does not get ready, or does not answer a batch, `within_s`.
        """


class MeasuredWorkload(Protocol):
    """The requests to measure a stage with; `workload(stage, seed)` of a pipeline's bench.py returns one."""

    @property
    def items(self) -> Sequence[Item]:
        """The requests, one item each."""

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        """The accuracy of the answers to all items, a fraction."""


@dataclass(frozen=True, slots=True)
class MeasurementEffort:
    """The duration of a point's measurement: up to a number of batches or seconds, in ROUNDS rounds.

    A size is done after LEAST_ROUNDS if its p99 is steady, and measured up to 2^`doublings` times as long
    while it scatters. A replica that was idle is first kept busy for `warm_up_s` seconds.
    """

    # A p99 of a few dozen batches is the slowest of them, and scatters; so does one of short batches that end
    # within a single disturbance.
    repeats: int = 1000
    budget_s: float = 1.0
    warm_up_s: float = WARM_UP_S
    doublings: int = 2


def measure_points(
    replica: ServedReplica,
    items: Sequence[Item],
    *,
    cores: float,
    batch_sizes: Sequence[int],
    limit_s: float,
    effort: MeasurementEffort,
    watch: QuietWatch,
) -> tuple[ProfilePoint, ...]:
    """Measure one point a batch size, by rising size, up to the first that would take longer than `limit_s`.

    A size beyond the SLA cannot be part of a plan, and costs the most time to measure. All sizes are measured
    in turn, for ROUNDS rounds: what slows the machine for some seconds then slows all of them. `watch` has
    rounds measured again that others disturbed; those that stay so are left out where at least half are
    quiet, else points are marked.
    """
    sizes = sorted(batch_sizes)
    found: list[tuple[Round, float | None]] = []
    while sizes and len(found) < ROUNDS * 2**effort.doublings:
        one = partial(_measure_round, replica, items, cores, sizes, effort, limit_s if not found else inf)
        found.append(watch.measured(replica, cores, f"batches of {_sizes(sizes)}", one))
        sizes = [size for size in sizes if size in found[0][0]]
        if len(found) >= LEAST_ROUNDS:
            sizes = [size for size in sizes if not is_steady(_quiet_rounds(found, size)[0])]
    points = []
    for size in found[0][0]:
        used, ratio = _quiet_rounds(found, size)
        point = summarise(used, cores=cores, batch_size=size)
        points.append(point if ratio is None else point.beside(ratio))
        watch.disturbed += ratio is not None
    return tuple(points)


def _quiet_rounds(
    found: Sequence[tuple[Round, float | None]], size: int
) -> tuple[list[Sequence[float]], float | None]:
    """The size's rounds to use: the quiet ones where they are half, else all, with the worst ratio."""
    own = [(each[size], ratio) for each, ratio in found if size in each]
    quiet = [each for each, ratio in own if ratio is None]
    if 2 * len(quiet) >= len(own):
        return quiet, None
    return [each for each, _ in own], max(ratio for _, ratio in own if ratio is not None)


def _sizes(sizes: Sequence[int]) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _measure_round(
    replica: MeasuredReplica,
    items: Sequence[Item],
    cores: float,
    sizes: Sequence[int],
    effort: MeasurementEffort,
    limit_s: float,
    tried: int,
) -> Round:
    """The service times of a round by batch size, up to the first that would take longer than `limit_s`.

    `tried` is the number of times that it was measured before, after which the replica was idle.
    """
    of_round = replace(effort, repeats=effort.repeats // ROUNDS, budget_s=effort.budget_s / ROUNDS)
    # Only the first round, which has a limit, allocates memory; the others follow at once.
    is_first = limit_s < inf
    warm_up = WARM_UP_BATCHES if is_first else 1
    if not is_first and not tried:
        of_round = replace(of_round, warm_up_s=0.0)
    found: dict[int, list[float]] = {}
    for size in sizes:
        if found and _tail_s(found[max(found)]) * DOUBLING_RATIO > limit_s:
            break
        found[size] = measure_batches(replica, items, size, of_round, least=1, warm_up=warm_up)
        # The quota is spent from the first size on.
        of_round = replace(of_round, warm_up_s=0.0)
    return found


def measure_point(
    replica: MeasuredReplica,
    items: Sequence[Item],
    *,
    cores: float,
    batch_size: int,
    effort: MeasurementEffort,
) -> ProfilePoint:
    """Measure the point of that batch size once."""
    return summarise(
        [measure_batches(replica, items, batch_size, effort)], cores=cores, batch_size=batch_size
    )


def measure_batches(
    replica: MeasuredReplica,
    items: Sequence[Item],
    batch_size: int,
    effort: MeasurementEffort,
    least: int = MIN_BATCHES,
    warm_up: int = WARM_UP_BATCHES,
) -> list[float]:
    """The service times of at least so many batches, each sent when the last is answered.

    The replica is busy all the time and its CPU quota, if any, is spent: the latency is that under sustained
    load, the throughput is its maximum.
    """
    batches = _batches(items, batch_size)
    warm, warm_s = 0, 0.0
    while warm < warm_up or warm_s < effort.warm_up_s:
        warm, warm_s = warm + 1, warm_s + replica.infer(next(batches)).latency_s
    latencies_s: list[float] = []
    while len(latencies_s) < least or (
        len(latencies_s) < effort.repeats and sum(latencies_s) < effort.budget_s
    ):
        latencies_s.append(replica.infer(next(batches)).latency_s)
    return latencies_s


def is_steady(rounds: Sequence[Sequence[float]]) -> bool:
    """True if the standard error of the p99 is at most STEADY_RATIO of it.

    By the scatter of the rounds' own p99s; where they are too short to have one, by the order statistics of
    LEAST_STEADY batches or more, one binomial standard deviation below and above (of fifty to the slowest).
    """
    if _have_tails(rounds):
        tails_s = [_tail_s(each) for each in rounds]
        error_s = MEDIAN_ERROR * (1 + FEW_ROUNDS / (len(tails_s) - 1)) * stdev(tails_s)
        return error_s <= STEADY_RATIO * median(tails_s) * sqrt(len(tails_s))
    ordered = sorted(chain.from_iterable(rounds))
    most = len(ordered) - 1
    rank, off = TAIL_QUANTILE * most, sqrt(len(ordered) * TAIL_QUANTILE * (1 - TAIL_QUANTILE))
    low_s, high_s = ordered[max(floor(rank - off), 0)], ordered[min(ceil(rank + off), most)]
    return len(ordered) >= LEAST_STEADY and high_s - low_s <= 2 * STEADY_RATIO * ordered[round(rank)]


def _have_tails(rounds: Sequence[Sequence[float]]) -> bool:
    return len(rounds) > 1 and min(map(len, rounds)) * (1 - TAIL_QUANTILE) >= 1


def _tail_s(latencies_s: Sequence[float]) -> float:
    # Imported here, since every verb of the command line loads this module for its defaults.
    import numpy as np

    return float(np.quantile(latencies_s, TAIL_QUANTILE))


def summarise(rounds: Sequence[Sequence[float]], *, cores: float, batch_size: int) -> ProfilePoint:
    """Summarise rounds of service times of back-to-back batches as a point.

    The p99 is the median of those of the rounds: one in which the machine was slow for a moment does not
    count. Where they are too short, that of all batches.
    """
    pooled = list(chain.from_iterable(rounds))
    mean_s = fmean(pooled)
    return ProfilePoint(
        cores=cores,
        batch_size=batch_size,
        latency_s=median(map(_tail_s, rounds)) if _have_tails(rounds) else _tail_s(pooled),
        latency_mean_s=mean_s,
        throughput_rps=batch_size / mean_s,
    )


def answers(replica: MeasuredReplica, items: Sequence[Item], batch_size: int) -> list[Outputs]:
    """The outputs of every item, in order."""
    return [
        outputs
        for start in range(0, len(items), batch_size)
        for outputs in replica.infer(items[start : start + batch_size]).outputs
    ]


def rows(outputs: Sequence[Outputs], fan_out: str) -> tuple[int, ...]:
    """The number of rows of each item's answer by its fan-out output; 1 without such an output."""
    return tuple(sum(map(int, output[fan_out])) if fan_out in output else 1 for output in outputs)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    if not items:
        raise InputError("there is nothing to measure with: the workload has no items")
    endless = cycle(items)
    while True:
        yield list(islice(endless, size))
