"""The papers' LSTM: its arithmetic, what it learns, and what is said where PyTorch is absent."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.forecast import runner as forecasts
from experiments.forecast.lstm import LAGS, Lstm, LstmModel, Network, Training, learn
from ipa.experiment.reading import load_experiment
from ipa.experiment.runners import Experiment
from ipa.forecast.base import Series, prepare
from ipa.library import backtest
from ipa.model.errors import DomainError, UsageError
from ipa.model.observation import LoadHistory

LSTM = "experiments.forecast.lstm:make_lstm"
QUICK = Training(epochs=60, learning_rate=0.01, patience=10)
# A network of two units whose weights are of all sizes and signs.
RNG = np.random.default_rng(2)
SMALL = Network(
    *(RNG.normal(size=shape).astype(np.float32) for shape in ((8,), (2, 8), (8,), (2,), ()))  # type: ignore[arg-type]
)


def waves(seed: int, hours: float = 3.0) -> Series:
    """A swing of five minutes, seen through Poisson noise: the last maximum is always behind."""
    seconds = np.arange(round(hours * 3600))
    counts = np.random.default_rng(seed).poisson(30 + 20 * np.sin(2 * np.pi * seconds / 300))
    return prepare(LoadHistory(1.0, tuple(map(float, counts))), 1.0)


def test_the_network_is_an_lstm_with_relu() -> None:
    """Unit by unit as Hochreiter & Schmidhuber's cell with a gate for forgetting is written down."""

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    rows = RNG.uniform(0, 3, (4, LAGS))
    for row, predicted in zip(rows, SMALL.predict(rows), strict=True):
        hidden, cell = [0.0, 0.0], [0.0, 0.0]
        for value in row:
            pulls = [
                float(value * SMALL.kernel[at] + SMALL.bias[at])
                + sum(hidden[unit] * float(SMALL.recurrent[unit, at]) for unit in range(2))
                for at in range(8)
            ]
            for unit in range(2):
                entering, keeping, leaving = (sigmoid(pulls[gate * 2 + unit]) for gate in range(3))
                cell[unit] = keeping * cell[unit] + entering * max(pulls[6 + unit], 0.0)
                hidden[unit] = leaving * max(cell[unit], 0.0)
        expected = sum(hidden[unit] * float(SMALL.dense[unit]) for unit in range(2)) + float(SMALL.offset)
        assert predicted == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert len(SMALL.predict(np.zeros((0, LAGS)))) == 0


def test_answers_for_many_moments_are_those_for_each() -> None:
    rung, series = Lstm(LstmModel(20.0, 0.9, 1.3, SMALL)), waves(3, 0.2)
    moments = np.array([120, 121, 400, 700])
    points, uppers = rung.peaks(series, moments, 20.0, 0.9)
    for moment, point, upper in zip(moments.tolist(), points, uppers, strict=True):
        one = rung.peak(series.between(moment - 120, moment), 20.0, 0.9)
        assert (one.point_rps, one.upper_rps) == pytest.approx((point, upper))
    assert (uppers >= points).all()


def test_what_was_learned_for_another_question_answers_none() -> None:
    rung = Lstm(LstmModel(20.0, 0.9, 1.3, SMALL))
    for horizon_s, quantile in ((10.0, 0.9), (20.0, 0.95)):
        assert math.isnan(rung.peak(waves(3, 0.1), horizon_s, quantile).upper_rps)


def test_too_little_to_learn_from_is_an_error() -> None:
    with pytest.raises(DomainError, match=r"346 windows of 120 s without gaps to learn from; it needs 1000"):
        learn(waves(1, 3590 / 3600), 20.0, 0.9)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("without_torch")
def test_without_pytorch_the_extra_is_named() -> None:
    with pytest.raises(UsageError, match="lstm needs PyTorch, which is not installed") as caught:
        backtest([1.0] * 9, [LSTM])
    assert "pip install torch" in caught.value.hint
    with pytest.raises(UsageError, match="PyTorch"):
        learn(waves(1), 20.0, 0.9)


@pytest.fixture
def experiment(root: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setenv("IPA_SHARED_DATA", str(root / "nowhere"))
    path = root / "experiments" / "forecast" / "experiment.yaml"
    return load_experiment(path, pipelines_dir=root / "pipelines", profiles_dir=root / "profiles")


@pytest.mark.usefixtures("without_torch")
def test_an_experiment_says_that_it_is_left_out(experiment: Experiment) -> None:
    cells, notes = forecasts.cells(experiment)
    assert "lstm" not in {each.labels["forecaster"] for each in cells}
    assert [each for each in notes if each.startswith("Forecaster")] == [
        "Forecaster lstm is left out: the forecaster lstm needs PyTorch, which is not installed. "
        "Install it with: pip install torch"
    ]
