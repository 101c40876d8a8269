"""The learned rung: what it learns, its model as JSON, and the measures it is judged by."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ipa.forecast.base import Series
from ipa.forecast.learned import LAGS, Learned, QuantileWeights, learn
from ipa.forecast.quality import score
from ipa.model.errors import InputError


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
    answers = [model.peak(load.until(moment), 10.0, 0.9) for moment in moments]
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


def test_the_model_survives_json(model: Learned) -> None:
    assert model.weights is not None
    assert QuantileWeights.from_json(model.weights.to_json()) == model.weights


def test_learning_twice_gives_the_same_weights() -> None:
    assert learn(sawtooth(4), 10.0, 0.9) == learn(sawtooth(4), 10.0, 0.9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "pickle"}, "format must be"),
        ({"point": [1.0] * LAGS}, "point must be a list of"),
        ({"upper": "many"}, "upper must be a list of"),
        ({"upper": [float("nan")] * (LAGS + 2)}, "upper has a value that is not a finite number"),
        ({"point": [True] * (LAGS + 2)}, "point has a value"),
        ({"horizon_s": 0}, "horizon_s must be"),
        ({"quantile": 1}, "quantile must be"),
    ],
)
def test_spoiled_models_are_refused(model: Learned, change: dict[str, Any], said: str) -> None:
    assert model.weights is not None
    data = json.loads(model.weights.to_json()) | change
    with pytest.raises(InputError, match=said):
        QuantileWeights.from_json(json.dumps(data), "model.json")


@pytest.mark.parametrize("text", ["", "{", "\x80\x04K\x01.", "[]", "null"])
def test_files_that_are_no_model_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        QuantileWeights.from_json(text)


def test_all_faults_of_a_model_are_said_at_once(model: Learned) -> None:
    assert model.weights is not None
    spoiled = replace(model.weights, point=(1.0,), horizon_s=-1.0)
    with pytest.raises(InputError) as caught:
        QuantileWeights.from_json(spoiled.to_json())
    assert len(caught.value.problems) == 2


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
