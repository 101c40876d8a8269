"""Forecasts: files that are no models, wild answers, a cold start, and a load that was not learned."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ipa.control.loop.time_limit import MOST_LATE, TimeLimit
from ipa.forecast.base import Peak, prepare
from ipa.forecast.boosted import Boosted
from ipa.forecast.ladder import CLAMP_FACTOR, forecast, last_rung
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.observation import Forecast, LoadHistory
from tests.fakes.world import scenario
from tests.faults.table import Case
from tests.unit.forecast.test_forecast_ladder import NOISY, Scripted, ask
from tests.unit.forecast.test_forecast_mixture import ask as asked_of
from tests.unit.forecast.test_forecast_mixture import climbing, model

__all__ = ["model"]
NAN, INF = math.nan, math.inf
ladder = partial(forecast, horizon_s=10.0, quantile=0.95)
WILD = [Peak(NAN, NAN), Peak(NAN, 20.0), Peak(20.0, INF), Peak(-5.0, 20.0), Peak(-9.0, -1.0), Peak(2e3, 2e3)]


def test_f1_wild_answers_are_clamped_and_said(case: Case) -> None:
    series = prepare(LoadHistory(1.0, NOISY))
    highest = float(series.rates_rps.max())
    over = silent = 0
    for wild in WILD:
        lately = WindowMaximum().peak(series, 10, 0.95)
        below = ask(NOISY, rungs=(Scripted(wild, lately), WindowMaximum(), LastValue()))
        silent += below.rung != "window" or len(below.steps_down) != 1
        last = ask(NOISY, rungs=(Scripted(wild, wild),))
        most = CLAMP_FACTOR * (highest + series.noise_rps(highest))
        over += not (0 <= last.point_rps <= last.upper_rps <= most)
    case.note("answers not a number, negative, × 100", len(WILD))
    case.equal("decisions over the clamp", over, 0)
    case.equal("silent step-downs", silent, 0)


def test_f2_nothing_is_taken_away_in_the_warm_up(case: Case) -> None:
    rungs = {len(rates): ask(rates).rung for rates in (NOISY[:count] for count in (1, 3, 30, 120))}
    case.equal("rung of one second of load", rungs[1], "last")
    case.note("rungs by seconds of load", rungs)
    made = scenario(0.5)
    started = made.workload.desired
    made.ticks(2)
    fewer = [
        now
        for before, now in zip(started, made.workload.desired, strict=True)
        if now.replicas < before.replicas
    ]
    case.equal("stages with fewer replicas after two ticks", len(fewer), 0)


def test_f3_another_load_trips_the_rung(case: Case, model: Boosted) -> None:
    away = climbing(3, 1300, 150)

    def forecasts() -> Iterator[tuple[int, Forecast]]:
        # What it learned for twenty minutes, then more and more of the other load.
        for seen_s in range(0, 1300, 20):
            yield seen_s, asked_of((*climbing(4, 1300, 120), *away[:seen_s]), model)

    first = next((seen_s, answer) for seen_s, answer in forecasts() if answer.rung != "boosted")
    case.at_most("s of the other load until another has more weight", first[0], 600)
    case.note("says", ", ".join(f"{name} {weight:.0%}" for name, weight in first[1].weights))
    case.equal("rung meanwhile", first[1].rung, "window")


def test_f4_inference_that_takes_longer_than_a_tick_makes_none_late(case: Case) -> None:
    answers = threading.Event()

    made = scenario(5.0)

    def wait(done: threading.Event, seconds: float) -> bool:
        """Virtual seconds pass; what was let go answers before they are over."""
        if answers.is_set():
            return done.wait(60.0)
        made.clock.wait(seconds)
        return done.is_set()

    limit = TimeLimit("the forecaster", 1.0, wait)

    def in_time(load: LoadHistory) -> Forecast:
        def endless() -> Forecast:
            assert answers.wait(60.0), "nobody let it go on"
            return ladder(load)

        return limit.call(endless, partial(last_rung, ladder, load))

    loop = replace(made, forecaster=in_time).restarted("slow")
    loop.run(30 * loop.settings.tick_s)
    decided = [decision for decision in made.store.decisions("pages", limit=100) if decision.forecast]
    rungs = {decision.forecast.rung for decision in decided if decision.forecast}
    case.equal("late ticks", loop.loop.snapshot().skipped_ticks, 0)
    case.at_least("ticks that decided", len(decided), 30)
    case.equal("rung meanwhile", rungs, {"last"})
    case.equal("forecasts still running", limit.late, MOST_LATE)
    assert decided[-1].forecast and "no answer within 1 s" in decided[-1].forecast.steps_down[0]
    assert decided[0].forecast and "not asked" in decided[0].forecast.steps_down[0]
    answers.set()
    # Their threads end when they will; nothing waits for that.
    again = (in_time(LoadHistory(1.0, NOISY)) for _ in range(1_000_000))
    case.note("rung once it answers", next(answer.rung for answer in again if answer.rung != "last"))


def test_f5_the_ladder_reads_no_file(case: Case) -> None:
    answer = forecast(LoadHistory(1.0, NOISY), horizon_s=10.0, quantile=0.95)
    case.equal("forecast without a model file", answer.upper_rps > 0, True)
