"""The built-in server's arithmetic, against figures that Prometheus gives."""

from __future__ import annotations

import math

import pytest

from ipa.adapters.prometheus.client import histogram_quantile, rate_within
from ipa.adapters.prometheus.queries import Key, Query, QueryShape, Selector, exact
from ipa.adapters.prometheus.scraper import MAX_SAMPLES, SampledSeries, SeriesStore

NOW_S = 10_000.0


def samples(*points: tuple[float, float]) -> SampledSeries:
    series = SampledSeries()
    for at_s, value in points:
        series.add(at_s, value)
    return series


@pytest.mark.parametrize(
    ("series", "at_s", "window_s", "rate_rps"),
    [
        (samples(*((second, 3.0 * second) for second in range(100))), 50.0, 5.0, 3.0),
        # Two samples are needed.
        (samples((1.0, 5.0)), 2.0, 5.0, None),
        (samples((1.0, 5.0), (2.0, 6.0)), 100.0, 5.0, None),
        # Sampled 10..20 of a window 0..30: 10 + 2.5 + 2.5 seconds of the 30, at 2 a second.
        (samples((10.0, 100.0), (15.0, 110.0), (20.0, 120.0)), 30.0, 30.0, 2 * (10 + 2.5 + 2.5) / 30),
        # At 2 a second the counter was zero half a second before its first sample.
        (samples((10.0, 1.0), (11.0, 3.0), (12.0, 5.0)), 12.0, 3.0, 2 * (2 + 0.5) / 3),
        # A reset.
        (samples((0.0, 100.0), (1.0, 104.0), (2.0, 3.0), (3.0, 7.0)), 3.0, 3.0, (4 + 3 + 4) / 3),
    ],
)
def test_a_rate_is_extrapolated_as_prometheus_does(
    series: SampledSeries, at_s: float, window_s: float, rate_rps: float | None
) -> None:
    extrapolated = series.rate(at_s, window_s)
    assert extrapolated == (None if rate_rps is None else pytest.approx(rate_rps))


def test_a_clock_set_back_adds_no_sample() -> None:
    series = samples((10.0, 1.0), (9.0, 2.0), (10.0, 3.0), (11.0, 4.0))
    assert series.times_s == [10.0, 11.0]


def test_samples_are_bounded() -> None:
    series = samples(*((float(second), 0.0) for second in range(10 * MAX_SAMPLES)))
    assert MAX_SAMPLES <= len(series.times_s) <= 2 * MAX_SAMPLES
    assert series.times_s[-1] == 10 * MAX_SAMPLES - 1


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.5, 0.1), (0.95, 0.2), (0.99, 0.44), (0.25, 0.05), (1.0, 0.5)]
)
def test_quantile_is_interpolated_in_its_bucket(quantile: float, expected: float) -> None:
    buckets = {0.1: 5.0, 0.2: 9.5, 0.5: 10.0, math.inf: 10.0}
    assert histogram_quantile(quantile, buckets) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.05, 2.5), (0.1, 5.0), (0.15, 7.25), (0.35, 9.75), (0.5, 10.0), (9.0, 10.0)]
)
def test_the_rate_within_a_limit_is_interpolated_in_its_bucket(limit: float, expected: float) -> None:
    assert rate_within({0.1: 5.0, 0.2: 9.5, 0.5: 10.0, math.inf: 12.0}, limit) == pytest.approx(expected)
    assert rate_within({}, limit) == 0.0


def test_quantile_above_the_largest_bound_is_that_bound() -> None:
    assert histogram_quantile(0.9, {0.1: 5.0, 0.5: 6.0, math.inf: 10.0}) == 0.5


@pytest.mark.parametrize("buckets", [{}, {math.inf: 3.0}, {0.1: 0.0, math.inf: 0.0}, {0.1: 1.0, 0.2: 2.0}])
def test_quantile_of_nothing_is_not_a_number(buckets: dict[float, float]) -> None:
    assert math.isnan(histogram_quantile(0.9, buckets))


@pytest.fixture
def store() -> SeriesStore:
    """Two targets of one pipeline, ten seconds."""
    store = SeriesStore()
    for second in range(11):
        at_s = NOW_S - 10 + second
        for target, factor in (("a", 1.0), ("b", 2.0)):
            labels = {"pipeline": "p", "stage": target}
            store.add(
                target,
                at_s - (0.5 if target == "b" else 0.0),
                [
                    ("arrivals", labels, 100 + factor * second),
                    ("length", labels, factor),
                    ("seconds_bucket", {**labels, "le": "0.1"}, 100 + factor * second / 2),
                    ("seconds_bucket", {**labels, "le": "1"}, 100 + factor * second),
                    ("seconds_bucket", {**labels, "le": "+Inf"}, 100 + factor * second),
                ],
            )
    return store


def answer(
    store: SeriesStore, shape: QueryShape, metric: str, *by: str, at_s: float = NOW_S, **labels: str
) -> dict[Key, float]:
    query = Query(shape, Selector(metric, exact(labels or {"pipeline": "p"})), by, 5.0)
    return {key: samples[-1][1] for key, samples in store.rows(query, at_s).items()}


def test_sums_over_series_and_by_label(store: SeriesStore) -> None:
    rate, gauge = QueryShape.RATE, QueryShape.GAUGE
    assert answer(store, rate, "arrivals") == {(): pytest.approx(3.0)}
    assert answer(store, rate, "arrivals", "stage") == pytest.approx({("a",): 1.0, ("b",): 2.0})
    assert answer(store, gauge, "length") == {(): 3.0}
    assert answer(store, gauge, "length", "stage", stage="b") == {("b",): 2.0}
    assert answer(store, rate, "arrivals", pipeline="other") == {}


def test_age_is_that_of_the_oldest_series(store: SeriesStore) -> None:
    assert answer(store, QueryShape.AGE, "arrivals", at_s=NOW_S + 2) == {(): 2.5}
    ages = answer(store, QueryShape.AGE, "arrivals", "stage", at_s=NOW_S + 2)
    assert ages == {("a",): 2.0, ("b",): 2.5}


def test_what_a_target_shows_no_more_is_gone(store: SeriesStore) -> None:
    store.add("a", NOW_S + 1, [])
    gauge = QueryShape.GAUGE
    assert answer(store, gauge, "length", "stage", at_s=NOW_S + 1) == {("b",): 2.0}
    assert answer(store, gauge, "length", "stage") == {("a",): 1.0, ("b",): 2.0}
    store.add("b", NOW_S + 2 * MAX_SAMPLES, [])
    assert answer(store, gauge, "length", "stage") == {("b",): 2.0}


def test_samples_are_those_of_each_series_in_the_window(store: SeriesStore) -> None:
    query = Query(QueryShape.SAMPLES, Selector("arrivals", exact({"pipeline": "p"})), (), 5.0)
    rows = {key: samples for key, samples in store.rows(query, NOW_S).items() if "stage=a" in key}
    ((key, samples),) = rows.items()
    assert "pipeline=p" in key
    assert [at_s for at_s, _ in samples] == [NOW_S - 4 + step for step in range(5)]
