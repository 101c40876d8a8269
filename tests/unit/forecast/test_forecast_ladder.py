"""The fall-back ladder: which rung answers, what is said, and that nothing wild comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pytest

from experiments.forecast.runner import RUNGS
from ipa.forecast.base import Peak, Series, prepare, slo_quantile
from ipa.forecast.boosted import Boosted
from ipa.forecast.ladder import CLAMP_FACTOR, DEFAULT_RUNGS, forecast
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.errors import DomainError
from ipa.model.observation import RATE_SHARES, Forecast, LoadHistory

RNG = np.random.default_rng(7)
NOISY = tuple(float(count) for count in RNG.poisson(20, 120))


def ask(rates: tuple[float | None, ...], **options: object) -> Forecast:
    return forecast(LoadHistory(1.0, rates), horizon_s=10.0, quantile=0.95, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Scripted:
    """A rung that answers what it is told to; `lately` holds for every series but the whole one."""

    answer: Peak
    lately: Peak
    whole: int = 120
    name: str = "scripted"
    max_gap_ratio: float = 0.2

    def min_history_s(self, horizon_s: float) -> float:
        return 0.0

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        return self

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        return self.answer if len(series.rates_rps) == self.whole else self.lately


@pytest.mark.parametrize(("ago_s", "point_rps"), [(10, 50.0), (11, 5.0)])
def test_the_maximum_of_ten_seconds_is_that_of_the_last_ten(ago_s: int, point_rps: float) -> None:
    (rung,) = (each for each in RUNGS if each.name == "maximum-10s")
    rates = tuple(50.0 if at == 60 - ago_s else 5.0 for at in range(60))
    assert rung.peak(prepare(LoadHistory(1.0, rates, averaged_s=5.0)), 20.0, 0.95).point_rps == point_rps


def test_a_full_window_is_answered_by_the_level() -> None:
    answer = ask(NOISY)
    assert answer.rung == "level"
    assert answer.quality_ratio == 1.0
    assert answer.steps_down == ()
    assert 15 < answer.point_rps < answer.upper_rps < 40


def test_a_rung_that_learns_from_the_load_says_how_much_it_lacks() -> None:
    answer = ask(NOISY, rungs=(Boosted(), *DEFAULT_RUNGS))
    assert answer.rung == "level"
    assert answer.steps_down == ("boosted: 120 s of load, needs 10610 s",)


@pytest.mark.parametrize(("length", "rung"), [(1, "last"), (29, "last"), (30, "level"), (40, "level")])
def test_too_little_history_steps_down(length: int, rung: str) -> None:
    answer = ask((None,) * (120 - length) + NOISY[:length])
    assert answer.rung == rung
    assert answer.quality_ratio == pytest.approx(length / 120)
    too_short = (f"level: {length} s of load, needs 30 s",)
    assert answer.steps_down == (too_short if rung == "last" else ())


@pytest.mark.parametrize(("lost", "rung"), [(0.0, "level"), (0.15, "level"), (0.3, "level"), (0.7, "last")])
def test_gaps_step_down(lost: float, rung: str) -> None:
    gaps = set(RNG.choice(np.arange(1, 120), round(lost * 120), replace=False).tolist())
    answer = ask(tuple(None if second in gaps else rate for second, rate in enumerate(NOISY)))
    assert answer.rung == rung
    assert answer.quality_ratio == pytest.approx(1 - round(lost * 120) / 120)
    assert answer.steps_down == (() if rung == "level" else (f"level: {lost:.0%} gaps, bears 50%",))


@pytest.mark.parametrize(
    ("wild", "reason"),
    [
        (Peak(math.nan, 20.0), "not a number"),
        (Peak(20.0, math.inf), "not a number"),
        (Peak(-1.0, 20.0), "negative"),
        (Peak(2000.0, 2000.0), "beyond"),
        (Peak(20.0, 2000.0), "beyond"),
    ],
)
def test_wild_answers_fall_one_rung_and_say_so(wild: Peak, reason: str) -> None:
    rung = Scripted(answer=wild, lately=WindowMaximum().peak(prepare(LoadHistory(1.0, NOISY)), 10, 0.95))
    answer = ask(NOISY, rungs=(rung, WindowMaximum(), LastValue()))
    assert answer.rung == "window"
    assert len(answer.steps_down) == 1
    assert reason in answer.steps_down[0]


def test_a_rung_that_was_wrong_lately_has_little_weight_though_its_answer_looks_fine() -> None:
    rung = Scripted(answer=Peak(22.0, 26.0), lately=Peak(2.0, 3.0))
    answer = ask(NOISY, rungs=(rung, WindowMaximum(), LastValue()))
    assert answer.rung == "window" and dict(answer.weights).get("scripted", 0.0) < 0.01
    right = replace(rung, lately=Peak(22.0, 26.0))
    assert dict(ask(NOISY, rungs=(right, WindowMaximum(), LastValue())).weights)["scripted"] > 0.4


@pytest.mark.parametrize("wild", [Peak(math.nan, math.nan), Peak(-5.0, math.inf), Peak(1e9, 1e9)])
def test_the_last_rung_answers_clamped(wild: Peak) -> None:
    answer = ask(NOISY, rungs=(Scripted(answer=wild, lately=wild),))
    highest = float(prepare(LoadHistory(1.0, NOISY)).rates_rps.max())
    assert 0 <= answer.point_rps <= answer.upper_rps <= CLAMP_FACTOR * (highest + 3)


def test_the_classes_are_the_distribution_around_the_point() -> None:
    answer = ask(NOISY)
    assert len(answer.rates_rps) == len(RATE_SHARES)
    assert list(answer.rates_rps) == sorted(answer.rates_rps)
    assert answer.rates_rps[0] < answer.point_rps < answer.rates_rps[-1]
    # The last two classes are a tenth, and the upper quantile is that of a twentieth.
    assert answer.rates_rps[-3] < answer.upper_rps <= answer.rates_rps[-1]


def test_no_rate_at_all_is_an_error() -> None:
    with pytest.raises(DomainError):
        ask((None,) * 120)


def test_values_that_are_no_rates_count_as_gaps() -> None:
    spoiled = (*NOISY[:-3], math.nan, -4.0, math.inf)
    answer = ask(spoiled)
    assert answer.quality_ratio == pytest.approx(117 / 120)
    assert answer.upper_rps < 60


def test_an_idle_load_forecasts_nothing() -> None:
    answer = ask((0.0,) * 120)
    assert (answer.point_rps, answer.upper_rps) == (0.0, 0.0)
    assert set(answer.rates_rps) == {0.0}


def test_a_constant_load_forecasts_itself() -> None:
    answer = ask((20.0,) * 120)
    assert answer.point_rps == pytest.approx(20.0, rel=0.15)
    assert answer.upper_rps < 26


@pytest.mark.parametrize(
    ("percentile", "quantile"), [(99.0, 0.95), (98.0, 0.9), (99.5, 0.975), (99.9999, 0.999), (50.0, 0.5)]
)
def test_fewer_peaks_may_be_above_the_quantile_of_a_stricter_slo(percentile: float, quantile: float) -> None:
    assert slo_quantile(0.95, percentile) == pytest.approx(quantile)


def test_means_are_not_smoothed_twice() -> None:
    sums = np.convolve(NOISY, np.full(5, 0.2), "valid")
    averaged = LoadHistory(1.0, tuple(sums.tolist()), averaged_s=5.0)
    assert prepare(averaged).rates_rps == pytest.approx(sums)
    assert prepare(LoadHistory(1.0, NOISY)).rates_rps[4:] == pytest.approx(sums)


def test_every_rung_of_the_default_ladder_answers_a_long_load() -> None:
    load = LoadHistory(1.0, tuple(float(count) for count in RNG.poisson(20, 800)))
    for rung in DEFAULT_RUNGS:
        answer = forecast(load, horizon_s=10.0, quantile=0.95, rungs=(rung, LastValue()))
        assert answer.rung == rung.name
        assert 15 < answer.point_rps <= answer.upper_rps < 40
