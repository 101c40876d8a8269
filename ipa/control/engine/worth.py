"""The worth of a configuration over the next seconds: what it is for, less what it costs and who is late.

The loads of the next seconds are paths to the rates of the forecast. On each a fluid queue, from what waits
now, carries what the running configuration does until the new one serves. Late requests earn no
accuracy, and all that the SLA allows to be late are worth as much as the resources that serve them (drift
plus penalty: Neely, *Stochastic Network Optimization*, 2010, chapter 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ipa.model.observation import RATE_SHARES, Forecast
from ipa.model.parts import Configs, is_shared, stage_pairs
from ipa.model.plan import Plan
from ipa.model.rolling import Rolling, first_hop, waves
from ipa.policies.base import LOADS, Prediction

Floats = NDArray[np.float64]

# What a configuration is worth is summed over this time, in steps.
HORIZON_S, STEP_S = 30.0, 1.0
# The classes of the load, and the quantiles in their middles.
WEIGHTS = np.array(RATE_SHARES)
MIDDLES = (np.cumsum(WEIGHTS) - WEIGHTS / 2).tolist()
# New replicas of a variant whose time to readiness was not measured serve after this.
READINESS_S = 7.0
# Requests that wait for longer than this share of the SLA are late.
WAIT_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that may run: its performance at the present rate, and its costs as weighed.

    `cost` is that of its resources by the second, `changing_cost` that of the old and new ones together until
    it serves, after `serves_s`; `meanwhile` is the performance of what serves then. `plan` is None for the
    running configuration.
    """

    prediction: Prediction
    meanwhile: Prediction
    cost: float
    changing_cost: float
    serves_s: float
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Loads:
    """The load of the next seconds: from `present_rps`, with `waiting` requests, to each rate in `rise_s`.

    Requests that waited for `deadline_s` are dropped.
    """

    rates_rps: Floats
    present_rps: float
    waiting: float
    rise_s: float
    deadline_s: float

    @property
    def mean_rps(self) -> float:
        """The mean of the rates."""
        return float(self.rates_rps @ WEIGHTS)


@dataclass(frozen=True, slots=True)
class Worth:
    """The worth of a candidate beyond that of staying, the price of the change to it, and its late requests.

    `late_ratio` is their share of all. Worth and share are over HORIZON_S.
    """

    candidate: Candidate
    gain: float
    price: float
    late_ratio: float


def loads_of(forecast: Forecast, present_rps: float, waiting: float, deadline_s: float) -> Loads:
    """The loads of a forecast, taken for normally distributed if it has no classes."""
    rates: Sequence[float] = forecast.rates_rps
    if not rates:
        normal, spread_rps = NormalDist(), max(forecast.upper_rps - forecast.point_rps, 0.0)
        deviation_rps = spread_rps / max(normal.inv_cdf(min(forecast.quantile, MIDDLES[-1])), 0.5)
        rates = [forecast.point_rps + deviation_rps * normal.inv_cdf(middle) for middle in MIDDLES]
    return Loads(np.maximum(rates, 0.0), present_rps, waiting, max(forecast.horizon_s, STEP_S), deadline_s)


def serving_s(running: Configs, wanted: Configs, rolling: Rolling, readiness_s: Sequence[float]) -> float:
    """The time until the wanted configuration serves; 0 if no replica starts."""
    return max(
        (
            (1 if old is None else waves(old, new, rolling)) * (ready_s or READINESS_S)
            for (old, new), ready_s in zip(stage_pairs(running, wanted), readiness_s, strict=True)
        ),
        default=0.0,
    )


def what_stays(running: Configs, wanted: Configs, rolling: Rolling) -> Configs:
    """The replicas that serve until the wanted ones do: a Deployment of fewer others shrinks first."""
    if is_shared(running) or is_shared(wanted) or not rolling.shrinks_first:
        return running
    hops = [(old, first_hop(old, new, rolling)) for old, new in zip(running, wanted, strict=True)]
    return tuple(
        old if rolling.keeps_replicas(old, hop) else replace(old, replicas=min(old.replicas, hop.replicas))
        for old, hop in hops
    )


def weigh(
    candidates: Sequence[Candidate], loads: Loads, allowed_ratio: float, change_price_s: float
) -> list[Worth]:
    """The worth of each candidate, of which the first is the running configuration.

    `allowed_ratio` of the requests may be late. A change has a price, for its risk and the freedom lost
    meanwhile: the running resources for `change_price_s`. What is removed may have to come back, and pays
    that twice.
    """
    running = candidates[0]
    soon, further = late_requests(candidates, loads)
    mean_rps = max(loads.mean_rps, 1e-9)
    late_ratios, lateness = soon / (mean_rps * HORIZON_S), (soon + further) / (mean_rps * HORIZON_S)
    benefits = [each.prediction.objective + each.cost for each in candidates]
    # The cheapest of those with as few late requests as the SLA allows, or else with the fewest.
    costs = [each.cost for each in candidates]
    serving = min(range(len(costs)), key=lambda at: (max(lateness[at], allowed_ratio), costs[at]))
    late_price = (costs[serving] / allowed_ratio + max(benefits[serving], 0.0)) * HORIZON_S
    worths = []
    for each, benefit, late in zip(candidates, benefits, lateness, strict=True):
        until_s = min(each.serves_s, HORIZON_S)
        earned = (benefits[0] - each.changing_cost) * until_s + (benefit - each.cost) * (HORIZON_S - until_s)
        worths.append(earned - late_price * float(late))
    price = change_price_s * running.cost
    is_less = [each.prediction.capacity_rps < running.prediction.capacity_rps for each in candidates]
    return [
        Worth(each, worth - worths[0], 0.0 if each is running else price * (1 + less), float(late_ratio))
        for each, worth, less, late_ratio in zip(candidates, worths, is_less, late_ratios, strict=True)
    ]


def late_requests(candidates: Sequence[Candidate], loads: Loads) -> tuple[Floats, Floats]:
    """The late requests of each candidate over HORIZON_S, and further ones, means over the loads.

    What waits for longer than `deadline_s` is dropped. Further ones are those late after it: a queue that is
    left delays those that come until it is served, for as long again at most; and each request beyond the
    capacity delays another one. A request of twice the SLA counts twice.
    """
    first_rps = np.minimum(loads.rates_rps, loads.present_rps)
    able_then = np.array([each.prediction.capacity_rps for each in candidates])[:, None]
    wait_s = WAIT_RATIO * candidates[0].prediction.sla_s
    times_s = np.arange(0.0, HORIZON_S, STEP_S)
    ramp = np.minimum((times_s + STEP_S) / loads.rise_s, 1.0)[:, None]
    rates_rps = first_rps + (loads.rates_rps - first_rps) * ramp
    # By step, candidate, and load.
    able_rps, shares, later = (
        np.stack(each, axis=1)
        for each in zip(*(_performance(each, times_s, rates_rps) for each in candidates), strict=True)
    )
    queue, queues, demand = np.full((len(candidates), len(WEIGHTS)), loads.waiting), [], rates_rps[:, None]
    missing = demand - able_rps
    for more, most in zip(missing * STEP_S, able_rps * loads.deadline_s, strict=True):
        queue = np.minimum(np.maximum(queue + more, 0.0), most)
        queues.append(queue)
    late = (np.where(np.array(queues) > wait_s * able_rps, 1.0, shares) * demand * STEP_S).sum(axis=0)
    further = ((np.maximum(missing, 0.0) + later * demand) * STEP_S).sum(axis=0)
    left, spare = np.maximum(queue - wait_s * able_then, 0.0), able_then - loads.rates_rps
    drain_s = np.where(spare * HORIZON_S > left, left / np.maximum(spare, 1e-9), HORIZON_S * (left > 0))
    return late @ WEIGHTS, (further + drain_s * loads.rates_rps) @ WEIGHTS


def _performance(candidate: Candidate, times_s: Floats, rates_rps: Floats) -> tuple[Floats, Floats, Floats]:
    """The capacity at each time, and the shares later than the SLA and than twice that at each rate."""
    meanwhile, then = candidate.meanwhile, candidate.prediction
    is_old = times_s < candidate.serves_s
    able_rps = np.where(is_old, meanwhile.capacity_rps, then.capacity_rps)[:, None]
    used = rates_rps / able_rps
    shares, later = (
        np.concatenate(
            (
                np.interp(used[is_old], LOADS, meanwhile.late_ratios[at]),
                np.interp(used[~is_old], LOADS, then.late_ratios[at]),
            )
        )
        for at in (0, 1)
    )
    return able_rps, shares, later
