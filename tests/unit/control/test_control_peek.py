"""Between ticks the load is looked at; where more comes than was expected a tick comes early."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.control.ports import Signals
from ipa.model.decision import Mode, ReasonCode
from ipa.model.observation import Missing, MissingReason
from ipa.model.plan import StageConfig
from tests.fakes.metrics import Fault
from tests.fakes.world import Scenario, scenario

SETTINGS = GuardSettings(tick_s=10.0, peek_s=2.0, rollout_deadline_s=60.0)
# Of a load of 5 rps.
BEST = tuple(StageConfig(stage, "big", 1, 1.0, 1) for stage in ("detect", "read"))


def began(made: Scenario, seconds: float) -> list[float]:
    """The times of the ticks of so many seconds."""
    times: list[float] = []
    made.loop._hooks = (lambda decision, snapshot: times.append(made.clock.monotonic_s()),)
    made.run(seconds)
    return times


def jumping(
    settings: GuardSettings = SETTINGS, mode: Mode = Mode.ADVISORY, fault: Fault | None = None
) -> Scenario:
    """The load goes from 5 to 40 rps after 22 s; 5.5 at most were expected, and what runs carries 20."""
    return scenario(lambda t_s: 5.0 if t_s < 22 else 40.0, settings=settings, mode=mode, fault=fault)


def test_a_jump_of_the_load_brings_a_tick_and_later_ones_count_from_it() -> None:
    assert began(jumping(), 45.0) == [0.0, 10.0, 20.0, 22.0, 32.0, 42.0]


def test_the_early_tick_acts_on_the_jump() -> None:
    made = jumping(mode=Mode.ACTIVE)
    made.run(23.0)
    decision = made.loop.snapshot().decision
    assert decision is not None and decision.at.endswith("22+00:00")
    assert decision.forecast is not None and decision.forecast.point_rps == 40.0
    assert decision.reason is not ReasonCode.NO_CHANGE


@pytest.mark.parametrize("peek_s", [0.0, 10.0, 60.0])
def test_who_does_not_peek_ticks_on_time_only(peek_s: float) -> None:
    assert began(jumping(replace(SETTINGS, peek_s=peek_s)), 35.0) == [0.0, 10.0, 20.0, 30.0]


def test_a_steady_load_brings_no_tick() -> None:
    assert began(scenario(5.0, settings=SETTINGS, mode=Mode.ADVISORY), 35.0) == [0.0, 10.0, 20.0, 30.0]


def test_a_jump_that_what_runs_is_good_enough_for_brings_no_tick() -> None:
    made = scenario(lambda t_s: 5.0 if t_s < 22 else 6.0, settings=SETTINGS, mode=Mode.ADVISORY)
    assert began(made, 35.0) == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("amends", "ticks_s", "writes_s"),
    [(False, [0.0, 10.0, 12.0, 22.0, 32.0], [12.0]), (True, [0.0, 10.0, 12.0, 22.0, 26.0], [12.0, 26.0])],
)
def test_a_change_in_flight_is_waited_for_or_added_to(
    amends: bool, ticks_s: list[float], writes_s: list[float]
) -> None:
    loads = {12.0: 5.0, 26.0: 40.0}
    made = scenario(
        lambda t_s: next((rate for until_s, rate in loads.items() if t_s < until_s), 90.0),
        settings=SETTINGS,
        readiness_s=30.0,
        configs=BEST,
    )
    made.workload.rolling = replace(made.workload.rolling, amends=amends)
    assert began(made, 35.0) == ticks_s
    assert [write.at_s for write in made.workload.writes] == writes_s


def test_a_load_that_is_not_seen_brings_no_tick() -> None:
    def blind(now_s: float, signals: Signals) -> Signals:
        return replace(signals, load=Missing(MissingReason.UNREACHABLE)) if now_s > 20 else signals

    assert began(jumping(fault=blind), 35.0) == [0.0, 10.0, 20.0, 30.0]


def test_the_first_load_that_is_seen_brings_a_tick() -> None:
    missing = Missing(MissingReason.ABSENT)

    def new(now_s: float, signals: Signals) -> Signals:
        return replace(signals, arrival_rate_rps=missing, load=missing) if now_s < 13 else signals

    made = scenario(15.0, settings=SETTINGS, fault=new)
    assert began(made, 35.0) == [0.0, 10.0, 14.0, 24.0, 34.0]


@pytest.mark.parametrize(
    ("amends", "times"),
    [(True, [0.0, 10.0, 20.0, 22.0, 26.0, 36.0]), (False, [0.0, 10.0, 20.0, 22.0, 32.0, 42.0])],
)
def test_a_change_that_can_be_added_to_is_looked_at_while_it_rolls_out(
    amends: bool, times: list[float]
) -> None:
    made = scenario(
        lambda t_s: 5.0 if t_s < 22 else 40.0 if t_s < 25 else 90.0,
        settings=SETTINGS,
        readiness_s=1.0,
        configs=BEST,
    )
    made.workload.rolling = replace(made.workload.rolling, amends=amends)
    assert began(made, 45.0) == times
    assert [write.at_s for write in made.workload.writes] == times[3:]
