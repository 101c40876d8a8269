"""The distribution of a forecast: normal at first, then as the rungs erred lately."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from ipa.forecast.base import Peak
from ipa.forecast.classes import NORMAL, PRIOR_ERRORS, distributed
from ipa.forecast.mixture import Judged, Past
from ipa.model.observation import RATE_SHARES

QUANTILE, DEVIATION_RPS = 0.95, 10.0
# Deviations of the quantile.
Z = NormalDist().inv_cdf(QUANTILE)
PEAK = Peak(100.0, 100.0 + Z * DEVIATION_RPS)
HIGHEST_RPS = 200.0


def rung(errors: int, point: float = 100.0, upper: float = PEAK.upper_rps) -> Judged:
    return Judged("level", PEAK, np.full(errors, point), np.full(errors, upper))


def classes_after(
    peaks: list[float], *rungs: Judged, peak: Peak = PEAK, highest_rps: float = HIGHEST_RPS
) -> tuple[float, tuple[float, ...]]:
    """The upper quantile and the classes after forecasts of PEAK, and those peaks."""
    heard = rungs or (rung(len(peaks)),)
    past = Past(np.arange(len(peaks)), np.array(peaks), 4)
    shares = [1 / len(heard)] * len(heard)
    return distributed(heard, shares, past, peak, QUANTILE, highest_rps)


def assert_same(one: tuple[float, tuple[float, ...]], other: tuple[float, tuple[float, ...]]) -> None:
    assert (one[0], *one[1]) == pytest.approx((other[0], *other[1]))


def mean_of(classes: tuple[float, ...]) -> float:
    return float(np.dot(RATE_SHARES, classes))


def test_without_past_errors_it_is_the_normal_distribution() -> None:
    upper_rps, classes = classes_after([])
    # The middle of the last fortieth below the quantile.
    assert (upper_rps - PEAK.point_rps) / DEVIATION_RPS == pytest.approx(
        NormalDist().inv_cdf(QUANTILE - 1 / 80)
    )
    assert list(classes) == sorted(classes) and len(set(classes)) == len(RATE_SHARES)
    assert mean_of(classes) == pytest.approx(PEAK.point_rps)
    # The mean of the highest 3 % of a normal distribution, of which the parts show a little less.
    last = NormalDist().pdf(NormalDist().inv_cdf(1 - RATE_SHARES[-1])) / RATE_SHARES[-1]
    assert (classes[-1] - PEAK.point_rps) / DEVIATION_RPS == pytest.approx(last, rel=0.05)
    assert (classes[-1] - PEAK.point_rps) / DEVIATION_RPS < NORMAL[-1]


def test_errors_like_those_of_the_normal_distribution_change_nothing() -> None:
    upper_rps, classes = classes_after((PEAK.point_rps + DEVIATION_RPS * NORMAL).tolist())
    assert upper_rps == pytest.approx(classes_after([])[0])
    assert classes == pytest.approx(classes_after([])[1])


def test_so_many_past_errors_count_as_much_as_the_normal_distribution() -> None:
    _, classes = classes_after([120.0] * int(PRIOR_ERRORS))
    assert mean_of(classes) == pytest.approx(110.0)


def test_errors_that_came_often_raise_the_upper_quantile() -> None:
    often, seldom = ([100.0] * (1000 - count) + [150.0] * count for count in (100, 10))
    assert classes_after(often)[0] == pytest.approx(150.0)
    assert classes_after(seldom)[0] < PEAK.upper_rps


def test_peaks_that_never_err_lower_it_but_not_below_the_point() -> None:
    upper_rps, classes = classes_after([100.0] * int(6 * PRIOR_ERRORS))
    assert PEAK.point_rps <= upper_rps < PEAK.upper_rps
    below, _ = classes_after([60.0] * int(50 * PRIOR_ERRORS))
    assert below == PEAK.point_rps
    assert mean_of(classes) == pytest.approx(PEAK.point_rps)


def test_a_single_surprise_shows_in_the_last_class_in_proportion() -> None:
    even = [100.0] * 79
    without, surprised, more = (classes_after([*even, last])[1] for last in (100.0, 150.0, 180.0))
    # One in eighty and the prior, of the 3 % of that class.
    share = 1 / (80 + PRIOR_ERRORS) / RATE_SHARES[-1]
    assert more[-1] - surprised[-1] == pytest.approx(30.0 * share)
    # It takes the place of a rate from the lower end of the class.
    assert 0.7 * 80.0 * share < more[-1] - without[-1] < 80.0 * share
    assert more[:-1] == pytest.approx(without[:-1], abs=3.0)


def test_no_error_raises_a_class_beyond_the_highest_rate_or_the_expected_one() -> None:
    wild = [100.0] * 50 + [100_000.0] * 30
    assert classes_after(wild)[1][-1] == pytest.approx(HIGHEST_RPS)
    assert classes_after(wild)[0] == pytest.approx(HIGHEST_RPS)
    # A load that rises is expected beyond what it was.
    upper_rps, classes = classes_after(wild, highest_rps=50.0)
    assert upper_rps == pytest.approx(PEAK.upper_rps)
    assert classes[-1] <= PEAK.point_rps + DEVIATION_RPS * NORMAL[-1]


def test_an_error_counts_in_deviations_of_its_forecast() -> None:
    """Forecasts of a tenth of the load, with a tenth of the spread, erred by a tenth."""
    peaks = [100.0] * 70 + [140.0] * 30
    small = rung(len(peaks), PEAK.point_rps / 10, PEAK.upper_rps / 10)
    assert_same(classes_after([each / 10 for each in peaks], small), classes_after(peaks))


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_rung_that_could_not_answer_does_not_count(lost: float) -> None:
    peaks = [100.0] * 70 + [140.0] * 30
    silent = rung(len(peaks), lost, lost)
    assert_same(classes_after(peaks, rung(len(peaks)), silent), classes_after(peaks))
    assert_same(classes_after(peaks, silent, silent), classes_after([]))


def test_a_spread_of_zero_leaves_the_point() -> None:
    """So do the errors of forecasts that had none."""
    sure = rung(3, 100.0, 100.0)
    upper_rps, classes = classes_after([100.0, 101.0, 90.0], sure, peak=Peak(100.0, 100.0))
    assert upper_rps == 100.0
    assert classes == pytest.approx((100.0,) * len(RATE_SHARES))


def test_rates_are_never_negative() -> None:
    peak = Peak(1.0, 1.0 + 5 * Z)
    upper_rps, classes = classes_after([0.0] * 30, peak=peak)
    assert min(classes) == 0.0
    assert upper_rps >= peak.point_rps
    idle = classes_after([0.0] * 30, rung(30, 0.0, 0.0), peak=Peak(0.0, 0.0), highest_rps=0.0)
    assert idle == (0.0, (0.0,) * len(RATE_SHARES))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.999])
def test_the_upper_quantile_is_never_below_the_point(quantile: float) -> None:
    peak = Peak(100.0, 110.0)
    heard = [Judged("level", peak, np.full(40, 100.0), np.full(40, 110.0))]
    past = Past(np.arange(40), np.linspace(60.0, 130.0, 40), 4)
    upper_rps, classes = distributed(heard, [1.0], past, peak, quantile, HIGHEST_RPS)
    assert upper_rps >= peak.point_rps
    assert np.isfinite(classes).all() and list(classes) == sorted(classes)
