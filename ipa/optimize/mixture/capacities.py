"""th_m(c): the rate that a variant carries on c cores within the SLO, from profiles or published lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import trunc

import numpy as np
from numpy.typing import NDArray

from ipa.model.profile import OperatingPoint
from ipa.optimize.columns import columns_of
from ipa.optimize.mixture.sets import CoreLevel
from ipa.queueing.tail import sojourn

# The share of a fitted capacity used in planning (InfAdapter).
COEFFICIENT = 0.8
# The numbers of cores at which InfAdapter measured before it fitted a line.
FIT_CORES = (1, 2, 4, 8, 16)

# Rates tried at once, first over the whole capacity, then within the step found.
STEPS = 320

Array = NDArray[np.float64]
TailLatency = Callable[[OperatingPoint, Array], Array]


def fit_line(measured: Mapping[float, float], at: Sequence[float] = FIT_CORES) -> tuple[float, float]:
    """Slope and intercept (rps a core, rps) of the least-squares line through measured {cores: capacity_rps}.

    `at`: the numbers of cores to fit; KeyError if one of them was not measured.
    """
    xs, ys = list(at), [measured[cores] for cores in at]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    return slope, mean_y - slope * mean_x


def line_levels(
    slope: float,
    intercept: float,
    cores: Iterable[float],
    *,
    coefficient: float = COEFFICIENT,
    whole_intercept: bool = False,
) -> tuple[CoreLevel, ...]:
    """The levels by the line th(c) = slope·c + intercept, times the coefficient, if that is above 0.

    `whole_intercept` cuts the intercept to a whole number towards 0, as InfAdapter did.
    """
    start = trunc(intercept) if whole_intercept else intercept
    levels = (CoreLevel(count, coefficient * (slope * count + start)) for count in cores)
    return tuple(level for level in levels if level.capacity_rps > 0)


def table_levels(
    measured: Mapping[float, float],
    latency_s: Mapping[float, float | None],
    slo_s: float,
    *,
    coefficient: float = COEFFICIENT,
) -> tuple[CoreLevel, ...]:
    """The measured levels times the coefficient, if a p99 was measured and meets the SLO."""
    levels = []
    for cores, capacity_rps in sorted(measured.items()):
        tail_s = latency_s.get(cores)
        if capacity_rps > 0 and tail_s is not None and tail_s <= slo_s:
            levels.append(CoreLevel(cores, coefficient * capacity_rps))
    return tuple(levels)


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
        return sojourn(
            point.batch_size,
            1,
            busy_s,
            max(point.latency_s, busy_s),
            rates_rps,
            timeout_s=timeout_s,
            percentile=percentile,
            service_one_s=min(single_s[point], busy_s),
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
