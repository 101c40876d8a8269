"""Steps, ramps, spikes and noise: capacity is there in time, and nothing flaps."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from ipa.control.engine.guards import total_cores
from ipa.model.decision import Action, ReasonCode
from ipa.model.observation import Missing, MissingReason
from ipa.model.plan import StageConfig, Termination
from tests.fakes.world import PIPELINE, Scenario, planner, profiled, scenario

START = (StageConfig("detect", "big", 1, 1.0, 1), StageConfig("read", "big", 1, 1.0, 1))


def carries(made: Scenario, rate_rps: float) -> bool:
    """True if the serving configuration has the throughput for the rate."""
    prediction = profiled().predict(made.workload.serving, rate_rps)
    return prediction is not None and prediction.carries


def ticks_until_carried(made: Scenario, rate_rps: float, limit: int) -> int:
    for tick in range(limit):
        if carries(made, rate_rps):
            return tick
        made.ticks(1)
        made.workload.read(PIPELINE)
    return limit


@pytest.mark.parametrize("high_rps", [20.0, 60.0, 150.0])
def test_after_a_step_capacity_is_there_within_two_ticks(high_rps: float) -> None:
    made = scenario(lambda t_s: 5.0 if t_s < 100 else high_rps, configs=START)
    made.run(100.0)
    assert not carries(made, high_rps)
    assert ticks_until_carried(made, high_rps, 10) <= 2


def test_a_ramp_is_followed() -> None:
    def ramp(t_s: float) -> float:
        return 5.0 + max(0.0, t_s - 60.0) * 0.3

    made = scenario(ramp, configs=START)
    made.run(60.0)
    short = 0
    for _ in range(60):
        made.ticks(1)
        made.workload.read(PIPELINE)
        short += not carries(made, ramp(made.clock.monotonic_s()))
    assert short <= 6, "ticks during which less ran than was asked for"


def test_a_spike_does_not_bring_the_capacity_down_before_it_is_over() -> None:
    made = scenario(lambda t_s: 60.0 if 100 <= t_s < 130 else 5.0, configs=START)
    made.run(105.0)
    assert made.workload.accepted
    made.workload.writes.clear()
    made.run(25.0)
    assert made.workload.writes == [] or carries(made, 60.0)
    made.run(90.0)
    assert made.workload.desired == START


def test_a_square_wave_faster_than_patience_keeps_the_capacity() -> None:
    made = scenario(lambda t_s: 40.0 if int(t_s // 15) % 2 else 5.0, configs=START)
    made.run(60.0)
    made.workload.writes.clear()
    made.run(600.0)
    assert made.workload.writes == []
    assert carries(made, 40.0)


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_make_it_flap(seed: int) -> None:
    source = random.Random(seed)
    noise = [source.gauss(0.0, 1.0) for _ in range(2000)]
    made = scenario(lambda t_s: max(0.0, 18.0 + 2.0 * noise[int(t_s)]), configs=START)
    made.run(120.0)
    made.workload.writes.clear()
    made.run(1200.0)
    accepted = made.workload.accepted
    grown = [total_cores(change.configs) - total_cores(change.previous) for change in accepted]
    turns = sum(a * b < 0 for a, b in pairwise(grown))
    assert turns <= 6, grown


def test_under_more_load_than_any_plan_carries_the_one_that_carries_most_runs() -> None:
    made = scenario(2000.0, configs=START)
    first, *_, last = made.ticks(8)
    assert first.action is Action.APPLY
    assert "exceeds every plan" in first.detail
    assert (last.action, last.reason) == (Action.HOLD, ReasonCode.INFEASIBLE)
    most = profiled().predict(made.workload.serving, 1.0)
    assert most is not None
    assert planner(PIPELINE, 1.1 * most.capacity_rps).termination is Termination.INFEASIBLE
    # Two steps: beside what ran there was no room for all of it at once.
    assert len(made.workload.writes) <= 3
    assert all(write.accepted for write in made.workload.writes)


def test_blindness_in_the_middle_of_a_spike_keeps_what_runs() -> None:
    def rate(t_s: float) -> float:
        return 60.0 if 100 <= t_s < 130 else 5.0

    made = scenario(rate, configs=START)
    made.run(115.0)
    high = made.workload.desired
    unseen = Missing(MissingReason.UNREACHABLE, "connection refused")
    made.metrics.fault = lambda _, signals: replace(signals, load=unseen)
    made.run(600.0)
    assert made.workload.desired == high != START
    made.metrics.fault = None
    (decision,) = made.ticks(1)
    assert decision.action is Action.APPLY


@pytest.mark.parametrize("rate", [lambda t_s: 0.0, lambda t_s: 1e-9], ids=["none", "almost none"])
def test_no_load_is_planned_for_with_the_least(rate: Callable[[float], float]) -> None:
    made = scenario(rate, configs=(START[0], StageConfig("read", "big", 8, 2.0, 4)))
    made.ticks(10)
    assert [config.batch_size for config in made.workload.desired] == [1, 1]
    assert total_cores(made.workload.desired) == 2.0
