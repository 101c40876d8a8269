"""The worth of a configuration: resources, accuracy, late requests by a fluid queue, the change's price."""

from __future__ import annotations

from dataclasses import replace
from operator import mul

import numpy as np
import pytest

from ipa.control.engine.worth import (
    HORIZON_S,
    MIDDLES,
    Candidate,
    Loads,
    late_requests,
    loads_of,
    weigh,
    what_stays,
)
from ipa.model.observation import RATE_SHARES, Forecast
from ipa.model.plan import StageConfig
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.policies.base import LOADS, Prediction
from tests.fakes.world import PIPELINE, planner

ALLOWED_RATIO, PRICE_S, SLA_S = 0.01, 12.0, 1.0
NEVER = tuple(float(load == 1) for load in LOADS)
PLAN = planner(PIPELINE, 5.0)


def candidate(
    capacity_rps: float,
    cost: float,
    *,
    benefit: float = 10.0,
    serves_s: float = 0.0,
    is_running: bool = False,
) -> Candidate:
    """A configuration whose requests are late at its capacity alone."""
    prediction = Prediction(1.0, capacity_rps, 0.1, SLA_S, benefit - cost, 0.5, late_ratios=(NEVER, NEVER))
    return Candidate(prediction, prediction, cost, cost, serves_s, None if is_running else PLAN)


def even(rate_rps: float, waiting: float = 0.0) -> Loads:
    """One rate in all quantiles."""
    return Loads(np.full(len(MIDDLES), rate_rps), rate_rps, waiting, 20.0, 10.0)


def test_what_comes_beyond_the_capacity_is_late_once_it_waits() -> None:
    carries, lacks = candidate(20.0, 1.0), candidate(10.0, 1.0)
    late, further = late_requests([lacks, carries], even(15.0))
    # The queue of the first second is 5 requests, half a second of work: longer than a quarter of the SLA.
    assert late[0] == pytest.approx(15 * HORIZON_S) and late[1] == 0
    assert further[0] > 0 == further[1]


def test_what_waits_is_late_until_it_is_served() -> None:
    quick, slow = candidate(40.0, 1.0), candidate(22.0, 1.0)
    (fast_late, slow_late), _ = late_requests([quick, slow], even(20.0, waiting=60.0))
    # 60 requests are served at 20 and 2 a second beyond those that come.
    assert fast_late == pytest.approx(2 * 20.0, abs=20.0)
    assert slow_late == pytest.approx(25 * 20.0, rel=0.15)


def test_the_old_replicas_serve_until_the_new_ones_do() -> None:
    running = candidate(10.0, 1.0)
    late, _ = late_requests(
        [running, replace(candidate(40.0, 4.0, serves_s=9.0), meanwhile=running.prediction)], even(15.0)
    )
    # 45 requests wait after nine seconds; they are served at 25 a second beyond those that come.
    assert late[0] == 15 * HORIZON_S and late[1] == pytest.approx(15 * 10.0, abs=15.0)


def test_requests_of_twice_the_sla_count_twice() -> None:
    one = candidate(20.0, 1.0)
    always = (1.0,) * len(LOADS)
    slower = replace(one.prediction, late_ratios=(always, NEVER))
    slowest = replace(one.prediction, late_ratios=(always, always))
    late, further = late_requests([replace(one, prediction=it) for it in (slower, slowest)], even(10.0))
    assert late[0] == late[1] == 10 * HORIZON_S
    assert (further[0], further[1]) == (0, 10 * HORIZON_S)


def test_a_cheaper_plan_gains_its_resources_and_pays_twice_for_less_capacity() -> None:
    running = candidate(20.0, 4.0, is_running=True)
    same, less = candidate(20.0, 3.0), candidate(15.0, 3.0)
    stay, *others = weigh([running, same, less], even(5.0), ALLOWED_RATIO, PRICE_S)
    assert (stay.gain, stay.price) == (0.0, 0.0)
    assert [each.gain for each in others] == pytest.approx([HORIZON_S] * 2)
    assert [each.price for each in others] == [PRICE_S * 4.0, 2 * PRICE_S * 4.0]


@pytest.mark.parametrize("running_cost", [1.0, 3.0])
def test_late_requests_cost_as_much_whatever_runs(running_cost: float) -> None:
    """The price is that of the cheapest plan that serves the load, not of a small one that does not."""
    running = candidate(10.0, running_cost, is_running=True)
    plans = [candidate(20.0, 4.0), candidate(30.0, 6.0)]
    _, best, larger = weigh([running, *plans], even(15.0), ALLOWED_RATIO, PRICE_S)
    late, further = late_requests([running, *plans], even(15.0))
    a_late_one = (4.0 / ALLOWED_RATIO + 10.0) / 15.0
    expected = a_late_one * (late[0] + further[0]) - HORIZON_S * (4.0 - running_cost)
    assert best.gain == pytest.approx(expected)
    assert best.gain - larger.gain == pytest.approx(HORIZON_S * 2.0)


def test_a_forecast_without_classes_is_taken_for_normal() -> None:
    loads = loads_of(Forecast(10.0, 14.0, 0.95, 20.0, "level", 0.0), 9.0, 0.0, 10.0)
    assert list(loads.rates_rps) == sorted(loads.rates_rps)
    assert np.interp(0.5, MIDDLES, loads.rates_rps) == pytest.approx(10.0, rel=0.01)
    assert np.interp(0.95, MIDDLES, loads.rates_rps) == pytest.approx(14.0, rel=0.02)


def test_a_forecast_is_weighed_by_its_classes() -> None:
    rates_rps = (8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 40.0)
    forecast = Forecast(10.0, 14.0, 0.95, 20.0, "level", 0.0, rates_rps=rates_rps)
    loads = loads_of(forecast, 9.0, 0.0, 10.0)
    assert tuple(loads.rates_rps) == rates_rps
    assert loads.mean_rps == pytest.approx(sum(map(mul, RATE_SHARES, rates_rps)))


def test_a_deployment_of_fewer_others_shrinks_first() -> None:
    old = (StageConfig("detect", "small", 1, 1.0, 5), StageConfig("read", "small", 1, 1.0, 2))
    new = (StageConfig("detect", "big", 8, 4.0, 1), StageConfig("read", "small", 1, 1.0, 1))
    deployments = replace(SIDE_BY_SIDE, shrinks_first=True)
    assert [each.replicas for each in what_stays(old, new, deployments)] == [1, 2]
    assert what_stays(old, new, replace(SIDE_BY_SIDE, shrinks_first=False)) == old
