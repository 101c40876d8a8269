"""Late and waiting requests: when they are no chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.lateness import is_broken, waiting_requests
from ipa.model.observation import (
    Attainment,
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.plan import StageConfig

WINDOW_S, RATE_RPS = 15.0, 10.0
RUNNING = StageConfig("detect", "small", 1, 1.0, 2)
ABSENT = Missing(MissingReason.ABSENT)
SETTINGS = GuardSettings()


def observed(in_time_ratio: float, count: float = 150.0, waiting: float = 0.0) -> Observation:
    stage = StageObservation(
        "detect", Measured(RUNNING), Measured(2), Measured(RATE_RPS), ABSENT, Measured(waiting)
    )
    return Observation(
        "pages",
        0.0,
        Measured(RATE_RPS),
        Measured(LoadHistory(1.0, (RATE_RPS,) * 20)),
        Measured(0.5),
        (stage,),
        attainment=Measured(Attainment(count, in_time_ratio, WINDOW_S)),
    )


@given(st.floats(10, 1e4), st.floats(0.9, 1.0))
def test_chance_breaks_no_slo(count: float, in_time_ratio: float) -> None:
    """At its target the SLO is not broken, and one broken stays so with fewer in time."""
    assert not is_broken(observed(0.99, count).attainment, 0.99, SETTINGS)
    if is_broken(observed(in_time_ratio, count).attainment, 0.99, SETTINGS):
        assert is_broken(observed(in_time_ratio * 0.9, count).attainment, 0.99, SETTINGS)


@pytest.mark.parametrize(("late", "broken"), [(1, False), (2, True)])
def test_more_late_requests_than_chance_explains_break_the_slo(late: int, broken: bool) -> None:
    """At 99 % it explains 1.7 of ten."""
    assert is_broken(observed(1 - late / 10, 10.0).attainment, 0.99, SETTINGS) == broken


def test_few_or_old_requests_say_nothing() -> None:
    assert not is_broken(observed(0.0, count=9.0).attainment, 0.99, SETTINGS)
    stale = replace(observed(0.0), attainment=Measured(Attainment(150.0, 0.0, WINDOW_S), 60.0))
    assert not is_broken(stale.attainment, 0.99, SETTINGS)


def test_what_waits_is_beyond_a_batch_for_each_replica() -> None:
    assert waiting_requests(observed(1.0, waiting=2.0)) == 0.0
    assert waiting_requests(observed(1.0, waiting=52.0)) == pytest.approx(50.0)
