"""Which rate a variant carries on c cores."""

from __future__ import annotations

import numpy as np

from ipa.model.pipeline import Objective, Pin
from ipa.model.profile import OperatingPoint
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.sets import CoreLevel, SetVariant
from ipa.optimize.solve import solve
from ipa.policies.setplanning import largest_rate, stage_tail

POINTS = tuple(
    OperatingPoint("v", 0.8, batch, cores, latency_s=0.1 * batch / cores, capacity_rps=12.0 * cores)
    for cores in (1.0, 2.0)
    for batch in (1, 4)
)


def test_points_with_a_tail_carry_what_meets_the_slo() -> None:
    point = OperatingPoint("v", 0.8, 1, 1.0, latency_s=0.12, capacity_rps=10.0, latency_mean_s=0.1)
    tail = stage_tail([point])
    rate_rps = largest_rate(point, 0.5, tail)
    assert 0 < rate_rps < 10
    below, above = tail(point, np.array([rate_rps, rate_rps + 2e-4]))
    assert below <= 0.5 < above
    assert largest_rate(point, 0.05, tail) == 0.0
    assert largest_rate(point, 2.0, tail) > rate_rps > largest_rate(point, 0.3, tail)


def test_the_planner_agrees_on_what_one_replica_carries() -> None:
    slow = OperatingPoint("v", 0.8, 4, 1.0, latency_s=0.3, capacity_rps=12.0, latency_mean_s=0.25)
    points = (OperatingPoint("v", 0.8, 1, 1.0, latency_s=0.12, capacity_rps=8.0, latency_mean_s=0.1), slow)
    for point in points:
        rate_rps = largest_rate(point, 0.7, stage_tail(points, 0.05))
        pin = Pin(batch_size=point.batch_size, replicas=1)
        stage = StageProblem("s", points, batch_timeout_s=0.05, pin=pin)
        for factor, feasible in ((1.0, True), (1.001, False)):
            asked = PlanningProblem("p", rate_rps * factor, 0.7, (stage,), Objective(), compat=Compat.TAIL)
            assert (solve(asked, "exact", explain=False).objective is not None) == feasible, point


def test_a_rate_counts_only_where_every_smaller_one_meets_the_slo_too() -> None:
    point = POINTS[1]
    # Full batches of four form too slowly at low rates unless a timeout sends them.
    assert largest_rate(point, 1.0, stage_tail(POINTS)) == 0.0
    assert largest_rate(point, 1.0, stage_tail(POINTS, 0.05)) > 0.0


def test_levels_without_more_capacity_are_not_worth_choosing() -> None:
    capacities_rps = {1.0: 5.0, 2.0: 4.0, 3.0: 8.0, 4.0: 8.0}
    levels = tuple(CoreLevel(cores, rate_rps) for cores, rate_rps in capacities_rps.items())
    variant = SetVariant("v", 0.5, levels, min_cores=2.0)
    assert [level.cores for level in variant.usable] == [2.0, 3.0]
