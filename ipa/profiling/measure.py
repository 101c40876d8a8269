"""Measurement of a variant: one replica's service times for back-to-back batches, and its accuracy.

This module starts no process and reads no clock: a `MeasuredReplica` answers batches and reports how long
each took.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from math import ceil, floor, inf, sqrt
from random import Random
from statistics import fmean, median, stdev
from typing import Any, Protocol

from ipa.model.errors import InputError
from ipa.model.profile import (
    ProfilePoint,
    StageProfile,
)

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
# Points whose p99 scatters more are measured longer: half of the scatter that plans tolerate
# (ipa.profiling.findings.SCATTER_RATIO, whose module takes long to import).
STEADY_RATIO = 0.05
# The standard error of a median, in that of a mean: √(π/2).
MEDIAN_ERROR = 1.25
# Few rounds understate their own scatter: Student's t for one standard deviation is about 1 + 0.6 / (n - 1).
FEW_ROUNDS = 0.6
# Twice the items take about this many times as long: a size that would exceed the limit is not tried.
DOUBLING_RATIO = 1.8
# Of the order of items.
SEED = 0


@dataclass(frozen=True, slots=True)
class BatchMeasurement:
    """A measured batch: its service time, transport included, and the outputs of every item."""

    latency_s: float
    outputs: tuple[Outputs, ...]


class MeasuredReplica(Protocol):
    """One running model server."""

    def infer(self, items: Sequence[Item]) -> BatchMeasurement:
        """The answer to the items as one batch."""


class ServedReplica(MeasuredReplica, Protocol):
    """A model server that was started to be measured."""

    @property
    def readiness_s(self) -> float | None:
        """Seconds from its start to its readiness; None if its start was not observed."""

    def memory_gib(self) -> float | None:
        """The most memory it has used so far; None if it cannot be read from here."""


class MeasurementBench(Protocol):
    """Starts one model server at a time, to be measured alone."""

    @property
    def hardware(self) -> str:
        """The cores and the processor that servers run on."""

    @property
    def method(self) -> str:
        """The method for the profile: how servers and requests are started."""

    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = ...
    ) -> AbstractContextManager[ServedReplica]:
        """A replica that is ready and ends with the block.

        UnavailableError if it does not become ready, or does not answer a batch, `within_s`.
        """


class MeasuredWorkload(Protocol):
    """The requests for measuring a stage; `workload(stage, seed)` of a pipeline's bench.py returns one."""

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
) -> tuple[tuple[ProfilePoint, bool], ...]:
    """Measure a point per batch size, by rising size, up to the first that takes longer than `limit_s`.

    Each comes with True if its p99 is steady. A size beyond the SLA cannot be part of a plan, and takes the
    most time to measure. Sizes alternate for ROUNDS rounds, so that a disturbance of some seconds slows all
    of them.
    """
    sizes = sorted(batch_sizes)
    rounds: list[Round] = []
    unsteady = sizes
    while unsteady and len(rounds) < ROUNDS * 2**effort.doublings:
        rounds.append(_measure_round(replica, items, unsteady, effort, limit_s if not rounds else inf))
        unsteady = [size for size in unsteady if size in rounds[0]]
        if len(rounds) >= LEAST_ROUNDS:
            unsteady = [size for size in unsteady if not is_steady(_of_size(rounds, size))]
    return tuple(
        (summarise(_of_size(rounds, size), cores=cores, batch_size=size), size not in unsteady)
        for size in rounds[0]
    )


def _of_size(rounds: Sequence[Round], size: int) -> list[Sequence[float]]:
    """The service times of the size in each round that has them."""
    return [each[size] for each in rounds if size in each]


def _measure_round(
    replica: MeasuredReplica,
    items: Sequence[Item],
    sizes: Sequence[int],
    effort: MeasurementEffort,
    limit_s: float,
) -> Round:
    """The service times of a round by batch size, up to the first that would take longer than `limit_s`."""
    of_round = replace(effort, repeats=effort.repeats // ROUNDS, budget_s=effort.budget_s / ROUNDS)
    # Only the first round, which has a limit, allocates memory; the others follow at once.
    is_first = limit_s < inf
    warm_up = WARM_UP_BATCHES if is_first else 1
    if not is_first:
        of_round = replace(of_round, warm_up_s=0.0)
    by_size: dict[int, list[float]] = {}
    for size in sizes:
        if by_size and _tail_s(by_size[max(by_size)]) * DOUBLING_RATIO > limit_s:
            break
        by_size[size] = measure_batches(replica, items, size, of_round, least=1, warm_up=warm_up)
        # After the first size the saved quota is spent.
        of_round = replace(of_round, warm_up_s=0.0)
    return by_size


def measure_batches(
    replica: MeasuredReplica,
    items: Sequence[Item],
    batch_size: int,
    effort: MeasurementEffort,
    least: int = MIN_BATCHES,
    warm_up: int = WARM_UP_BATCHES,
) -> list[float]:
    """The service times of at least this many batches, each sent when the last is answered.

    The replica is busy all the time and its CPU quota, if any, is spent: the latency is that under sustained
    load, and the throughput is its maximum.
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

    The error is the scatter of the rounds' p99s. If rounds are too short for a p99, it is half the distance
    between the order statistics one binomial standard deviation below and above it, of at least LEAST_STEADY
    batches.
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

    The p99 is the median of the rounds' p99s, so that a round in which the machine was slow for a moment does
    not count. If rounds are too short for a p99, it is taken over all batches.
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
    """Batches of items in an order of chance, each time all of them.

    A workload lists its items by kind; in service kinds come mixed, and a batch of several may take longer.
    """
    if not items:
        raise InputError("there is nothing to measure with: the workload has no items")
    chance = Random(SEED)
    endless = chain.from_iterable(chance.sample(items, len(items)) for _ in count())
    while True:
        yield list(islice(endless, size))


def foreign_to(machine: str, profiles: Iterable[StageProfile]) -> tuple[StageProfile, ...]:
    """The profiles that were measured on another machine."""
    return tuple(profile for profile in profiles if profile.hardware != machine)


def hardware_of(profiles: Iterable[StageProfile]) -> tuple[str, ...]:
    """The machines of the profiles, each once."""
    return tuple(dict.fromkeys(profile.hardware for profile in profiles))
