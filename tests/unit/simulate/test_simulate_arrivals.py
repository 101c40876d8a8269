"""Request times from rates, and rates by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ipa.forecast.arrivals import SPACINGS, WORKLOADS, request_times, steps, workload_rates
from ipa.model.errors import InputError

SHARED = Path(os.environ.get("IPA_SHARED_DATA", "../shared/data"))
# Mean, standard deviation, least and most of the papers' 1 200 seconds.
PUBLISHED = {
    "bursty": (12.03, 9.34, 3, 34),
    "steady_low": (5.06, 0.94, 3, 8),
    "steady_high": (28.84, 1.92, 23, 34),
    "fluctuating": (16.53, 9.36, 3, 34),
}


def test_even_requests_are_where_the_integral_reaches_halves() -> None:
    assert request_times([2.0, 0.0, 4.0], "even").tolist() == [0.25, 0.75, 2.125, 2.375, 2.625, 2.875]
    assert request_times([0.5, 0.5, 0.5, 0.5], "even") == pytest.approx([1.0, 3.0])
    # Bursts are at their second's start.
    assert request_times([2.0, 0.0, 0.5, 0.5], "burst").tolist() == [0.0, 0.0, 2.0]


def test_poisson_requests_depend_on_the_seed_and_stay_in_their_second() -> None:
    rates = steps((3.0, 100), (0.0, 50), (9.0, 100))
    times = request_times(rates, seed=1)
    assert np.array_equal(times, request_times(rates, seed=1))
    assert not np.array_equal(times, request_times(rates, seed=2))
    assert np.all(np.diff(times) >= 0)
    assert not np.any((times >= 100) & (times < 150))
    counts = np.bincount(times.astype(int), minlength=250)
    assert counts[:100].mean() == pytest.approx(3.0, abs=0.6)
    assert counts[150:].mean() == pytest.approx(9.0, abs=1.0)
    assert counts[150:].var() == pytest.approx(9.0, rel=0.4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("rates", [[], [0.0, 0.0]])
def test_no_rate_gives_no_requests(spacing: str, rates: list[float]) -> None:
    assert request_times(rates, spacing).tolist() == []


@pytest.mark.parametrize("rates", [[-1.0], [float("nan")], [float("inf")], [[1.0]]])
def test_rates_that_are_none_are_refused(rates: list) -> None:
    with pytest.raises(InputError, match="rates_rps"):
        request_times(rates)


def test_steps() -> None:
    assert steps((2.0, 2), (5.0, 1)).tolist() == [2.0, 2.0, 5.0]


@pytest.mark.parametrize("name", WORKLOADS)
def test_named_workloads_have_the_published_figures(name: str) -> None:
    mean, spread, least, most = PUBLISHED[name]
    rates = workload_rates(name)
    assert len(rates) == 1200
    assert rates.mean() == pytest.approx(mean, rel=0.02)
    assert rates.std() == pytest.approx(spread, rel=0.06)
    assert least <= rates.min()
    assert rates.max() <= most
    assert np.array_equal(rates, np.rint(rates))
    assert not np.array_equal(rates, workload_rates(name, seed=1))


@pytest.mark.parametrize("name", WORKLOADS)
def test_named_workloads_have_the_published_shape(name: str) -> None:
    path = SHARED / "ipa_workloads.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: set IPA_SHARED_DATA")
    published = np.array(json.loads(path.read_text())["patterns"][name], dtype=float)
    difference = (workload_rates(name) - published).reshape(40, 30).mean(axis=1)
    assert np.max(np.abs(difference)) <= 3.0
    assert np.mean(np.abs(difference)) <= 0.7


def test_a_workload_or_spacing_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="'odd'"):
        request_times([1.0], "odd")
    with pytest.raises(InputError, match="'calm'"):
        workload_rates("calm")
