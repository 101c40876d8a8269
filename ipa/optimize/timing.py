"""The times of a stage under each `Compat`, for many options at once or one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from ipa.model.profile import OperatingPoint
from ipa.optimize.candidates import CandidateBlock, ItemCount, scalars_of
from ipa.optimize.problem import ROWS, Array, BatchPlace, Compat, Index, PlanningProblem
from ipa.queueing.in_replica import carried_in_replica, sojourn_in_replica
from ipa.queueing.service import busy_s, ceil_up
from ipa.queueing.tail import sojourn, sojourn_with_quota

# Requests come at random; from other stages at random, or as far apart as one replica spaces them.
SPACINGS = {BatchPlace.IN_REPLICA: (False,), BatchPlace.BEHIND: (False, True)}


def option_times(
    problem: PlanningProblem, points: Array, replicas: Index, scalars: Array
) -> tuple[Array, Array, Array, Array]:
    """Per configuration: service time, wait, mean time, and the square of (quantile − mean).

    The split between service and wait is for display. `points` has the rows of `PointColumns.table`,
    `scalars` those of `SCALARS`.
    """
    rate_rps, items, _, _, timeout_s, _, released_s, batching, hop_s, *_ = scalars
    if problem.compat is Compat.TAIL:
        return _tail_times(problem, points, replicas, rate_rps, items, timeout_s, batching, hop_s)
    batch_size = points[ROWS["batch_size"]]
    sequence = np.maximum(1.0, ceil_up(items / (replicas * batch_size)))
    service_s = points[ROWS["latency_s"]] * sequence
    if problem.compat is Compat.IPA_ARTIFACT:
        wait_s = released_s
    else:
        wait_s = np.minimum((batch_size - 1) / rate_rps, timeout_s)
    return service_s, wait_s, service_s + wait_s, np.zeros(len(replicas))


def _tail_times(
    problem: PlanningProblem,
    points: Array,
    replicas: Index,
    rate_rps: Array,
    items: Array,
    timeout_s: Array,
    batched: Array,
    hop_s: Array,
) -> tuple[Array, Array, Array, Array]:
    """The times of `option_times` under random arrivals; `points` has the rows of `PointColumns.table`."""
    batch_size, cores, service_s, full_s, tail_s, one_s = _service(points)
    front = problem.bounds.front
    # The cores of the machine that all replicas share; infinite if they are not known to share one.
    machine_cores = inf if front is None else front.machine_cores
    counts = np.asarray(replicas, dtype=np.float64)
    mean_s, excess_s = np.empty_like(full_s), np.empty_like(full_s)
    has_quota = cores < 1
    for batching in BatchPlace:
        own = batched == batching
        for is_quota, mine in ((False, own & ~has_quota), (True, own & has_quota)):
            if not mine.any():
                continue
            # NumPy sums a single row in another order: times must not depend on the other rows.
            rows = np.flatnonzero(mine)
            at = np.resize(rows, max(2, rows.size))
            # The longer time counts.
            times, spacings = [], SPACINGS.get(batching, ())
            formulas = [partial(sojourn_in_replica, evenly=evenly) for evenly in spacings]
            for formula in formulas or (sojourn,):
                timed = (
                    partial(sojourn_with_quota, formula, cores[at], machine_cores) if is_quota else formula
                )
                sojourns = timed(
                    batch_size[at],
                    counts[at],
                    full_s[at],
                    tail_s[at],
                    rate_rps[at],
                    items=items[at],
                    timeout_s=timeout_s[at],
                    percentile=problem.percentile,
                    service_one_s=one_s[at],
                )
                times.append((sojourns.mean_s + hop_s[at], sojourns.excess_s))
            mean_s[at], excess_s[at] = np.max(times, axis=0)
    with np.errstate(invalid="ignore"):
        service_s = np.minimum(service_s, mean_s + excess_s)
        return service_s, mean_s + excess_s - service_s, mean_s, excess_s**2


def _service(points: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Batch size, cores, the profile's service time, a full batch's mean and tail, the mean of one item."""
    _, batch_size, cores, latency_s, service_s, capacity_rps, single_s = points
    full_s = busy_s(service_s, batch_size, capacity_rps)
    return batch_size, cores, service_s, full_s, np.maximum(latency_s, full_s), np.minimum(single_s, full_s)


@dataclass(frozen=True, slots=True)
class Chosen:
    """One configuration of a stage, by the stage's index, and the items that a request brings to it."""

    index: int
    point: OperatingPoint
    replicas: int
    items: float


class Times(NamedTuple):
    """Service time, wait, mean time, and excess of the quantile over it, in s; a replica's items a second."""

    service_s: float
    wait_s: float
    mean_s: float
    excess_s: float
    capacity_rps: float


def times_of(problem: PlanningProblem, chosen: Sequence[Chosen]) -> list[Times]:
    """The times and capacities of configurations; each accounts for those of earlier stages, if given."""
    if not chosen:
        return []
    points, replicas, scalars = _columns(problem, chosen)
    carried_rps = points[ROWS["capacity_rps"]]
    if problem.compat is Compat.TAIL:
        _, items, _, _, timeout_s, _, _, batched, *_ = scalars
        carried_rps = _carried_rps(points, replicas, items, timeout_s, batched)
    service_s, wait_s, mean_s, spread_s2 = option_times(problem, points, replicas, scalars)
    times = (service_s, wait_s, mean_s, spread_s2**0.5, carried_rps)
    return [Times(*row) for row in zip(*(row.tolist() for row in times), strict=True)]


def times_at(problem: PlanningProblem, chosen: Sequence[Chosen], rates_rps: Array) -> tuple[Array, Array]:
    """Mean time and excess of the quantile over it, at each rate of the pipeline: a row a rate."""
    points, replicas, scalars = _columns(problem, chosen)
    count = len(rates_rps)
    scalars = np.tile(scalars, count)
    scalars[0] *= np.repeat(rates_rps / problem.rate_rps, len(chosen))
    _, _, mean_s, spread_s2 = option_times(problem, np.tile(points, count), np.tile(replicas, count), scalars)
    return mean_s.reshape(count, -1), np.sqrt(spread_s2).reshape(count, -1)


def _columns(problem: PlanningProblem, chosen: Sequence[Chosen]) -> tuple[Array, Index, Array]:
    """The points, replicas and scalars that `option_times` takes."""
    columns = []
    for each in chosen:
        stage, point = problem.stages[each.index].columns, each.point
        columns.append(stage.table[:, stage.place[point.variant, point.batch_size, point.cores]])
    replicas = np.array([each.replicas for each in chosen], dtype=np.intp)
    blocks = [CandidateBlock(each.index, ItemCount(0, each.items, ())) for each in chosen]
    return np.stack(columns, axis=1), replicas, scalars_of(problem, blocks)


def _carried_rps(points: Array, replicas: Index, items: Array, timeout_s: Array, batched: Array) -> Array:
    """The items a second that one replica carries: in full batches, or in those that it forms for itself."""
    batch_size, _, _, full_s, _, one_s = _service(points)
    carried: Array = points[ROWS["capacity_rps"]].copy()
    for batching in BatchPlace:
        at = (batched == batching) & (batch_size > 1)
        if batching is BatchPlace.CENTRAL or not at.any():
            continue
        for evenly in SPACINGS[batching]:
            own_rps = carried_in_replica(
                *(batch_size[at], replicas[at], full_s[at], one_s[at]),
                items=items[at],
                timeout_s=timeout_s[at],
                evenly=evenly,
            )
            carried[at] = np.minimum(carried[at], own_rps)
    return carried
