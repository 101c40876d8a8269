"""A model learned once is watched: it steps down when the load is no longer its own, and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.forecast.base import Series
from ipa.forecast.boosted import Boosted, learn
from ipa.forecast.drift import DriftRule, history_s, standing, watch
from ipa.forecast.forest import TreeGrowth
from ipa.forecast.ladder import forecast
from ipa.forecast.learned import Learned
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory

RULE = DriftRule(every_s=10, mean_s=30, enter_ratio=1.2, leave_ratio=1.0, enter_s=40, leave_s=60)
ONE = np.ones(60)


def own(*parts: tuple[float, int]) -> np.ndarray:
    """Losses: each value so many times."""
    return np.concatenate([np.full(count, value) for value, count in parts])


def test_it_steps_down_only_after_long_enough() -> None:
    # The mean over three is above 1.2 from the first 2.0 on, and a run of four is asked for.
    assert not standing(own((0.8, 20), (3.0, 3)), ONE[:23], RULE).is_down
    down = standing(own((0.8, 20), (3.0, 4)), ONE[:24], RULE)
    assert down.is_down
    assert down.ratio == pytest.approx(3.0)


def test_between_the_bounds_it_stays_what_it_was() -> None:
    assert not standing(own((1.1, 60)), ONE, RULE).is_down
    assert standing(own((3.0, 10), (1.1, 50)), ONE, RULE).is_down


def test_it_is_back_after_long_enough() -> None:
    # Two more pass before the 3.0 have left the mean; then six are asked for.
    assert standing(own((3.0, 10), (0.9, 7)), ONE[:17], RULE).is_down
    assert not standing(own((3.0, 10), (0.9, 8)), ONE[:18], RULE).is_down


def test_a_single_fault_does_not_move_it() -> None:
    assert not standing(own((0.9, 20), (50.0, 1), (0.9, 20)), ONE[:41], RULE).is_down


def test_what_is_not_a_number_is_worst_and_nothing_wrong_is_equal() -> None:
    assert standing(own((np.nan, 60)), ONE, RULE).is_down
    assert standing(np.zeros(60), np.zeros(60), RULE).ratio == 1.0
    assert standing(ONE, np.zeros(60), RULE).is_down
    assert standing(ONE[:2], ONE[:2], RULE).ratio == 0.0


def climbing(seed: int, length: int, period: int) -> tuple[float, ...]:
    """A load that climbs for a period and falls back: what one period teaches is wrong for another."""
    rates = 30 + 60 * (np.arange(length) % period) / period
    return tuple(map(float, np.random.default_rng(seed).poisson(rates)))


@pytest.fixture(scope="module")
def model() -> Boosted:
    trace = np.array(climbing(1, 14_400, 120))
    return Boosted(learn(Series(1.0, trace, 1.0), 20.0, 0.9, TreeGrowth(60, 0.1, 15, 20)))


def ask(rates: tuple[float, ...], model: Boosted) -> Forecast:
    rungs = (model, WindowMaximum(), LastValue())
    return forecast(LoadHistory(1.0, rates), horizon_s=20.0, quantile=0.9, rungs=rungs, smooth_s=1.0)


def test_a_load_like_the_one_it_learned_keeps_it(model: Boosted) -> None:
    for seed in range(5):
        answer = ask(climbing(seed, 1300 + 17 * seed, 120), model)
        assert (answer.rung, answer.steps_down) == ("boosted", ())


def test_another_load_steps_down_and_says_so_and_its_own_brings_it_back(model: Boosted) -> None:
    away = climbing(3, 1300, 150)
    answer = ask(away, model)
    assert answer.rung == "window"
    assert "boosted: drifted" in answer.steps_down[0]
    assert "times the loss of window over 180 s" in answer.steps_down[0]
    assert ask((*away, *climbing(4, 1300, 120)), model).rung == "boosted"


def test_the_look_back_is_as_long_as_what_is_known(model: Boosted) -> None:
    assert history_s(600.0, 20.0) == 1220.0
    short = Series(1.0, np.array(climbing(5, 700, 120)), 1.0)
    assert watch(model, WindowMaximum(), short, 20.0, 0.9).ratio == 0.0
    long = Series(1.0, np.array(climbing(5, 1220, 120)), 1.0)
    assert 0 < watch(model, WindowMaximum(), long, 20.0, 0.9).ratio < 1


def test_the_rung_below_learns_only_from_before_what_it_is_judged_by(model: Boosted) -> None:
    """Were it taught by what it is then asked, it would seem better than it is."""
    seen: list[int] = []

    class Spy(Learned):
        __slots__ = ()

        def fitted(self, series: Series, horizon_s: float, quantile: float) -> Learned:  # type: ignore[override]
            seen.append(len(series.rates_rps))
            return Learned.fitted(self, series, horizon_s, quantile)

    series = Series(1.0, np.array(climbing(6, 1600, 120)), 1.0)
    watch(model, Spy(), series, 20.0, 0.9)
    assert seen == [1600 - 20 - 600]
