"""The papers' forecaster, for comparison: an LSTM on the last twelve 10 s maxima (IPA, InfAdapter).

It is no rung of the ladder. PyTorch trains its weights; inference is in numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipa.forecast.base import Floats, Ints, Peak, Series, conformal, sliding_max
from ipa.model.errors import DomainError, UsageError

Singles = NDArray[np.float32]

# IPA: a window of 120 s as twelve maxima over 10 s.
BLOCK_S = 10.0
LAGS = 12
# One window every adaptation interval, as IPA learns.
STRIDE_S = 10.0
# A fifth of fewer windows is too little for early stopping, and for calibrating an upper quantile.
MIN_WINDOWS = 1000
# The two newest parts of the trace are held out: a day each, but never more than a fifth.
HELD_OUT_RATIO = 0.2
HELD_OUT_S = 86400.0
# IPA's L1 penalty on the input weights.
PENALTY = 1e-5
# The least peak that errors are relative to, so that an idle load divides by nothing.
LEAST_RPS = 1.0
# Windows evaluated at once, so that they fit into the cache.
ROWS_AT_ONCE = 2048
SEED = 7
INSTALL = "Install it with: pip install torch"


@dataclass(frozen=True, slots=True)
class Training:
    """Training parameters: IPA's (its train.py), plus early stopping.

    After `patience` epochs without a lower error on the stopping windows, the best weights are taken.
    """

    units: int = 25
    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    patience: int = 3


TRAINING = Training()


@dataclass(frozen=True, slots=True)
class Network:
    """An LSTM with ReLU for its tanh, and a dense layer of one, as Keras has them.

    The columns of `kernel` (4·units,), `recurrent` (units, 4·units) and `bias` (4·units,) are those of the
    gates for input, forgetting and output, and of the candidate; `dense` is (units,), `offset` ().
    """

    kernel: Singles
    recurrent: Singles
    bias: Singles
    dense: Singles
    offset: Singles

    @classmethod
    def at_start(cls, units: int) -> Self:
        """Untrained weights, drawn as Keras draws them; the forget gate begins open."""
        rng = np.random.default_rng(SEED)
        orthogonal, upper = np.linalg.qr(rng.normal(size=(4 * units, units)))
        bias = np.zeros(4 * units)
        bias[units : 2 * units] = 1.0
        kernel, dense = (
            rng.uniform(-1, 1, count) * math.sqrt(6 / (inputs + outputs))
            for count, inputs, outputs in ((4 * units, 1, 4 * units), (units, units, 1))
        )
        recurrent = (orthogonal * np.sign(np.diag(upper))).T
        return cls(*(each.astype(np.float32) for each in (kernel, recurrent, bias, dense, np.zeros(()))))

    def weights(self) -> list[Singles]:
        """All weights, in the order of the fields."""
        return [self.kernel, self.recurrent, self.bias, self.dense, self.offset]

    def predict(self, rows: Floats) -> Floats:
        """One value for each row; `rows` are (n, lags), oldest first."""
        parts = [self._walk(rows[at : at + ROWS_AT_ONCE]) for at in range(0, len(rows), ROWS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _walk(self, rows: Floats) -> Floats:
        units = len(self.dense)
        driven = rows.astype(np.float32)[:, :, None] * self.kernel + self.bias
        hidden: NDArray[Any] = np.zeros((len(rows), units), dtype=np.float32)
        cell = hidden
        for step in range(rows.shape[1]):
            pulls = driven[:, step] + hidden @ self.recurrent
            # A sigmoid that never overflows.
            gates = 0.5 + 0.5 * np.tanh(0.5 * pulls[:, : 3 * units])
            candidate = np.maximum(pulls[:, 3 * units :], 0)
            cell = gates[:, units : 2 * units] * cell + gates[:, :units] * candidate
            hidden = gates[:, 2 * units :] * np.maximum(cell, 0)
        predicted: Floats = (hidden @ self.dense + self.offset).astype(np.float64)
        return predicted


@dataclass(frozen=True, slots=True)
class LstmModel:
    """A model trained for that horizon and quantile; `factor` times the point is the upper quantile."""

    horizon_s: float
    quantile: float
    factor: float
    network: Network


@dataclass(frozen=True, slots=True)
class Lstm:
    """IPA's network: unscaled rates, so a model fits a load of the size it was trained on.

    Without a model it trains one on the series, which takes a minute or two for a fortnight.
    """

    model: LstmModel | None = None
    training: Training = TRAINING
    name: str = "lstm"
    max_gap_ratio: float = 0.1

    def min_history_s(self, horizon_s: float) -> float:
        """The lags; to train, MIN_WINDOWS more windows."""
        seen_s = BLOCK_S * LAGS
        return seen_s if self.model else seen_s + horizon_s + MIN_WINDOWS * STRIDE_S

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return one with a model for this horizon and quantile; itself if it has one. Errors: as `learn`."""
        if self.model is not None:
            return self
        return replace(self, model=learn(series, horizon_s, quantile, self.training))

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The point and the calibrated quantile of the peak; NaN if the model is for another question."""
        fitted = self.fitted(series, horizon_s, quantile)
        points, uppers = fitted.peaks(series, np.array([len(series.rates_rps)]), horizon_s, quantile)
        return Peak(float(points[0]), float(uppers[0]))

    def peaks(self, series: Series, counts: Ints, horizon_s: float, quantile: float) -> tuple[Floats, Floats]:
        """The same after each of `counts` steps."""
        model = self.model
        if model is None or (model.horizon_s, model.quantile) != (horizon_s, quantile):
            return np.full(len(counts), math.nan), np.full(len(counts), math.nan)
        points = np.maximum(model.network.predict(lagged_maxima(series, counts)), 0.0)
        return points, np.maximum(points, model.factor * np.maximum(points, LEAST_RPS))


def make_lstm() -> Lstm:
    """The forecaster, not trained; UsageError if PyTorch is not installed."""
    require_torch()
    return Lstm()


def require_torch() -> None:
    """UsageError that names the package if PyTorch is not installed."""
    if find_spec("torch") is None:
        raise UsageError("the forecaster lstm needs PyTorch, which is not installed", hint=INSTALL)


def learn(series: Series, horizon_s: float, quantile: float, training: Training = TRAINING) -> LstmModel:
    """Train a model on the oldest part of a load, stop by the next part, and calibrate on the newest.

    Windows with gaps are left out; DomainError if that leaves fewer than MIN_WINDOWS. UsageError without
    PyTorch.
    """
    ahead, back = series.steps(horizon_s), series.steps(BLOCK_S) * LAGS
    total = len(series.rates_rps)
    ends = series.whole(np.arange(back, total - ahead + 1, series.steps(STRIDE_S)), back, ahead)
    if len(ends) < MIN_WINDOWS:
        raise DomainError(
            f"{len(ends)} windows of {BLOCK_S * LAGS:g} s without gaps to learn from; it needs {MIN_WINDOWS}",
            hint=f"Give a trace of at least {MIN_WINDOWS * STRIDE_S / 3600:.1f} h.",
        )
    rows, peaks = lagged_maxima(series, ends), sliding_max(series.rates_rps, ahead)[ends]
    held_out = min(series.steps(HELD_OUT_S), round(HELD_OUT_RATIO * total))
    newest = ends + ahead > total - held_out
    learned = ends + ahead <= total - 2 * held_out
    between = ~newest & ~learned
    network = trained(rows[learned], peaks[learned], rows[between], peaks[between], training)
    predicted_rps = np.maximum(network.predict(rows[newest]), LEAST_RPS)
    return LstmModel(horizon_s, quantile, conformal(peaks[newest] / predicted_rps, quantile), network)


def trained(rows: Floats, peaks: Floats, later: Floats, wanted: Floats, training: Training) -> Network:
    """The weights with the least squared error on `later` after any epoch over `rows`.

    On one thread and from numpy's random numbers, so that the same rows give the same weights.
    """
    require_torch()
    import torch  # seconds to import, seldom needed

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _descended(torch, rows, peaks, later, wanted, training=training)
    finally:
        torch.set_num_threads(threads)


def _descended(
    torch: Any, rows: Floats, peaks: Floats, later: Floats, wanted: Floats, *, training: Training
) -> Network:
    best = Network.at_start(training.units)
    weights = [torch.tensor(each, requires_grad=True) for each in best.weights()]
    # Keras' 1e-7, not PyTorch's 1e-8.
    adam = torch.optim.Adam(weights, lr=training.learning_rate, eps=1e-7)
    inputs, targets = (torch.tensor(each, dtype=torch.float32) for each in (rows, peaks))
    rng = np.random.default_rng(SEED)
    least, since = math.inf, 0
    for _ in range(training.epochs):
        order = torch.tensor(rng.permutation(len(rows)))
        for chosen in order.split(training.batch):
            errors = forward(torch, weights, inputs[chosen]) - targets[chosen]
            loss = (errors * errors).mean() + PENALTY * weights[0].abs().sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        network = Network(*(each.detach().numpy().copy() for each in weights))
        error = float(np.mean((network.predict(later) - wanted) ** 2))
        best, least, since = (network, error, 0) if error < least else (best, least, since + 1)
        if since >= training.patience:
            break
    return best


def forward(torch: Any, weights: list[Any], rows: Any) -> Any:
    """`Network.predict` in PyTorch, for differentiation."""
    kernel, recurrent, bias, dense, offset = weights
    units = len(dense)
    driven = rows.unsqueeze(2) * kernel + bias
    hidden = cell = torch.zeros(len(rows), units)
    for at in driven.unbind(1):
        pulls = torch.addmm(at, hidden, recurrent)
        gates = torch.sigmoid(pulls[:, : 3 * units])
        entering, keeping, leaving = gates.chunk(3, dim=1)
        cell = keeping * cell + entering * torch.relu(pulls[:, 3 * units :])
        hidden = leaving * torch.relu(cell)
    return hidden @ dense + offset


def lagged_maxima(series: Series, ends: Ints) -> Floats:
    """The LAGS maxima over BLOCK_S before each of `ends`, oldest first: (n, LAGS)."""
    block = series.steps(BLOCK_S)
    lags = ends[:, None] - block * np.arange(LAGS, 0, -1)[None, :]
    return np.asarray(sliding_max(series.rates_rps, block)[lags])
