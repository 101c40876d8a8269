"""Sojourn times at replicas with less than a core, which save up CPU time while they are idle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipa.model.plan import CFS_PERIOD_S
from ipa.queueing.tail import Sojourn
from ipa.queueing.tail_parts import Floats

# `ipa.queueing.tail.sojourn`, or another formula with its arguments; arrays of one shape.
SojournFormula = Callable[..., Sojourn]


def sojourn_with_quota(
    formula: SojournFormula,
    quota_cores: Floats,
    machine_cores: float,
    batch_size: Floats,
    replicas: Floats,
    service_mean_s: Floats,
    service_tail_s: Floats,
    rate_rps: Floats,
    *,
    items: Floats,
    timeout_s: Floats,
    percentile: float,
    service_one_s: Floats,
) -> Sojourn:
    """The sojourn by the formula on replicas of `quota_cores` < 1 each; service times are those of busy ones.

    Such a replica computes at full speed, in `quota_cores` of its busy time, until it has used up what it
    saved while idle: at most a period of its quota. It answers once its CPU time is paid for. Those that
    serve the items of a request at once share `machine_cores` with one of another stage (infinite: a cluster,
    whose nodes have CPUs to spare).

    That is a token bucket, whose output is the later of two queues with the same arrivals: one served at full
    speed, and one at the speed of the quota that is a period ahead. A quantile is the later of the two's,
    since both rise with the work before a request; the mean takes what their difference varies by as
    exponential. Accuracy: docs/explanation/queueing.md.
    """
    busy = formula(
        *(batch_size, replicas, service_mean_s, service_tail_s, rate_rps),
        items=items,
        timeout_s=timeout_s,
        percentile=percentile,
        service_one_s=service_one_s,
    )
    at_once = np.minimum(replicas, np.maximum(items / batch_size, 1.0))
    speed = np.minimum(machine_cores / (at_once + 1.0), 1.0)
    quick_ratio = np.minimum(quota_cores / speed, 1.0)
    quick = formula(
        *(batch_size, replicas, service_mean_s * quick_ratio, service_tail_s * quick_ratio, rate_rps),
        items=items,
        timeout_s=timeout_s,
        percentile=percentile,
        service_one_s=service_one_s * quick_ratio,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        longer_s = busy.mean_s - quick.mean_s
        # By so much a single item is quicker, however little waits.
        least_s = service_one_s * (1 - quick_ratio)
        varying_s = np.maximum(longer_s - least_s, 0.0)
        left_s = CFS_PERIOD_S - least_s
        beyond_s = np.where(
            left_s > 0, varying_s * np.exp(-np.maximum(left_s, 0.0) / varying_s), longer_s - CFS_PERIOD_S
        )
        quantile_s = np.maximum(quick.quantile_s, busy.quantile_s - CFS_PERIOD_S)
        mean_s = np.minimum(quick.mean_s + beyond_s, quantile_s)
        excess_s = quantile_s - mean_s
    is_stable = np.isfinite(busy.mean_s)
    return Sojourn(np.where(is_stable, mean_s, np.inf), np.where(is_stable, excess_s, np.inf))
