"""Whatever the load, a forecast is a finite, ordered pair of rates near what was seen."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipa.forecast.base import prepare
from ipa.forecast.ladder import CLAMP_FACTOR, forecast
from ipa.forecast.learned import Learned, QuantileWeights
from ipa.forecast.reactive import LastValue, WindowMaximum
from ipa.forecast.seasonal import Seasonal
from ipa.model.observation import LoadHistory

WEIGHTS = QuantileWeights(20.0, 0.95, (0.0,) * 11 + (1.0, 0.0, 0.0), (0.0,) * 11 + (1.2, 0.0, 0.0))
RUNGS = (Learned(WEIGHTS), Seasonal(season_s=30.0), Seasonal(), WindowMaximum(), LastValue())

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


@settings(max_examples=150)
@given(loads, st.floats(1, 120), st.floats(0.5, 0.999))
def test_forecasts_are_finite_ordered_and_near_what_was_seen(
    load: LoadHistory, horizon_s: float, quantile: float
) -> None:
    assume(any(rate is not None and math.isfinite(rate) and rate >= 0 for rate in load.rates_rps))
    answer = forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=RUNGS)
    series = prepare(load)
    highest = float(series.rates_rps.max())
    assert 0 <= answer.point_rps <= answer.upper_rps
    assert answer.upper_rps <= CLAMP_FACTOR * (highest + series.noise_rps(highest)) * (1 + 1e-9)
    assert 0 < answer.quality_ratio <= 1
    assert RUNGS[len(answer.steps_down)].name == answer.rung
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
            rungs=(Seasonal(), LastValue()),
        )
        for each in (1.0, factor)
    )
    assume(small.rung == large.rung)
    assert large.point_rps >= small.point_rps
    assert large.upper_rps >= small.upper_rps
