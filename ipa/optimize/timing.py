"""The times of a stage under each `Compat`, for many options at once or one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import inf
from typing import Any, NamedTuple

import numpy as np

from ipa.model.profile import OperatingPoint
from ipa.optimize.candidates import BEFORE, NOT_BEHIND, Candidates
from ipa.optimize.columns import ROWS, Array, Index
from ipa.optimize.problem import BatchPlace, Compat, PlanningProblem
from ipa.queueing.formation import batches_in_sequence, ceil_up, formation_wait_s, released_wait_s
from ipa.queueing.in_replica import (
    AT_RANDOM,
    EVENLY,
    Departures,
    carried_in_replica,
    departures_in_replica,
    sojourn_in_replica,
)
from ipa.queueing.saved_quota import SojournFormula, sojourn_with_quota
from ipa.queueing.service import busy_s
from ipa.queueing.tail import sojourn

# Options whose times are kept: about 10 MB.
MOST_KNOWN = 30_000


def option_times(problem: PlanningProblem, candidates: Candidates) -> tuple[Array, Array, Array, Array]:
    """Service time, wait, mean time and squared excess of the quantile over it, an entry a candidate.

    The split between service and wait is for display.
    """
    batch_size, replicas, rate_rps = candidates.batch_size, candidates.replicas, candidates.rate_rps
    if problem.compat is Compat.TAIL:
        columns = (
            candidates.points,
            replicas,
            rate_rps,
            candidates.items,
            candidates.of_block("timeout_s"),
            candidates.of_block("batching"),
            candidates.of_block("hop_s"),
            candidates.scalars[BEFORE],
        )
        known = _known_times(problem.percentile, _machine_cores(problem))
        service_s, wait_s, mean_s, spread_s2 = known.of(columns)
        return service_s, wait_s, mean_s, spread_s2
    sequence = np.maximum(1.0, ceil_up(candidates.items / (replicas * batch_size)))
    service_s = candidates.of_point("latency_s") * sequence
    if problem.compat is Compat.IPA_ARTIFACT:
        wait_s = candidates.of_block("released_s")
    else:
        wait_s = np.minimum((batch_size - 1) / rate_rps, candidates.of_block("timeout_s"))
    return service_s, wait_s, service_s + wait_s, np.zeros(len(replicas))


def least_time_s(candidates: Candidates) -> Array:
    """A time that no mean is below, whatever waits: one item's, with less than a core at full speed."""
    _, cores, _, _, _, one_s = _service(candidates.points)
    return np.asarray(one_s * np.minimum(cores, 1.0))


@dataclass(slots=True)
class _Known:
    """Rows that were computed lately: explanations, frontiers and ticks ask for the same ones again."""

    compute: Callable[..., tuple[Array, ...]]
    rows: dict[bytes, tuple[float, ...]] = field(default_factory=dict)

    def of(self, columns: Sequence[Any]) -> Array:
        """The rows of these arguments of `compute`, whose last axis is the options'."""
        table = np.vstack(columns).T
        bare, width = table.tobytes(), table.shape[1] * table.itemsize
        keys = [bare[at : at + width] for at in range(0, len(bare), width)]
        rows = self.rows
        missing = [at for at, key in enumerate(keys) if key not in rows]
        if len(rows) + len(missing) > MOST_KNOWN:
            # Other threads may still read the old ones.
            self.rows = rows = {}
            missing = list(range(len(keys)))
        if not keys:
            return np.array(self.compute(*columns))
        if missing:
            found = self.compute(*(each[..., missing] for each in columns))
            computed = zip(*(each.tolist() for each in found), strict=True)
            rows.update(zip((keys[at] for at in missing), computed, strict=True))
        return np.array([rows[key] for key in keys]).T


@lru_cache(maxsize=8)
def _known_times(percentile: float, machine_cores: float) -> _Known:
    return _Known(partial(_tail_times, percentile, machine_cores))


def _tail_times(
    percentile: float,
    machine_cores: float,
    points: Array,
    replicas: Index,
    rate_rps: Array,
    items: Array,
    timeout_s: Array,
    batched: Array,
    hop_s: Array,
    before: Array,
) -> tuple[Array, ...]:
    """As `option_times`; `points` has the rows of `PointColumns.table`, `before` those of `Departures`."""
    batch_size, cores, service_s, full_s, tail_s, one_s = _service(points)
    counts = np.asarray(replicas, dtype=np.float64)
    mean_s, excess_s = np.empty_like(full_s), np.empty_like(full_s)
    has_quota = cores < 1
    for batching in BatchPlace:
        own = batched == batching
        for is_quota, mine in ((False, own & ~has_quota), (True, own & has_quota)):
            if not mine.any():
                continue
            # One row alone is summed in another order: a time must not depend on what is timed beside it.
            rows = np.flatnonzero(mine)
            at = np.resize(rows, max(2, rows.size))
            times = []
            for formula in _formulas(batching, Departures(*before[:, at])):
                timed = (
                    partial(sojourn_with_quota, formula, cores[at], machine_cores) if is_quota else formula
                )
                found = timed(
                    batch_size[at],
                    counts[at],
                    full_s[at],
                    tail_s[at],
                    rate_rps[at],
                    items=items[at],
                    timeout_s=timeout_s[at],
                    percentile=percentile,
                    service_one_s=one_s[at],
                )
                times.append((found.mean_s + hop_s[at], found.excess_s))
            mean_s[at], excess_s[at] = np.max(times, axis=0)
    with np.errstate(invalid="ignore"):
        service_s = np.minimum(service_s, mean_s + excess_s)
        return service_s, mean_s + excess_s - service_s, mean_s, excess_s**2


def _formulas(batching: BatchPlace, before: Departures) -> tuple[SojournFormula, ...]:
    """The formulas of which the longer times count."""
    if batching is BatchPlace.CENTRAL:
        return (sojourn,)
    return tuple(partial(sojourn_in_replica, before=each) for each in _spacings(batching, before))


def _spacings(batching: BatchPlace, before: Departures) -> tuple[Departures, ...]:
    """How requests may come to replicas that batch for themselves: behind several stages in either way."""
    if batching is BatchPlace.BEHIND_OTHERS:
        return AT_RANDOM, EVENLY
    return (before if batching is BatchPlace.BEHIND else AT_RANDOM,)


def _service(points: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Batch size, cores, the profile's service time, a full batch's mean and tail, the mean of one item."""
    _, batch_size, cores, latency_s, service_s, capacity_rps, single_s = points
    full_s = busy_s(service_s, batch_size, capacity_rps)
    return batch_size, cores, service_s, full_s, np.maximum(latency_s, full_s), np.minimum(single_s, full_s)


def departures_of(
    points: Array, replicas: Index, rate_rps: Array, items: Array, timeout_s: Array
) -> tuple[Array, ...]:
    """The rows of `Departures` of replicas which batch for themselves; arguments as of `_tail_times`."""
    batch_size, _, _, full_s, tail_s, one_s = _service(points)
    counts = np.asarray(replicas, dtype=np.float64)
    made = departures_in_replica(
        *(batch_size, counts, full_s, tail_s, rate_rps), items=items, timeout_s=timeout_s, service_one_s=one_s
    )
    return made.rows


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
    """The times and capacities of configurations: each behind those of the stages before it, if given."""
    if problem.compat is not Compat.TAIL:
        return [_formula_times(problem, each) for each in chosen]
    if not chosen:
        return []
    stages = [problem.stages[each.index] for each in chosen]
    places = [
        stage.columns.place[each.point.variant, each.point.batch_size, each.point.cores]
        for stage, each in zip(stages, chosen, strict=True)
    ]
    columns = [stage.columns.table[:, place] for stage, place in zip(stages, places, strict=True)]
    points = np.stack(columns, axis=1)
    replicas = np.array([each.replicas for each in chosen], dtype=np.intp)
    rate_rps = np.array([offered_rps(problem, each) for each in chosen])
    items = np.array([each.items for each in chosen], dtype=np.float64)
    timeout_s = np.array(
        [inf if stage.batch_timeout_s is None else stage.batch_timeout_s for stage in stages]
    )
    batched = np.array([problem.batching(each.index) for each in chosen])
    number: dict[int | None, int] = {each.index: at for at, each in enumerate(chosen)}
    # Without the stage before, requests count as coming at random.
    senders = [number.get(problem.sender(each.index), -1) for each in chosen]
    batched[(batched == BatchPlace.BEHIND) & (np.array(senders) < 0)] = BatchPlace.IN_REPLICA
    reach = np.array([problem.graph.reach[each.index] for each in chosen])
    sent = [max(sender, 0) for sender in senders]
    made = Departures(
        *_DEPARTURES.of((points[:, sent], replicas[sent], rate_rps[sent], items[sent], timeout_s[sent]))
    ).take(slice(None), reach / reach[sent])
    before = np.array(made.rows)
    before[:, batched != BatchPlace.BEHIND] = np.array(NOT_BEHIND)[:, None]
    service_s, wait_s, mean_s, spread_s2 = _known_times(problem.percentile, _machine_cores(problem)).of(
        (
            points,
            replicas,
            rate_rps,
            items,
            timeout_s,
            batched,
            np.array([stage.hop_s for stage in stages]),
            before,
        )
    )
    (capacity_rps,) = _CAPACITIES.of((points, replicas, items, timeout_s, batched, before))
    rows = (service_s, wait_s, mean_s, spread_s2**0.5, capacity_rps)
    return [Times(*row) for row in zip(*(row.tolist() for row in rows), strict=True)]


def _machine_cores(problem: PlanningProblem) -> float:
    """The cores of the machine that all replicas share; infinite where they are not known to share one."""
    front = problem.bounds.front
    return inf if front is None else front.machine_cores


def _carried_rps(
    points: Array, replicas: Index, items: Array, timeout_s: Array, batched: Array, before: Array
) -> tuple[Array]:
    """The items a second that one replica carries: in full batches, or in those that it forms for itself."""
    batch_size, _, _, full_s, _, one_s = _service(points)
    carried: Array = points[ROWS["capacity_rps"]].copy()
    for batching in BatchPlace:
        at = (batched == batching) & (batch_size > 1)
        if batching is BatchPlace.CENTRAL or not at.any():
            continue
        for spacing in _spacings(batching, Departures(*before[:, at])):
            own_rps = carried_in_replica(
                *(batch_size[at], replicas[at], full_s[at], one_s[at]),
                items=items[at],
                timeout_s=timeout_s[at],
                before=spacing,
            )
            carried[at] = np.minimum(carried[at], own_rps)
    return (carried,)


_DEPARTURES, _CAPACITIES = _Known(departures_of), _Known(_carried_rps)


def offered_rps(problem: PlanningProblem, chosen: Chosen) -> float:
    """Items a second that reach the stage."""
    return problem.rate_rps * problem.graph.reach[chosen.index] * chosen.items


def _formula_times(problem: PlanningProblem, chosen: Chosen) -> Times:
    """The papers' times, whose quantile equals the mean."""
    stage, point, rate_rps = problem.stages[chosen.index], chosen.point, offered_rps(problem, chosen)
    service_s = point.latency_s * batches_in_sequence(chosen.items, point.batch_size, chosen.replicas)
    if problem.compat is Compat.IPA_ARTIFACT:
        variants = len({each.variant for each in stage.points})
        wait_s = released_wait_s(variants, problem.batch_sizes, rate_rps)
    else:
        wait_s = formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s)
    return Times(service_s, wait_s, service_s + wait_s, 0.0, point.capacity_rps)
