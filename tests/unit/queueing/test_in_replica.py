"""Replicas that batch for themselves: the formula against the simulator, and what follows from its rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from ipa.model.pipeline import Edge, Objective
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.optimize.describe import describe
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.solve import solve
from ipa.optimize.timing import Chosen, times_of
from ipa.queueing.in_replica import carried_in_replica, sojourn_in_replica
from ipa.queueing.service import ServiceTime
from ipa.queueing.tail import Floats, path_quantile_s, sojourn
from ipa.simulate.stage import Pods, StageSim

REQUESTS, WARM = 60_000, 2_000
# The squared coefficient of variation of service times, and what their 99th percentile then is of their mean.
SPREAD = 0.01
TAIL = 1.25


# Batch size, replicas, time of a full batch and of one, rate, timeout.
Point = tuple[int, int, float, float, float, float]


def columns_of(point: Point, items: float = 1.0) -> tuple[list[Floats], dict[str, Floats]]:
    """The arguments of the formulas."""
    batch_size, replicas, full_s, one_s, rate_rps, timeout_s = point
    numbers = (batch_size, replicas, full_s, TAIL * full_s, rate_rps, items, timeout_s, one_s)
    *columns, many, timeout, one = (np.array([value], dtype=np.float64) for value in numbers)
    return columns, {"items": many, "timeout_s": timeout, "service_one_s": one}


def predicted(*point: float, items: float = 1.0, evenly: bool = False) -> tuple[float, float]:
    """Mean and 99th percentile by the formula."""
    columns, others = columns_of(point, items)
    sojourn = sojourn_in_replica(*columns, percentile=99.0, evenly=evenly, **others)
    return float(sojourn.mean_s[0]), float(sojourn.quantile_s[0])


def longer(*point: float) -> tuple[float, float]:
    """The longer mean and percentile of requests at random and of evenly spaced ones."""
    (mean_s, tail_s), (evenly_s, evenly_tail_s) = predicted(*point), predicted(*point, evenly=True)
    return max(mean_s, evenly_s), max(tail_s, evenly_tail_s)


def carried(
    batch_size: int,
    full_s: float,
    one_s: float,
    *,
    items: float,
    timeout_s: float,
    evenly: bool = False,
) -> float:
    """The items a second that keep a replica busy."""
    (size, count, full, _, _), others = columns_of((batch_size, 1, full_s, one_s, 1.0, timeout_s), items)
    one = others.pop("service_one_s")
    return float(carried_in_replica(size, count, full, one, evenly=evenly, **others)[0])


def through(point: Point, times: Floats) -> Floats:
    """When requests that come at these times leave the simulated stage, by number."""
    batch_size, replicas, full_s, one_s, _, timeout_s = point
    stage = StageSim(queue="replica", batch_timeout_s=timeout_s if batch_size > 1 else 0.0, seed=4)
    stage.set_replicas(0.0, [Pods(replicas, batch_size, ServiceTime(full_s, one_s, SPREAD))])
    order = np.argsort(times, kind="stable")
    stage.offer(times[order], order)
    served = stage.run(1e9)
    done = np.empty(len(times))
    done[served.ids] = served.done_s
    return done


def arrivals(rate_rps: float, requests: int = REQUESTS) -> Floats:
    return np.cumsum(np.random.default_rng(3).exponential(1 / rate_rps, requests))


def simulated_s(*point: float, requests: int = REQUESTS) -> tuple[float, float]:
    """Mean and 99th percentile of the time at the stage."""
    times = arrivals(point[4], requests)
    took_s = (through(point, times) - times)[WARM:]
    return float(np.mean(took_s)), float(np.quantile(took_s, 0.99))


POINTS: list[Point] = [
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
    # Hardly any by size: a batch is open for as long as the timeout.
    (8, 2, 0.03, 0.02, 30.0, 0.01),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_mean_and_tail_are_near_those_of_the_simulator(point: Point) -> None:
    (mean_s, tail_s), (seen_mean_s, seen_tail_s) = predicted(*point), simulated_s(*point)
    assert mean_s == pytest.approx(seen_mean_s, rel=0.1)
    assert 0.93 * seen_tail_s <= tail_s <= 1.1 * seen_tail_s


@pytest.mark.parametrize(
    ("load", "batch_size", "replicas", "full_s", "one_s", "timeout_s"),
    [(0.92, 4, 3, 0.069, 0.035, 0.1), (0.9, 4, 2, 0.0545, 0.04, 0.03)],
)
def test_batches_closed_by_size_near_full_load(
    load: float, batch_size: int, replicas: int, full_s: float, one_s: float, timeout_s: float
) -> None:
    """The gaps between batches that close by size vary by 1/b, not by the (1 + λT)⁻² of those by time."""
    busy_rps = replicas * carried(batch_size, full_s, one_s, items=1.0, timeout_s=timeout_s)
    point = (batch_size, replicas, full_s, one_s, load * busy_rps, timeout_s)
    assert predicted(*point)[1] == pytest.approx(simulated_s(*point, requests=400_000)[1], rel=0.1)


@pytest.mark.parametrize("evenly", [False, True])
def test_times_in_another_unit_are_the_same_times(evenly: bool) -> None:
    for batch_size, replicas, full_s, one_s, rate_rps, timeout_s in POINTS:
        seconds = predicted(batch_size, replicas, full_s, one_s, rate_rps, timeout_s, evenly=evenly)
        in_ms = batch_size, replicas, 1e3 * full_s, 1e3 * one_s, rate_rps / 1e3, 1e3 * timeout_s
        assert predicted(*in_ms, evenly=evenly) == pytest.approx([1e3 * each for each in seconds])


# Stages in a row, each as above: one replica that spaces requests before a quicker one, an equal one and a
# slower one; and batches.
TANDEMS: list[tuple[Point, Point]] = [
    ((1, 1, 0.02, 0.02, 40.0, 0.01), (1, 1, 0.012, 0.012, 40.0, 0.01)),
    ((1, 1, 0.02, 0.02, 40.0, 0.01), (1, 1, 0.018, 0.018, 40.0, 0.01)),
    ((1, 1, 0.015, 0.015, 40.0, 0.01), (1, 1, 0.021, 0.021, 40.0, 0.01)),
    ((2, 4, 0.05, 0.04, 120.0, 0.03), (4, 2, 0.05, 0.03, 120.0, 0.1)),
]


@pytest.mark.parametrize("tandem", TANDEMS, ids=str)
def test_the_tail_behind_a_stage_is_not_below_that_of_the_simulator(tandem: tuple[Point, Point]) -> None:
    first, second = tandem
    times = arrivals(first[4])
    took_s = (through(second, through(first, times)) - times)[WARM:]
    (mean_s, tail_s), (next_s, next_tail_s) = predicted(*first), longer(*second)
    both_s = float(path_quantile_s([mean_s, next_s], [tail_s - mean_s, next_tail_s - next_s]))
    assert 0.9 * np.quantile(took_s, 0.99) <= both_s <= 1.6 * np.quantile(took_s, 0.99)


def two_stages() -> PlanningProblem:
    """Two stages of one variant."""
    points = tuple(
        OperatingPoint("a", 0.9, size, 1.0, 1.1 * full_s, size / full_s, full_s)
        for size, full_s in ((1, 0.02), (2, 0.03), (4, 0.05))
    )
    first = StageProblem("first", points, batch_timeout_s=0.02, in_replica=True)
    second = replace(first, name="second", after=(Edge("first"),))
    return PlanningProblem("p", 45.0, 0.3, (first, second), Objective(), compat=Compat.TAIL)


def test_behind_a_stage_the_longer_time_counts() -> None:
    problem = two_stages()
    configs = tuple(StageConfig(name, "a", 4, 1.0, 1) for name in ("first", "second"))
    plan = describe(problem, configs)
    assert plan is not None
    columns, others = columns_of((4, 1, 0.05, 0.02, 45.0, 0.02))
    columns[3] = np.array([1.1 * 0.05])
    either = [
        sojourn_in_replica(*columns, percentile=99.0, evenly=evenly, **others) for evenly in (False, True)
    ]
    assert plan.stages[0].mean_s == pytest.approx(either[0].mean_s[0])
    assert plan.stages[1].mean_s == pytest.approx(max(each.mean_s[0] for each in either))
    assert plan.stages[1].excess_s == pytest.approx(max(each.excess_s[0] for each in either))


def test_the_plan_is_the_cheapest_of_all_pairs() -> None:
    """Search and solvers take the cheapest in time."""
    problem = two_stages()
    options = [(size, count) for size in (1, 2, 4) for count in range(1, 7)]
    pairs = []
    for first, second in product(options, options):
        configs = [
            StageConfig(name, "a", size, 1.0, count)
            for name, (size, count) in (("first", first), ("second", second))
        ]
        plan = describe(problem, configs)
        assert plan is not None and plan.latency_s is not None
        carries = all(it.utilisation_ratio < 1 for it in plan.stages)
        if carries:
            pairs.append((plan.latency_s, plan.cost_cores))
    for sla_s, solver in product((0.12, 0.18, 0.3, 0.6), ("exact", "highs")):
        cheapest = min((cores for latency_s, cores in pairs if latency_s <= sla_s), default=None)
        assert solve(replace(problem, sla_s=sla_s), solver, explain=False).cost_cores == cheapest


def test_a_short_timeout_keeps_batches_small_however_many_wait() -> None:
    """A full batch of eight carries 266 requests a second; those of five milliseconds are of two at most."""
    short, long = (8, 1, 0.03, 0.01, 180.0, 0.005), (8, 1, 0.03, 0.01, 180.0, 0.05)
    assert predicted(*short) == (np.inf, np.inf)
    assert predicted(*long)[1] < 0.2
    assert simulated_s(*short)[1] > 10
    assert simulated_s(*long)[1] < 0.2


def test_all_items_of_a_request_are_served_by_one_replica() -> None:
    """Six items of 10 ms on six replicas take 60 ms at one of them, and not 10 at each."""
    mean_s, _ = predicted(1, 6, 0.01, 0.01, 6 * 5.0, 0.01, items=6.0)
    assert mean_s == pytest.approx(0.06, rel=0.1)
    central = sojourn(1, 6, 0.01, 0.0125, 30.0, items=6, timeout_s=0.01, service_one_s=0.01)
    assert central.mean_s < 0.03


def test_a_plan_counts_so_where_the_stage_says_so() -> None:
    points = (OperatingPoint("a", 0.9, 1, 1.0, 0.025, 50.0, 0.02),)
    stage = StageProblem("one", points, batch_timeout_s=0.01)
    times = []
    for in_replica in (False, True):
        problem = PlanningProblem(
            "p", 140.0, 1.0, (replace(stage, in_replica=in_replica),), Objective(), compat=Compat.TAIL
        )
        times += times_of(problem, [Chosen(0, points[0], 4, 1.0)])
    own_s, own_tail_s = predicted(1, 4, 0.02, 0.02, 140.0, 0.01)
    assert times[1][2] == pytest.approx(own_s)
    assert times[1][0] + times[1][1] == pytest.approx(own_tail_s)
    (far,) = (replace(stage, in_replica=True, hop_s=0.005),)
    problem = PlanningProblem("p", 140.0, 1.0, (far,), Objective(), compat=Compat.TAIL)
    ((service_s, wait_s, mean_s, excess_s, _),) = times_of(problem, [Chosen(0, points[0], 4, 1.0)])
    # The way there and back is the same for each request.
    assert mean_s == pytest.approx(own_s + 0.005)
    assert excess_s == pytest.approx(times[1][3])
    assert service_s + wait_s == pytest.approx(own_tail_s + 0.005)
    # One queue for all of them waits less.
    assert times[0][2] < 0.8 * own_s


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
    most_rps = carried(batch_size, full_s, one_s, items=items, timeout_s=timeout_s)
    item_s = (full_s - one_s) / (batch_size - 1)
    assert most_rps < items * batch_size / (one_s + item_s * (items * batch_size - 1))
    below, above = (
        predicted(batch_size, 1, full_s, one_s, ratio * most_rps, timeout_s, items=items)
        for ratio in (0.999, 1.001)
    )
    assert np.isfinite(below).all() and not np.isfinite(above).any()


def test_batches_that_fill_up_carry_what_was_measured() -> None:
    for timeout_s in (1.0, np.inf):
        assert carried(8, 0.03, 0.01, items=1.0, timeout_s=timeout_s) == pytest.approx(8 / 0.03)
    # None of the batches waits for a second request.
    assert carried(8, 0.03, 0.01, items=1.0, timeout_s=0.0) == pytest.approx(100.0)
    assert carried(1, 0.02, 0.02, items=6.0, timeout_s=0.01) == pytest.approx(50.0)


def test_the_capacity_of_a_plan_is_that_of_the_batches_that_come_together() -> None:
    points = (
        OperatingPoint("forest", 0.97, 1, 0.5, 0.052, 32.06, 0.0312),
        OperatingPoint("forest", 0.97, 8, 0.5, 0.052, 210.55, 0.038),
    )
    stage = StageProblem("classify", points, batch_timeout_s=0.01)
    for in_replica, least_rps, most_rps in ((False, 210.55, 210.55), (True, 32.06, 50.0)):
        own = replace(stage, in_replica=in_replica)
        problem = PlanningProblem("p", 20.0, 1.0, (own,), Objective(), compat=Compat.TAIL)
        (times,) = times_of(problem, [Chosen(0, points[1], 2, 1.0)])
        assert least_rps <= times.capacity_rps <= most_rps
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
    tails_s = [simulated_s(*point)[1] for point in points]
    for fewer, more in ((0, 1), (1, 2)):
        if foreseen[more] > foreseen[fewer]:
            assert tails_s[more] > tails_s[fewer]
    assert batch_size == 8 or foreseen == sorted(foreseen, reverse=True)


def test_a_batch_gets_no_second_request_where_one_replica_spaces_them() -> None:
    """It spaces requests by 10 ms: none finds another within 5 ms, at whatever rate."""
    spacing_s, timeout_s, full_s, one_s = 0.01, 0.005, 0.016, 0.0095
    done = through((4, 1, full_s, one_s, 0.0, timeout_s), np.arange(REQUESTS) * spacing_s)
    assert len(np.unique(done)) == REQUESTS
    at_random = carried(4, full_s, one_s, items=1.0, timeout_s=timeout_s)
    evenly = carried(4, full_s, one_s, items=1.0, timeout_s=timeout_s, evenly=True)
    assert evenly == pytest.approx(1 / one_s, rel=1e-6)
    assert at_random > 1.2 * evenly
