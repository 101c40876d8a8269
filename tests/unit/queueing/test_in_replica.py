"""Replicas that batch for themselves: the formula against the simulator, and what follows from its rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.model.pipeline import Objective
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.optimize.describe import describe
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.timing import carried_rps, stage_times
from ipa.queueing.in_replica import carried_in_replica, sojourn_in_replica
from ipa.queueing.service import ServiceTime
from ipa.queueing.tail import sojourn
from ipa.simulate.stage import Pods, StageSim

REQUESTS, WARM = 60_000, 2_000
# The squared coefficient of variation of service times, and what their 99th percentile then is of their mean.
SPREAD = 0.01
TAIL = 1.25


def predicted(
    batch_size: int,
    replicas: int,
    full_s: float,
    one_s: float,
    rate_rps: float,
    timeout_s: float,
    items: float = 1,
) -> tuple[float, float]:
    """Mean and 99th percentile by the formula."""
    given = (batch_size, replicas, full_s, TAIL * full_s, rate_rps, items, timeout_s, one_s)
    *columns, many, timeout, one = (np.array([value], dtype=np.float64) for value in given)
    found = sojourn_in_replica(*columns, items=many, timeout_s=timeout, percentile=99.0, service_one_s=one)
    return float(found.mean_s[0]), float(found.quantile_s[0])


def simulated_s(
    batch_size: int, replicas: int, full_s: float, one_s: float, rate_rps: float, timeout_s: float
) -> tuple[float, float]:
    """Mean and 99th percentile of the time at the stage."""
    times = np.cumsum(np.random.default_rng(3).exponential(1 / rate_rps, REQUESTS))
    stage = StageSim(queue="replica", batch_timeout_s=timeout_s if batch_size > 1 else 0.0, seed=4)
    stage.set_replicas(0.0, [Pods(replicas, batch_size, ServiceTime(full_s, one_s, SPREAD))])
    stage.offer(times, np.arange(REQUESTS))
    served = stage.run(1e9)
    took_s = (served.done_s - served.born_s)[served.ids >= WARM]
    return float(np.mean(took_s)), float(np.quantile(took_s, 0.99))


POINTS = [
    # Batch size, replicas, time of a full batch and of one, rate, timeout.
    (1, 1, 0.02, 0.02, 15.0, 0.01),
    (1, 1, 0.02, 0.02, 35.0, 0.01),
    (1, 3, 0.02, 0.02, 60.0, 0.01),
    (1, 4, 0.02, 0.02, 140.0, 0.01),
    (4, 1, 0.04, 0.02, 20.0, 0.02),
    (4, 2, 0.04, 0.02, 80.0, 0.02),
    (8, 1, 0.03, 0.01, 60.0, 0.02),
    (8, 2, 0.03, 0.01, 160.0, 0.05),
    (8, 4, 0.03, 0.01, 200.0, 0.005),
    (16, 2, 0.05, 0.01, 300.0, 0.1),
    # Above half load, closed by size.
    (4, 2, 0.04, 0.02, 130.0, 0.1),
    (4, 2, 0.0545, 0.04, 84.0, 0.03),
    (4, 3, 0.069, 0.035, 160.0, 0.1),
    (8, 1, 0.05, 0.02, 120.0, 0.2),
    (16, 2, 0.08, 0.02, 310.0, 0.3),
    # Some by size and some by time.
    (4, 1, 0.06, 0.045, 55.0, 0.06),
    (8, 2, 0.05, 0.02, 250.0, 0.05),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_mean_and_tail_are_near_those_of_the_simulator(
    point: tuple[int, int, float, float, float, float],
) -> None:
    (mean_s, tail_s), (seen_mean_s, seen_tail_s) = predicted(*point), simulated_s(*point)
    assert mean_s == pytest.approx(seen_mean_s, rel=0.1)
    assert 0.93 * seen_tail_s <= tail_s <= 1.15 * seen_tail_s


def test_a_short_timeout_keeps_batches_small_however_many_wait() -> None:
    """A full batch of eight carries 266 requests a second; those of five milliseconds are of two at most."""
    short, long = (8, 1, 0.03, 0.01, 180.0, 0.005), (8, 1, 0.03, 0.01, 180.0, 0.05)
    assert predicted(*short) == (np.inf, np.inf)
    assert predicted(*long)[1] < 0.2
    assert simulated_s(*short)[1] > 10
    assert simulated_s(*long)[1] < 0.2


def test_all_items_of_a_request_are_served_by_one_replica() -> None:
    """Six items of 10 ms on six replicas take 60 ms at one of them, and not 10 at each."""
    mean_s, _ = predicted(1, 6, 0.01, 0.01, 6 * 5.0, 0.01, items=6)
    assert mean_s == pytest.approx(0.06, rel=0.1)
    central = sojourn(1, 6, 0.01, 0.0125, 30.0, items=6, timeout_s=0.01, service_one_s=0.01)
    assert central.mean_s < 0.03


def test_a_plan_counts_so_where_the_stage_says_so() -> None:
    points = (OperatingPoint("a", 0.9, 1, 1.0, 0.025, 50.0, 0.02),)
    stage = StageProblem("one", points, batch_timeout_s=0.01)
    seen = []
    for in_replica in (False, True):
        problem = PlanningProblem(
            "p", 140.0, 1.0, (replace(stage, in_replica=in_replica),), Objective(), compat=Compat.TAIL
        )
        seen.append(stage_times(problem, 0, points[0], 4, 1.0))
    own_s, own_tail_s = predicted(1, 4, 0.02, 0.02, 140.0, 0.01)
    assert seen[1][2] == pytest.approx(own_s)
    assert seen[1][0] + seen[1][1] == pytest.approx(own_tail_s)
    (far,) = (replace(stage, in_replica=True, hop_s=0.005),)
    problem = PlanningProblem("p", 140.0, 1.0, (far,), Objective(), compat=Compat.TAIL)
    service_s, wait_s, mean_s, excess_s = stage_times(problem, 0, points[0], 4, 1.0)
    # The way there and back is the same for each request.
    assert mean_s == pytest.approx(own_s + 0.005)
    assert excess_s == pytest.approx(seen[1][3])
    assert service_s + wait_s == pytest.approx(own_tail_s + 0.005)
    # One queue for all of them waits less.
    assert seen[0][2] < 0.8 * own_s


@pytest.mark.parametrize(
    ("batch_size", "full_s", "one_s", "items", "timeout_s"),
    [
        (8, 0.038, 0.031, 1.0, 0.01),
        (8, 0.03, 0.01, 1.0, 0.005),
        (4, 0.04, 0.02, 3.0, 0.02),
        (4, 0.03, 0.03, 1.0, 0.01),
    ],
)
def test_what_a_replica_carries_is_where_its_queue_begins_to_grow(
    batch_size: int, full_s: float, one_s: float, items: float, timeout_s: float
) -> None:
    """Of a forest of 8 that is never more than two: 40 a second, not the 210 of full batches."""
    carried = carried_in_replica(batch_size, full_s, one_s, items=items, timeout_s=timeout_s)
    item_s = (full_s - one_s) / (batch_size - 1)
    assert carried < items * batch_size / (one_s + item_s * (items * batch_size - 1))
    below, above = (
        predicted(batch_size, 1, full_s, one_s, ratio * carried, timeout_s, items) for ratio in (0.999, 1.001)
    )
    assert np.isfinite(below).all() and not np.isfinite(above).any()


def test_batches_that_fill_up_carry_what_was_measured() -> None:
    for timeout_s in (1.0, np.inf):
        assert carried_in_replica(8, 0.03, 0.01, items=1.0, timeout_s=timeout_s) == pytest.approx(8 / 0.03)
    # None of the batches waits for a second request.
    assert carried_in_replica(8, 0.03, 0.01, items=1.0, timeout_s=0.0) == pytest.approx(100.0)
    assert carried_in_replica(1, 0.02, 0.02, items=6.0, timeout_s=0.01) == pytest.approx(50.0)


def test_the_capacity_of_a_plan_is_that_of_the_batches_that_come_together() -> None:
    points = (
        OperatingPoint("forest", 0.97, 1, 0.5, 0.052, 32.06, 0.0312),
        OperatingPoint("forest", 0.97, 8, 0.5, 0.052, 210.55, 0.038),
    )
    stage = StageProblem("classify", points, batch_timeout_s=0.01)
    for in_replica, least_rps, most_rps in ((False, 210.55, 210.55), (True, 32.06, 50.0)):
        own = replace(stage, in_replica=in_replica)
        problem = PlanningProblem("p", 20.0, 1.0, (own,), Objective(), compat=Compat.TAIL)
        assert least_rps <= carried_rps(problem, own, points[1], 1.0) <= most_rps
        plan = describe(problem, (StageConfig("classify", "forest", 8, 0.5, 2),))
        assert plan is not None
        (planned,) = plan.stages
        assert 2 * least_rps <= planned.replicas * planned.capacity_rps <= 2 * most_rps
        assert planned.utilisation_ratio == pytest.approx(20.0 / (2 * planned.capacity_rps))


@pytest.mark.parametrize(("batch_size", "timeout_s"), [(1, 0.01), (4, 0.02), (8, 0.05)])
def test_another_replica_is_later_only_where_it_is_when_simulated(batch_size: int, timeout_s: float) -> None:
    """A replica more shortens the wait. Batches of eight then fill more slowly, which may take longer."""
    points = [(batch_size, count, 0.04, 0.03, 22.0 * batch_size, timeout_s) for count in (2, 3, 4)]
    foreseen = [predicted(*point)[1] for point in points]
    seen = [simulated_s(*point)[1] for point in points]
    for fewer, more in ((0, 1), (1, 2)):
        if foreseen[more] > foreseen[fewer]:
            assert seen[more] > seen[fewer]
    assert batch_size == 8 or foreseen == sorted(foreseen, reverse=True)


def test_behind_a_stage_batches_are_not_counted_on() -> None:
    """One replica before it spaces requests by 10 ms: none finds another within 5 ms, at whatever rate."""
    spacing_s, timeout_s, full_s, one_s = 0.01, 0.005, 0.016, 0.0095
    times = np.arange(REQUESTS) * spacing_s
    stage = StageSim(queue="replica", batch_timeout_s=timeout_s, seed=4)
    stage.set_replicas(0.0, [Pods(1, 4, ServiceTime(full_s, one_s, 1e-6))])
    stage.offer(times, np.arange(REQUESTS))
    assert len(np.unique(stage.run(1e9).done_s)) == REQUESTS
    at_random = carried_in_replica(4, full_s, one_s, items=1.0, timeout_s=timeout_s)
    behind = carried_in_replica(4, full_s, one_s, items=1.0, timeout_s=timeout_s, is_behind=True)
    assert behind == pytest.approx(1 / one_s, rel=1e-6)
    assert at_random > 1.2 * behind
