"""How right forecasts were, against what came."""

from __future__ import annotations

import pytest

from ipa.forecast.quality import ForecastTick, monitor


def ticks(rates: list[float | None], point: float | None, upper: float | None) -> list[ForecastTick]:
    return [ForecastTick(10.0 * at, rate, point, upper) for at, rate in enumerate(rates)]


def test_a_forecast_is_held_against_the_highest_rate_within_its_horizon() -> None:
    found = monitor(ticks([1, 2, 8, 4, 4], 5, 6), 20.0)
    assert found is not None
    # Judged at 0, 10 and 20 s: the peaks after them are 8, 8 and 4.
    assert found.forecasts == 3
    assert found.covered_ratio == pytest.approx(1 / 3)
    assert found.error_ratio == pytest.approx((3 + 3 + 1) / 20)
    assert found.bias_ratio == pytest.approx((-3 - 3 + 1) / 20)


@pytest.mark.parametrize(
    ("rates", "point"),
    [([], 5.0), ([1.0, 2.0], 5.0), ([1.0, 2.0, 3.0, 4.0], None), ([1.0, None, None, None], 5.0)],
)
def test_nothing_is_said_where_nothing_can_be_judged(rates: list[float | None], point: float | None) -> None:
    assert monitor(ticks(rates, point, 6.0), 20.0) is None


def test_what_was_not_seen_is_left_out() -> None:
    found = monitor(ticks([1, None, 6, None, None], 6, 6), 20.0)
    assert found is not None
    assert (found.forecasts, found.covered_ratio, found.error_ratio) == (2, 1.0, 0.0)
