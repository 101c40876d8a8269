"""What a stage takes of the SLA: its times under each `Compat`, for many options at once or one alone."""

from __future__ import annotations

from math import inf

import numpy as np

from ipa.model.profile import OperatingPoint
from ipa.optimize.candidates import Candidates
from ipa.optimize.columns import Array, Index
from ipa.optimize.problem import Compat, Problem
from ipa.queueing.formation import batches_in_sequence, ceil_up, formation_wait_s, released_wait_s
from ipa.queueing.service import busy_s
from ipa.queueing.tail import sojourn


def option_times(problem: Problem, candidates: Candidates) -> tuple[Array, Array, Array, Array]:
    """Service time, wait, mean time and squared excess of the quantile over it, an entry a candidate.

    The split between service and wait is for people.
    """
    batch_size, replicas, rate_rps = candidates.batch_size, candidates.replicas, candidates.rate_rps
    if problem.compat is Compat.TAIL:
        return _tail_times(
            problem.percentile,
            candidates.points,
            replicas,
            rate_rps,
            candidates.items,
            candidates.of_block("timeout_s"),
        )
    sequence = np.maximum(1.0, ceil_up(candidates.items / (replicas * batch_size)))
    service_s = candidates.of_point("latency_s") * sequence
    if problem.compat is Compat.IPA_ARTIFACT:
        wait_s = candidates.of_block("released_s")
    else:
        wait_s = np.minimum((batch_size - 1) / rate_rps, candidates.of_block("timeout_s"))
    return service_s, wait_s, service_s + wait_s, np.zeros(len(replicas))


def _tail_times(
    percentile: float, points: Array, replicas: Index, rate_rps: Array, items: Array, timeout_s: Array
) -> tuple[Array, Array, Array, Array]:
    """As `option_times`; `points` has the rows of `PointColumns.table`."""
    _, batch_size, _, latency_s, service_s, capacity_rps, _, single_s = points
    full_s = busy_s(service_s, batch_size, capacity_rps)
    found = sojourn(
        batch_size,
        replicas,
        full_s,
        np.maximum(latency_s, full_s),
        rate_rps,
        items=items,
        timeout_s=timeout_s,
        percentile=percentile,
        service_one_s=np.minimum(single_s, full_s),
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
        timeout_s = inf if stage.batch_timeout_s is None else stage.batch_timeout_s
        times = _tail_times(
            problem.percentile,
            stage.columns.table[:, [place]],
            np.array([replicas], dtype=np.intp),
            *(np.array([number]) for number in (rate_rps, items, timeout_s)),
        )
        service, wait, mean, spread = (float(each[0]) for each in times)
        return service, wait, mean, spread**0.5
    service_s = point.latency_s * batches_in_sequence(items, point.batch_size, replicas)
    if problem.compat is Compat.IPA_ARTIFACT:
        variants = len({each.variant for each in stage.points})
        wait_s = released_wait_s(variants, problem.batch_sizes, rate_rps)
    else:
        wait_s = formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s)
    return service_s, wait_s, service_s + wait_s, 0.0
