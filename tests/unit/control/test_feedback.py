"""The outer feedback: the load to plan for beyond the forecast, from the requests that were late."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.control.engine.actuation import accepted, begin, sent
from ipa.control.engine.feedback import (
    MOST,
    NO_FEEDBACK,
    Feedback,
    is_broken,
    loaded,
    planned_words,
    present_rps,
    recalled_feedback,
    regulated,
    risen_rps,
    waiting_requests,
)
from ipa.control.engine.guards import STEP, GuardSettings
from ipa.control.engine.state import EngineState
from ipa.control.engine.tick import on_tick
from ipa.control.ports import Rollout, RolloutPhase
from ipa.model.decision import Change
from ipa.model.observation import (
    Attainment,
    Forecast,
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.plan import StageConfig
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.policies.base import Prediction
from tests.fakes.world import SMALLEST, scenario

WINDOW_S, RATE_RPS, SLA_S = 15.0, 10.0, 1.0
RUNNING = StageConfig("detect", "small", 1, 1.0, 2)
SWITCHED = (replace(SMALLEST[0], variant="big"), SMALLEST[1])
ABSENT = Missing(MissingReason.ABSENT)
FORECAST = Forecast(10.0, 12.0, 0.95, 20.0, "window", 1.0)
SETTINGS = GuardSettings()


def observed(
    in_time_ratio: float, count: float = 150.0, waiting: float = 0.0, settled: bool = True
) -> Observation:
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
        settled=settled,
        attainment=Measured(Attainment(count, in_time_ratio, WINDOW_S)),
    )


def expecting(latency_s: float):  # type: ignore[no-untyped-def]
    """A predictor by which the running configuration takes so long."""
    return lambda configs, rate_rps, slowdowns=(): Prediction(rate_rps, 20.0, latency_s, SLA_S, 1.0, 0.9)


GOOD, OVERLOADED = expecting(0.4), expecting(2.0)


def after(
    ticks: int,
    observation: Observation,
    state: Feedback = NO_FEEDBACK,
    predict=GOOD,  # type: ignore[no-untyped-def]
    start_s: float = 0.0,
    in_flight: bool = False,
) -> Feedback:
    for tick in range(ticks):
        now_s = start_s + 10.0 * tick
        broken = is_broken(observation.attainment, 0.99, SETTINGS)
        state = regulated(
            state,
            observation,
            predict,
            now_s,
            in_flight=in_flight,
            broken=broken,
        )
    return state


def test_lateness_that_the_model_does_not_expect_raises_the_load_after_a_whole_window() -> None:
    late = observed(0.7)
    assert after(2, late).load_ratio == 1.0
    once = after(3, late)
    assert once.is_broken and once.load_ratio == pytest.approx(1.25)
    # The next window begins with the change, so not every tick raises it.
    assert after(4, late).load_ratio == pytest.approx(1.25)
    assert after(5, late).load_ratio == pytest.approx(1.25**2)
    assert after(3, observed(0.3)).load_ratio == pytest.approx(1.45)
    assert after(200, late).load_ratio == MOST


def test_what_the_model_expects_and_what_a_change_causes_raise_nothing() -> None:
    late = observed(0.7)
    for held in (
        after(20, late, predict=OVERLOADED),
        after(20, late, in_flight=True),
        after(20, observed(0.7, settled=False)),
    ):
        assert held.is_broken and held.load_ratio == 1.0
    unseen = replace(late, attainment=ABSENT)
    assert after(20, unseen) == replace(NO_FEEDBACK, since_s=0.0)


def test_the_ratio_falls_step_by_step_once_requests_were_in_time_for_a_while() -> None:
    raised = after(3, observed(0.7))
    assert after(5, observed(1.0), raised, start_s=30.0).load_ratio == raised.load_ratio
    falling = after(10, observed(1.0), raised, start_s=30.0).load_ratio
    assert 1.0 < falling < raised.load_ratio
    assert after(30, observed(1.0), raised, start_s=30.0).load_ratio == 1.0


@pytest.mark.parametrize(
    ("switches", "settled", "now_runs", "since_s"),
    [
        (("detect",), True, SWITCHED, 40.0),
        ((), True, SWITCHED, None),
        (("detect",), False, SWITCHED, None),
        (("detect",), True, SMALLEST, None),
    ],
    ids=["serves", "replicas are replaced", "is not settled", "is not read yet"],
)
def test_of_changes_in_flight_one_in_place_is_judged_from_its_write_on(
    switches: tuple[str, ...], settled: bool, now_runs: tuple[StageConfig, ...], since_s: float | None
) -> None:
    settings = GuardSettings(correct_profiles=True)
    request = scenario(5.0, settings=settings, configs=now_runs).loop._request(None, recover=False)
    change = Change("pages-1-run", "pages", "1", SMALLEST, SWITCHED, deadline_s=90.0)
    request = replace(
        request,
        observation=replace(request.observation, settled=settled),
        rolling=replace(SIDE_BY_SIDE, switches=switches),
        rollout=Rollout(RolloutPhase.PROGRESSING),
        now_s=50.0,
    )
    _, state = on_tick(request, EngineState(actuation=accepted(sent(begin(change, 40.0)))))
    assert state.feedback.since_s == since_s


def test_an_earlier_process_counted_on_another_clock() -> None:
    before = after(3, observed(0.7), start_s=2000.0)
    recalled = recalled_feedback(before, -2000.0)
    assert (recalled.load_ratio, recalled.since_s, recalled.late_s) == (before.load_ratio, None, 20.0)


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


def test_the_forecast_is_multiplied_in_steps() -> None:
    assert loaded(FORECAST, NO_FEEDBACK, observed(1.0, waiting=52.0)) is FORECAST
    forecast = loaded(FORECAST, Feedback(load_ratio=1.21, is_broken=True), observed(1.0))
    assert forecast.upper_rps == pytest.approx(12.0 * STEP**4)
    assert forecast.point_rps == pytest.approx(10.0 * STEP**4)


def test_what_waits_is_beyond_a_batch_for_each_replica() -> None:
    assert waiting_requests(observed(1.0, waiting=2.0)) == 0.0
    assert waiting_requests(observed(1.0, waiting=52.0)) == pytest.approx(50.0)


def rising(per_second: list[float], now_rps: float, averaged_s: int = 5) -> Observation:
    """Requests come so many a second, and are seen as means; late, so that the SLO is broken."""
    starts = range(len(per_second) - averaged_s + 1)
    means = tuple(sum(per_second[at : at + averaged_s]) / averaged_s for at in starts)
    load = LoadHistory(1.0, means, averaged_s=float(averaged_s))
    return replace(observed(0.5), arrival_rate_rps=Measured(now_rps), load=Measured(load))


def test_a_load_counts_that_rose_far_above_the_forecast() -> None:
    step = [20.0] * 10 + [160.0, 160.0]
    assert loaded(FORECAST, NO_FEEDBACK, rising(step, 76.0)).upper_rps == pytest.approx(160.0)
    # Foreseen, or a matter of chance.
    foreseen = replace(FORECAST, upper_rps=170.0)
    assert loaded(foreseen, NO_FEEDBACK, rising(step, 76.0)) is foreseen
    assert loaded(FORECAST, NO_FEEDBACK, rising([20.0] * 10 + [33.0], 22.6)) is FORECAST


def test_a_rate_that_is_scraped_seldom_rises_by_what_came_since_the_last_scrape() -> None:
    """Each fifth mean is new: 30 rps came in the last 5 s, and not 70 in the last one."""
    means = tuple(rate for rate in (20.0, 21.0, 19.0, 20.0, 30.0) for _ in range(5))[:-4]
    longer = LoadHistory(1.0, means, averaged_s=20.0)
    assert risen_rps(longer, 0.0) == pytest.approx(20.0 + 9.0 * 4)


def test_a_mean_that_rises_while_its_window_fills_is_no_rise() -> None:
    """So it does after the first scrapes of a server, and of what replaces what counted the load."""
    filling = (12.5, 13.3, 14.2, 15.0, 25.0)
    unknown = LoadHistory(1.0, (None,) * 3 + filling, averaged_s=6.0)
    assert risen_rps(unknown, 1.0) == 0.0
    whole = replace(unknown, rates_rps=(None, None, 12.5, *filling))
    assert risen_rps(whole, 1.0) > 25.0
    observation = replace(rising([20.0] * 10 + [160.0], 76.0), bridged_s=10.0)
    assert loaded(FORECAST, NO_FEEDBACK, observation) is FORECAST


def test_chance_is_no_rise_and_a_falling_load_none() -> None:
    for per_second in ([20.0] * 10 + [26.0], [20.0] * 10 + [0.0]):
        assert present_rps(rising(per_second, 21.0)) == 21.0
    # Rates that are no means, and gaps, leave the present rate.
    plain = replace(rising([20.0] * 6, 21.0), load=Measured(LoadHistory(1.0, (20.0, 200.0))))
    gap = replace(plain, load=Measured(LoadHistory(1.0, (20.0, None, 200.0), averaged_s=5.0)))
    assert present_rps(plain) == present_rps(gap) == 21.0


def test_the_ratio_that_is_planned_for_is_told_with_its_reason() -> None:
    words = "planned for 1.48 × the forecast, because requests were late although the model expected none"
    assert planned_words(Feedback(load_ratio=1.5)) == words
    assert planned_words(Feedback()) == ""
