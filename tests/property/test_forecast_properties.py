"""Whatever the load, a forecast is a finite, ordered pair of rates near what was seen."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipa.forecast.base import Series, prepare
from ipa.forecast.boosted import Boosted, TreeGrowth, learn
from ipa.forecast.ladder import CLAMP_FACTOR, forecast
from ipa.forecast.level import Level
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.model.observation import RATE_SHARES, LoadHistory
from tests.amounts import many

RUNGS = (Level(), WindowMaximum(), LastValue())

# Grown on three hours of noise: what it says is not the point here.
BOOSTED = Boosted(
    learn(
        Series(1.0, np.random.default_rng(1).poisson(20, 10_800).astype(np.float64), 1.0),
        20.0,
        0.9,
        TreeGrowth(trees=20, leaves=7),
    )
)

rates = st.one_of(
    st.none(),
    st.floats(0, 50),
    st.sampled_from([0.0, -1.0, 1e-9, 1e9, math.nan, math.inf]),
)


def _poisson(seed: int) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(count) for count in generator.poisson(generator.uniform(0, 100), 150)]


loads = st.builds(
    LoadHistory,
    step_s=st.sampled_from([0.5, 1.0, 5.0, 10.0, 60.0]),
    rates_rps=st.one_of(
        st.lists(rates, min_size=1, max_size=30),
        st.integers(0, 2**32 - 1).map(_poisson),
    ).map(tuple),
    averaged_s=st.sampled_from([0.0, 5.0, 30.0]),
)


@settings(max_examples=many(75))
@given(loads, st.floats(1, 120), st.floats(0.5, 0.999))
def test_forecasts_are_finite_ordered_and_near_what_was_seen(
    load: LoadHistory, horizon_s: float, quantile: float
) -> None:
    assume(any(rate is not None and math.isfinite(rate) and rate >= 0 for rate in load.rates_rps))
    answer = forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=RUNGS)
    series = prepare(load)
    highest = float(series.rates_rps.max())
    assert 0 <= answer.point_rps <= answer.upper_rps
    limit = CLAMP_FACTOR * (highest + series.noise_rps(highest)) * (1 + 1e-9)
    assert answer.upper_rps <= limit
    assert len(answer.rates_rps) == len(RATE_SHARES)
    assert answer.rates_rps[0] >= 0 and answer.rates_rps[-1] <= limit
    assert list(answer.rates_rps) == sorted(answer.rates_rps)
    assert 0 < answer.quality_ratio <= 1
    # Every rung either has a part or says why it has none; a tiny part is not told.
    left_out = {reason.split(":")[0] for reason in answer.steps_down}
    weighted = [name for name, _ in answer.weights]
    assert weighted[0] == answer.rung and not left_out & set(weighted)
    assert left_out | set(weighted) <= {rung.name for rung in RUNGS}
    assert answer == forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=RUNGS)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(1.5, 4))
def test_more_load_is_never_forecast_as_less(seed: int, factor: float) -> None:
    """Scaling a load up scales its forecast up: no rung may save where there is more to do."""
    counts = _poisson(seed)
    assume(max(counts) > 0)
    small, large = (
        forecast(
            LoadHistory(1.0, tuple(each * count for count in counts)),
            horizon_s=20.0,
            quantile=0.95,
            rungs=(Level(), LastValue()),
        )
        for each in (1.0, factor)
    )
    assume(small.rung == large.rung)
    assert large.point_rps >= small.point_rps
    assert large.upper_rps >= small.upper_rps


SPOILED = st.lists(
    st.tuples(st.integers(0, 699), st.sampled_from([None, 0.0, -1.0, 1e-12, 1e9, math.nan, math.inf])),
    max_size=40,
)


@settings(max_examples=many(30))
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 1.0, 60.0, 1e6]), SPOILED, st.booleans())
def test_the_boosted_rung_gives_rates_whatever_the_load(
    seed: int, scale: float, spoiled: list[tuple[int, float | None]], is_timed: bool
) -> None:
    """Finite, ordered, never negative, and in the ladder never beyond what was seen times the factor."""
    rates: list[float | None] = [float(count) for count in np.random.default_rng(seed).poisson(scale, 700)]
    for at, value in spoiled:
        rates[at] = value
    load = LoadHistory(1.0, tuple(rates), end_s=5e8 if is_timed else None)
    series = prepare(load, 1.0)
    if series.length_s >= 600:
        peak = BOOSTED.peak(series, 20.0, 0.9)
        assert 0 <= peak.point_rps <= peak.upper_rps < math.inf
    answer = forecast(load, horizon_s=20.0, quantile=0.9, rungs=(BOOSTED, LastValue()), smooth_s=1.0)
    highest = float(series.rates_rps.max())
    assert 0 <= answer.point_rps <= answer.upper_rps
    assert answer.upper_rps <= CLAMP_FACTOR * (highest + series.noise_rps(highest)) * (1 + 1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_boosted_rung_answers_the_same_for_one_moment_and_for_many(seed: int) -> None:
    generator = np.random.default_rng(seed)
    series = prepare(
        LoadHistory(1.0, tuple(map(float, generator.poisson(generator.uniform(1, 100), 900)))), 1.0
    )
    moments = np.sort(generator.choice(np.arange(600, 901), 5, replace=False))
    points, uppers = BOOSTED.peaks(series, moments, 20.0, 0.9)
    for moment, point, upper in zip(moments.tolist(), points.tolist(), uppers.tolist(), strict=True):
        alone = BOOSTED.peak(series.between(moment - 600, moment), 20.0, 0.9)
        assert (alone.point_rps, alone.upper_rps) == (point, upper)
