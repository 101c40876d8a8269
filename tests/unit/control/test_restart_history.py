"""A restart in the middle of a load: the history of the earlier process goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import floor

import pytest

from ipa.control.engine.observe import with_earlier
from ipa.control.ports import Signals
from ipa.forecast.ladder import forecast
from ipa.model.observation import Forecast, LoadHistory, Measured, Missing, MissingReason, Observation
from tests.fakes.world import PIPELINE, Scenario, scenario

RAMP = partial(lambda t_s: 2.0 + 0.05 * t_s)
WINDOW_S = 60
NOTHING = Missing(MissingReason.ABSENT, "no samples yet")


def world(down_s: float = 0.0) -> tuple[Scenario, list[float]]:
    """A loop whose metrics, like the built-in server's, know no load from before their own start."""
    started_s = [0.0]

    def own(now_s: float, signals: Signals) -> Signals:
        if isinstance(signals.load, Missing):
            return signals
        rates = [None] * WINDOW_S + list(signals.load.value.rates_rps)
        seen_s = floor(now_s - started_s[0])
        known = [rate if back <= seen_s else None for back, rate in enumerate(reversed(rates))]
        load = LoadHistory(1.0, tuple(known[WINDOW_S - 1 :: -1]), 0.0, 1000.0 + floor(now_s))
        return replace(signals, load=Measured(load))

    made = scenario(RAMP, fault=own, forecaster=partial(forecast, horizon_s=10.0, quantile=0.95))
    return made, started_s


def forecasts(restart_after: int | None, down_s: float = 0.0) -> list[Forecast]:
    made, started_s = world()
    decisions = made.ticks(restart_after or 20)
    if restart_after is not None:
        made.clock.wait(down_s)
        started_s[0] = made.clock.monotonic_s()
        made = made.restarted()
        decisions += made.ticks(20 - restart_after)
    return [each.forecast for each in decisions if each.forecast]


def figures(made: list[Forecast]) -> list[object]:
    return [(each.point_rps, each.upper_rps, each.weights) for each in made]


def test_a_restart_in_the_middle_of_a_ramp_changes_no_forecast() -> None:
    """The seconds since the last decision, which nobody has, are a gap in a straight line."""
    assert figures(forecasts(restart_after=10)[10:]) == figures(forecasts(restart_after=None)[10:])
    assert len({each.point_rps for each in forecasts(restart_after=None)}) == 20


def test_two_restarts_in_a_row_lose_nothing_either() -> None:
    """The second finds a newest decision that saw no load."""
    made, started_s = world()
    made.ticks(10)
    started_s[0] = made.clock.monotonic_s()
    healthy = made.metrics.fault
    made.metrics.fault = lambda now_s, signals: Signals(NOTHING, NOTHING, NOTHING)
    blind = made.restarted("blind")
    assert blind.ticks(1)[0].forecast is None
    made.metrics.fault = healthy
    restarted = [each.forecast for each in made.restarted().ticks(9) if each.forecast]
    assert figures(restarted) == figures(forecasts(restart_after=None)[11:])


def test_the_time_in_which_nobody_saw_the_load_stays_a_gap() -> None:
    made, started_s = world()
    made.ticks(10)
    made.clock.wait(7.0)
    started_s[0] = made.clock.monotonic_s()
    made = made.restarted()
    made.ticks(1)
    observation = made.loop.snapshot().observation
    assert observation is not None and isinstance(observation.load, Measured)
    now_s = made.clock.monotonic_s() - made.settings.tick_s
    rates = observation.load.value.rates_rps
    missing = [back for back, rate in enumerate(reversed(rates)) if rate is None and now_s >= back]
    # The last tick before was 12 s ago.
    assert missing == list(range(1, 12))
    assert all(
        rate is None or rate == pytest.approx(RAMP(now_s - back), abs=0.01)
        for back, rate in enumerate(reversed(rates))
    )


def load(rates: tuple[float | None, ...], end_s: float | None) -> Observation:
    history = LoadHistory(1.0, rates, 0.0, end_s)
    return Observation(PIPELINE.name, 0.0, Measured(1.0), Measured(history), NOTHING, ())


@pytest.mark.parametrize(
    ("end_s", "expected"),
    [
        (10.0, (1.0, 2.0, 3.0, 9.0)),
        (11.0, (2.0, 3.0, 4.0, 9.0)),
        (12.0, (3.0, 4.0, None, 9.0)),
        (99.0, (None, None, None, 9.0)),
        # A clock that was set back: what would be later than now is not taken.
        (9.0, (None, 1.0, 2.0, 9.0)),
        (None, (None, None, None, 9.0)),
    ],
)
def test_rates_are_put_at_their_time(end_s: float | None, expected: tuple[float | None, ...]) -> None:
    earlier = LoadHistory(1.0, (1.0, 2.0, 3.0, 4.0), 0.0, 10.0)
    joined = with_earlier(load((None, None, None, 9.0), end_s), earlier).load
    assert isinstance(joined, Measured)
    assert joined.value.rates_rps == expected


def test_rates_that_were_seen_are_left_as_they_are() -> None:
    earlier = LoadHistory(1.0, (1.0, 2.0, 3.0, 4.0), 0.0, 10.0)
    observation = load((8.0, None, 7.0, 9.0), 10.0)
    assert with_earlier(observation, earlier) == observation
    assert with_earlier(observation, None) == observation
