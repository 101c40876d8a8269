"""The learned rung: what it learns, its model as JSON, and the measures it is judged by."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.forecast.base import Series
from ipa.forecast.learned import Learned, learn
from ipa.forecast.quality import score


def sawtooth(seed: int, length: int = 2000) -> Series:
    """A load that climbs for two minutes and falls back: the last maximum is always behind."""
    rates = 20 + 40 * (np.arange(length) % 120) / 120
    noise = np.random.default_rng(seed).normal(0, 1, length)
    return Series(1.0, rates + noise, 5.0)


@pytest.fixture(scope="module")
def model() -> Learned:
    return Learned().fitted(sawtooth(1), 10.0, 0.9)


def test_it_learns_the_climb_and_covers_its_quantile(model: Learned) -> None:
    load = sawtooth(2)
    moments = range(120, 1900, 7)
    peaks = np.array([load.rates_rps[moment : moment + 10].max() for moment in moments])
    answers = [model.peak(load.between(0, moment), 10.0, 0.9) for moment in moments]
    points = np.array([answer.point_rps for answer in answers])
    uppers = np.array([answer.upper_rps for answer in answers])
    measured = score(peaks, points, uppers, 0.9)
    last = np.array([load.rates_rps[moment - 10 : moment].max() for moment in moments])
    assert 0.8 <= measured.coverage_ratio <= 0.98
    assert measured.smape_ratio < 0.8 * score(peaks, last, last, 0.9).smape_ratio


def test_it_is_the_same_at_any_scale(model: Learned) -> None:
    load = sawtooth(3, 300)
    # Ten times the rate at a tenth of the relative noise: the same shape, the same relative answer.
    larger = Series(1.0, 10 * load.rates_rps, 0.5)
    small, large = (model.peak(each, 10.0, 0.9) for each in (load, larger))
    assert large.upper_rps == pytest.approx(10 * small.upper_rps)


def test_learning_twice_gives_the_same_weights() -> None:
    assert learn(sawtooth(4), 10.0, 0.9) == learn(sawtooth(4), 10.0, 0.9)


def test_measures_are_those_of_their_definitions() -> None:
    peaks, points, uppers = (
        np.array([10.0, 20.0, 0.0]),
        np.array([10.0, 10.0, 0.0]),
        np.array([12.0, 15.0, 0.0]),
    )
    measured = score(peaks, points, uppers, 0.9)
    assert measured.mae_rps == pytest.approx(10 / 3)
    assert measured.smape_ratio == pytest.approx((20 / 30) / 3)
    assert measured.coverage_ratio == pytest.approx(2 / 3)
    assert measured.pinball_rps == pytest.approx((0.1 * 2 + 0.9 * 5) / 3)
    assert measured.upper_ratio == pytest.approx((1.2 + 0.75) / 2)
