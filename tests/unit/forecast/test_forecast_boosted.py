"""The boosted rung: its learning and its features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.forecast import boosted
from ipa.forecast.base import Series, answers, prepare, sliding_max
from ipa.forecast.boosted import (
    BACK_S,
    COLUMNS,
    Boosted,
    BoostedModel,
    TreeGrowth,
    features,
    learn,
)
from ipa.forecast.ladder import forecast
from ipa.forecast.quality import score
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.errors import DomainError
from ipa.model.observation import LoadHistory

SMALL = TreeGrowth(trees=60, learning_rate=0.1, leaves=15, least_rows_in_leaf=20)
HOURS = 3600


def waves(seed: int, hours: float = 5.0) -> LoadHistory:
    """A swing of twenty minutes with a burst of half a minute at the start of every fifth."""
    seconds = np.arange(round(hours * HOURS))
    rates = 40 + 20 * np.sin(2 * np.pi * seconds / 1200) + 60 * (seconds % 300 < 30)
    counts = np.random.default_rng(seed).poisson(rates)
    return LoadHistory(1.0, tuple(map(float, counts)))


@pytest.fixture(scope="module")
def model() -> BoostedModel:
    return learn(prepare(waves(1), 1.0), 20.0, 0.9, SMALL)


def test_it_beats_the_last_maximum_and_covers_its_quantile(model: BoostedModel) -> None:
    series = prepare(waves(2), 1.0)
    moments = np.arange(700, len(series.rates_rps) - 20, 37)
    peaks = sliding_max(series.rates_rps, 20)[moments]
    own, last = (
        score(peaks, *answers(rung, series, moments, 20.0, 0.9, 120), 0.9)
        for rung in (Boosted(model), WindowMaximum())
    )
    assert own.smape_ratio < 0.8 * last.smape_ratio
    assert (own.fit_s, own.predict_ms) == (0.0, 0.0), "not measured"
    assert 0.86 <= own.coverage_ratio <= 0.94


def test_answers_for_many_moments_are_those_for_each_and_need_ten_minutes_only(model: BoostedModel) -> None:
    series, rung, back = prepare(waves(3), 1.0), Boosted(model), round(BACK_S)
    moments = np.array([600, 611, 5000, 17000])
    points, uppers = rung.peaks(series, moments, 20.0, 0.9)
    for moment, point, upper in zip(moments.tolist(), points, uppers, strict=True):
        one = rung.peak(series.between(moment - back, moment), 20.0, 0.9)
        assert (one.point_rps, one.upper_rps) == pytest.approx((point, upper))


def test_what_comes_later_changes_no_feature() -> None:
    series = prepare(waves(4), 1.0)
    spoiled = replace(series, rates_rps=np.concatenate((series.rates_rps[:9000], np.full(9000, 999.0))))
    ends = np.arange(600, 9001, 50)
    for each, other in zip(*(features(it, ends, 20) for it in (series, spoiled)), strict=True):
        assert np.array_equal(each, other)
    assert features(series, ends, 20)[0].shape == (len(ends), COLUMNS)


def test_learning_twice_gives_the_same_model(model: BoostedModel) -> None:
    again = learn(prepare(waves(1), 1.0), 20.0, 0.9, SMALL)
    series, moments = prepare(waves(3), 1.0), np.arange(600, 2000, 100)
    for mine, other in zip(
        *(Boosted(it).peaks(series, moments, 20.0, 0.9) for it in (model, again)), strict=True
    ):
        assert np.array_equal(mine, other)


def test_the_upper_quantile_is_calibrated_on_what_the_trees_have_not_seen() -> None:
    """The newest fifth is wilder: trees grown on the rest alone would cover too little of such a load."""
    generator = np.random.default_rng(6)
    spread = np.where(np.arange(5 * HOURS) < 4 * HOURS, 2.0, 12.0)
    series = Series(1.0, np.maximum(50 + spread * generator.normal(size=5 * HOURS), 0.0), 1.0)
    model = learn(series, 20.0, 0.9, SMALL)
    wild = Series(1.0, np.maximum(50 + 12 * generator.normal(size=2 * HOURS), 0.0), 1.0)
    moments = np.arange(600, 7100, 20)
    peaks = sliding_max(wild.rates_rps, 20)[moments]
    shifted, plain = (
        float((Boosted(each).peaks(wild, moments, 20.0, 0.9)[1] >= peaks).mean())
        for each in (model, replace(model, shift=0.0))
    )
    assert plain < 0.8
    assert 0.85 <= shifted <= 0.97


def test_a_load_it_was_not_taught_for_steps_down(model: BoostedModel) -> None:
    rungs = (Boosted(model), LastValue())
    load = LoadHistory(1.0, waves(9).rates_rps[:1200])
    assert forecast(load, horizon_s=20.0, quantile=0.9, rungs=rungs, smooth_s=1.0).rung == "boosted"
    for horizon_s, quantile, smooth_s in ((10.0, 0.9, 1.0), (20.0, 0.95, 1.0), (20.0, 0.9, 5.0)):
        answer = forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=rungs, smooth_s=smooth_s)
        assert answer.rung == "last"
        assert answer.steps_down == ("boosted: learned for 20 s, quantile 0.9, means over 1 s every 1 s",)


def test_too_little_to_learn_from_is_an_error() -> None:
    with pytest.raises(DomainError, match="windows of 600 s without gaps"):
        learn(prepare(waves(1, 1.0), 1.0), 20.0, 0.9, SMALL)


@pytest.mark.parametrize(("step_s", "horizon_s"), [(1.0, 300.0), (5.0, 5.0), (5.0, 55.0), (60.0, 120.0)])
def test_it_learns_for_any_step_and_horizon_up_to_half_of_what_it_sees(
    step_s: float, horizon_s: float
) -> None:
    rates = np.random.default_rng(1).poisson(20, round(20_000 / step_s) * (40 if step_s == 60 else 1))
    series = Series(step_s, rates.astype(np.float64), step_s)
    rung = Boosted(growth=replace(SMALL, trees=3)).fitted(series, horizon_s, 0.9)
    answer = rung.peak(series.between(0, series.steps(600.0)), horizon_s, 0.9)
    assert 15 < answer.point_rps <= answer.upper_rps < 45


def test_a_long_load_is_learned_from_windows_all_over_it(
    model: BoostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1100 of the 1700 windows teach nearly the same as all."""
    monkeypatch.setattr(boosted, "MAX_WINDOWS", 1100)
    fewer = learn(prepare(waves(1), 1.0), 20.0, 0.9, SMALL)
    series, moments = prepare(waves(3), 1.0), np.arange(600, 17_000, 100)
    points, others = (Boosted(it).peaks(series, moments, 20.0, 0.9)[0] for it in (model, fewer))
    assert 0 < np.mean(np.abs(others - points) / points) < 0.1


def test_a_horizon_beyond_what_it_sees_is_an_error() -> None:
    with pytest.raises(DomainError, match="beyond 300 s"):
        learn(prepare(waves(1), 1.0), 301.0, 0.9, SMALL)


def test_windows_with_gaps_are_not_learned_from() -> None:
    rates = list(waves(1).rates_rps)
    rates[100::700] = [None] * len(rates[100::700])  # type: ignore[list-item]
    with pytest.raises(DomainError, match="windows"):
        learn(prepare(LoadHistory(1.0, tuple(rates)), 1.0), 20.0, 0.9, SMALL)
