"""Gamma variables by table are gamma variables, in the body and in both tails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma, kstest

from ipa.simulate.service_noise import CELLS, ServiceNoise, gamma_table

SPREADS = (1e-4, 0.01, 0.1, 0.5, 1.0, 5.0)


@pytest.mark.parametrize("spread", SPREADS)
def test_the_knots_are_quantiles(spread: float) -> None:
    table, truth = gamma_table(spread), gamma(1 / spread, scale=spread)
    cells = np.arange(1, CELLS - 1)
    share = cells / CELLS
    for lines, shares, tail in (
        (table.body, share, truth.ppf),
        (table.least, share / CELLS, truth.ppf),
        (table.most, (1 - share) / CELLS, truth.isf),
    ):
        np.testing.assert_allclose(lines.at(cells.astype(float), cells), tail(shares), rtol=1e-4)


@pytest.mark.parametrize("spread", SPREADS)
def test_draws_have_the_distribution_and_its_moments(spread: float) -> None:
    count = 400_000
    drawn = gamma_table(spread).draw(np.random.default_rng(1), count)
    assert abs(drawn.mean() - 1) < 4 * np.sqrt(spread / count)
    # Of a gamma variable the kurtosis above the normal one is six times the spread.
    assert abs(drawn.var() / spread - 1) < 4 * np.sqrt((2 + 6 * spread) / count)
    assert kstest(drawn, gamma(1 / spread, scale=spread).cdf).pvalue > 1e-3


def test_the_tails_have_their_share() -> None:
    """Of the outermost cells, too, as many are beyond a quantile as its law says."""
    law, count = gamma(10, scale=0.1), 4_000_000
    drawn = gamma_table(0.1).draw(np.random.default_rng(2), count)
    for at in (1e-4, 1e-5):
        for outside in (np.count_nonzero(drawn < law.ppf(at)), np.count_nonzero(drawn > law.isf(at))):
            assert abs(outside - at * count) < 4 * np.sqrt(at * count)


def test_a_long_stream_goes_over_to_the_table_and_stays_the_same_however_it_is_taken() -> None:
    streams = [ServiceNoise((4,)), ServiceNoise((4,))]
    taken: list[list[np.ndarray]] = [[], []]
    for own, factors in zip(taken, streams, strict=True):
        number = factors.stream(0.3)
        for _ in range(20):
            factors.refill(number)
            own.append(factors.values[factors.next[number] : factors.last[number]].copy())
            if factors is streams[1]:
                factors.refill(factors.stream(0.2))  # another stream changes nothing
    one, other = (np.concatenate(own) for own in taken)
    assert np.array_equal(one, other)
    exact = np.random.default_rng((4, 0)).gamma(1 / 0.3, 0.3, len(one))
    same = int(np.argmin(one == exact))
    assert ServiceNoise.EXACT <= same < ServiceNoise.EXACT + ServiceNoise.BLOCK
    assert kstest(one[same:], gamma(1 / 0.3, scale=0.3).cdf).pvalue > 1e-3


def test_exponential_factors_stay_exact() -> None:
    factors = ServiceNoise((4,))
    number = factors.stream(1.0)
    taken = []
    for _ in range(20):
        factors.refill(number)
        taken.append(factors.values[factors.next[number] : factors.last[number]].copy())
    drawn = np.concatenate(taken)
    assert len(drawn) > ServiceNoise.EXACT + ServiceNoise.BLOCK
    assert np.array_equal(drawn, np.random.default_rng((4, 0)).gamma(1.0, 1.0, len(drawn)))
