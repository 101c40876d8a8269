"""What a stage takes of the SLA: its times under each `Compat`, for many options at once or one alone."""

from __future__ import annotations

import numpy as np

from ipa.model.profile import OperatingPoint
from ipa.optimize.columns import Array, Index
from ipa.optimize.problem import Compat, Problem, StageProblem
from ipa.queueing.formation import batches_in_sequence, ceil_up, formation_wait_s, released_wait_s
from ipa.queueing.tail import sojourn


def option_times(
    problem: Problem, stage: StageProblem, point: Index, replicas: Index, items: float, rate_rps: float
) -> tuple[Array, Array, Array, Array]:
    """Service time, wait, mean time and squared excess of the quantile over it, an entry an option.

    `point` is an index into the stage's points; `rate_rps` counts the items that reach the stage. The split
    between service and wait is for people.
    """
    columns = stage.columns
    batch_size = columns.batch_size[point]
    if problem.compat is Compat.TAIL:
        return _tail_times(problem, stage, point, replicas, items, rate_rps)
    sequence = np.maximum(1.0, ceil_up(items / (replicas * batch_size)))
    service_s = columns.latency_s[point] * sequence
    if problem.compat is Compat.IPA_ARTIFACT:
        released_s = released_wait_s(len(columns.variants), problem.batch_sizes, rate_rps)
        wait_s = np.full(len(point), released_s)
    else:
        wait_s = (batch_size - 1) / rate_rps
        if stage.batch_timeout_s is not None:
            wait_s = np.minimum(wait_s, stage.batch_timeout_s)
    return service_s, wait_s, service_s + wait_s, np.zeros(len(point))


def _tail_times(
    problem: Problem, stage: StageProblem, point: Index, replicas: Index, items: float, rate_rps: float
) -> tuple[Array, Array, Array, Array]:
    columns = stage.columns
    batch_size, capacity_rps = columns.batch_size[point], columns.capacity_rps[point]
    service_s = columns.mean_s[point]
    # Where the measured throughput is lower than the service time says, a replica is busy for longer.
    busy_s = np.maximum(service_s, batch_size / capacity_rps)
    found = sojourn(
        batch_size,
        replicas,
        busy_s,
        np.maximum(columns.latency_s[point], busy_s),
        rate_rps,
        items=items,
        timeout_s=stage.batch_timeout_s,
        percentile=problem.percentile,
        service_one_s=np.minimum(columns.single_s[point], busy_s),
    )
    with np.errstate(invalid="ignore"):
        return service_s, found.quantile_s - service_s, found.mean_s, found.excess_s**2


def stage_times(
    problem: Problem, index: int, point: OperatingPoint, replicas: int, items: float
) -> tuple[float, float, float, float]:
    """Service time, wait, mean time and excess of the quantile over it of one configuration of a stage."""
    stage = problem.stages[index]
    rate_rps = problem.rate_rps * problem.graph.reach[index] * items
    if problem.compat is Compat.TAIL:
        place = stage.columns.place[point.variant, point.batch_size, point.cores]
        at = np.array([place], dtype=np.intp)
        times = _tail_times(problem, stage, at, np.array([replicas], dtype=np.intp), items, rate_rps)
        service, wait, mean, spread = (float(each[0]) for each in times)
        return service, wait, mean, spread**0.5
    service_s = point.latency_s * batches_in_sequence(items, point.batch_size, replicas)
    if problem.compat is Compat.IPA_ARTIFACT:
        variants = len({each.variant for each in stage.points})
        wait_s = released_wait_s(variants, problem.batch_sizes, rate_rps)
    else:
        wait_s = formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s)
    return service_s, wait_s, service_s + wait_s, 0.0
