"""th_m(c): the rate that a variant carries on c cores within the SLO, from its operating points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.model.plan import quota_cores
from ipa.model.profile import OperatingPoint
from ipa.optimize.columns import columns_of
from ipa.optimize.mixture.sets import CoreLevel
from ipa.queueing.saved_quota import sojourn_with_quota
from ipa.queueing.tail import sojourn

# The share of a capacity used in planning (InfAdapter).
COEFFICIENT = 0.8

# Rates tried at once, first over the whole capacity, then within the step found.
STEPS = 320

Array = NDArray[np.float64]
TailLatency = Callable[[OperatingPoint, Array], Array]


def point_levels(
    points: Iterable[OperatingPoint],
    slo_s: float,
    *,
    tail_latency_s: TailLatency | None = None,
    coefficient: float | None = None,
) -> tuple[CoreLevel, ...]:
    """The levels of one variant from its operating points: one replica, its best batch size on those cores.

    With `tail_latency_s` (see `stage_tail`) it is `largest_rate`, and the coefficient is 1. Without, it is
    `capacity_rps` times 0.8 if the service latency meets the SLO: InfAdapter's margin then stands for
    queueing, which is not computed.
    """
    if coefficient is None:
        coefficient = COEFFICIENT if tail_latency_s is None else 1.0
    best: dict[float, float] = {}
    for point in points:
        if point.latency_s > slo_s:
            continue
        rate_rps = (
            point.capacity_rps if tail_latency_s is None else largest_rate(point, slo_s, tail_latency_s)
        )
        best[point.cores] = max(best.get(point.cores, 0.0), coefficient * rate_rps)
    return tuple(CoreLevel(cores, rate_rps) for cores, rate_rps in sorted(best.items()) if rate_rps > 0)


def stage_tail(
    points: Sequence[OperatingPoint], timeout_s: float | None = None, percentile: float = 99.0
) -> TailLatency:
    """The tail of the time at a stage of one replica, as a function of one of its points and rates.

    As the planner charges it under `Compat.TAIL`: random arrivals, batches sent after `timeout_s` at the
    latest.
    """
    single_s = dict(zip(points, columns_of(points).single_s.tolist(), strict=True))

    def tail_latency_s(point: OperatingPoint, rates_rps: Array) -> Array:
        mean_s = point.latency_s if point.latency_mean_s is None else point.latency_mean_s
        # A replica is busy for longer if the measured throughput is lower than the service time allows.
        busy_s = max(mean_s, point.batch_size / point.capacity_rps)
        column = np.ones_like(rates_rps)
        quota = quota_cores(point.cores)
        formula = partial(sojourn_with_quota, sojourn, quota * column, inf) if quota else sojourn
        return formula(
            point.batch_size * column,
            column,
            busy_s * column,
            max(point.latency_s, busy_s) * column,
            rates_rps,
            items=column,
            timeout_s=(inf if timeout_s is None else timeout_s) * column,
            percentile=percentile,
            service_one_s=min(single_s[point], busy_s) * column,
        ).quantile_s

    return tail_latency_s


def largest_rate(point: OperatingPoint, slo_s: float, tail_latency_s: TailLatency) -> float:
    """The largest rate, to 1e-5 of the capacity, at which and below which the tail meets the SLO.

    Below it too, since a quota may be anything up to it and batches form more slowly at low rates.
    """
    low, width = 0.0, 1.0
    for _ in range(2):
        parts = low + width * np.arange(1, STEPS) / STEPS
        meets = tail_latency_s(point, parts * point.capacity_rps) <= slo_s
        good = int(np.argmin(meets)) if not meets.all() else STEPS - 1
        low, width = low + width * good / STEPS, width / STEPS
    return low * point.capacity_rps
