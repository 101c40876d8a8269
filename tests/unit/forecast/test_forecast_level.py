"""The level: even loads are taken for even, and a break is believed within two means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ipa.forecast.base import Series, prepare
from ipa.forecast.level import LENGTHS, SHORTEST_TREND, Level, _weights, _windows
from ipa.model.observation import LoadHistory

HORIZON_S, QUANTILE, SMOOTH_S = 20.0, 0.95, 5
EVEN_S = 600
SEEDS = range(12)


def drawn(rates: np.ndarray, seed: int) -> Series:
    counts = np.random.default_rng(seed).poisson(rates).astype(float)
    return prepare(LoadHistory(1.0, tuple(counts.tolist())))


def point_rps(rates: np.ndarray, seed: int) -> float:
    return Level().peak(drawn(rates, seed), HORIZON_S, QUANTILE).point_rps


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_a_rate_that_doubles_after_ten_even_minutes_is_believed_within_two_means(rate: float) -> None:
    def after(seconds: int) -> list[float]:
        rates = np.where(np.arange(EVEN_S + seconds) < EVEN_S, rate, 2 * rate)
        return [point_rps(rates, seed) / (2 * rate) for seed in SEEDS]

    # The first mean may be the part of a larger step that shows.
    assert min(after(SMOOTH_S)) > 1.0
    believed = after(2 * SMOOTH_S)
    assert min(believed) > 0.9 and max(believed) < 1.4
    assert 1.0 < np.mean(believed) < 1.25


@pytest.mark.parametrize(("rate", "most_ratio"), [(20.0, 0.7), (100.0, 0.2)])
def test_the_point_of_an_even_load_scatters_less_than_a_mean(rate: float, most_ratio: float) -> None:
    """A chance that few means show is taken for a change now and then, if the load is low."""
    points = [point_rps(np.full(EVEN_S, rate), seed) for seed in SEEDS]
    assert np.std(points) < most_ratio * math.sqrt(rate / SMOOTH_S)
    # The highest of the horizon's means is above the load by that much.
    assert np.mean(points) == pytest.approx(rate + 1.53 * math.sqrt(rate / SMOOTH_S), rel=0.05)


@pytest.mark.parametrize("last", [20.0, 40.0, 0.0, 1e6])
def test_the_weights_sum_to_one(last: float) -> None:
    means = np.append(np.random.default_rng(1).poisson(100, 60) / SMOOTH_S, last)
    weights = _weights(means, _windows(means, SMOOTH_S), SMOOTH_S)
    assert weights.shape == (len(means), len(LENGTHS))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (weights >= 0).all()


def test_after_a_break_the_last_two_means_have_the_weight() -> None:
    means = np.append(np.full(60, 20.0), 60.0)
    weights = _weights(means, _windows(means, SMOOTH_S), SMOOTH_S)
    assert weights[-2][[0, SHORTEST_TREND]].sum() < 0.1
    assert weights[-1][[0, SHORTEST_TREND]].sum() > 0.9


def test_the_windows_are_least_squares() -> None:
    means = np.random.default_rng(2).uniform(50, 100, 40)
    level, trend, *_ = _windows(means, SMOOTH_S)[:, -1]
    for place, length in enumerate(LENGTHS.tolist()):
        last = means[-length:]
        if place < SHORTEST_TREND:
            expected = 0.0, last.mean()
        else:
            slope, start = np.polyfit(np.arange(len(last)), last, 1)
            expected = slope, start + slope * (len(last) - 1)
        assert (trend[place], level[place]) == pytest.approx(expected)


@pytest.mark.parametrize("smooth_s", [1.0, 5.0, 30.0])
def test_a_past_answer_is_the_same_whatever_came_after_it(smooth_s: float) -> None:
    """Also further back than the longest window."""
    rates = drawn(40 + 20 * np.sin(np.arange(1000) / 50), 3).rates_rps
    counts = np.arange(40, 1001, 60)
    whole = Level().replay(Series(1.0, rates, smooth_s), counts, HORIZON_S, QUANTILE)
    for place, count in enumerate(counts.tolist()):
        alone = Level().peak(Series(1.0, rates[:count], smooth_s), HORIZON_S, QUANTILE)
        assert (alone.point_rps, alone.upper_rps) == pytest.approx((whole[0][place], whole[1][place]))
