"""The learned rung: linear quantile regression on lagged maxima, the input of IPA's LSTM."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ipa.forecast.base import SMOOTH_S, Floats, Ints, Rung, Series, sliding_max
from ipa.model.errors import DomainError

# IPA: a window of 120 s as twelve maxima over 10 s.
BLOCK_S = 10.0
LAGS = 12
# With fewer windows the regression has hardly more rows than weights.
MIN_WINDOWS = 120
# Windows overlap: one every tick of five seconds holds nearly all the information.
STRIDE_S = 5.0
# Spread over the history; more rows change the weights by less than the noise, and take many seconds.
MAX_WINDOWS = 2000
# L1 penalty on the weights, a window: features are near 1, so this only settles ties between the lags.
PENALTY = 1e-4


@dataclass(frozen=True, slots=True)
class QuantileWeights:
    """A fitted model: weights of lagged maxima, noise and 1, for the median and for the quantile."""

    horizon_s: float
    quantile: float
    point: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Learned(Rung):
    """Quantile regression on twelve lagged 10 s maxima, relative to their mean to fit any scale.

    Without weights it learns them from the history, once that holds MIN_WINDOWS windows.
    """

    weights: QuantileWeights | None = None
    name: str = "learned"
    max_gap_ratio: float = 0.2

    def min_history_s(self, horizon_s: float) -> float:
        """The lags; to learn, MIN_WINDOWS more windows and the minute that then judges it."""
        seen_s = BLOCK_S * LAGS
        return seen_s if self.weights else seen_s + horizon_s + MIN_WINDOWS * STRIDE_S

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return one with weights for this horizon and quantile; itself if it has them."""
        if self.weights is not None:
            return self
        return replace(self, weights=learn(series, horizon_s, quantile))

    def objection(self, series: Series, horizon_s: float, quantile: float) -> str:
        """The mismatch between the question and the weights' own; empty if there is none."""
        weights = self.weights
        if weights is None or (weights.horizon_s, weights.quantile) == (horizon_s, quantile):
            return ""
        return f"learned for {weights.horizon_s:g} s, quantile {weights.quantile:g}"

    def peaks(self, series: Series, counts: Ints, horizon_s: float, quantile: float) -> tuple[Floats, Floats]:
        """Points and upper quantiles after each of `counts` steps."""
        weights = self.weights or learn(series, horizon_s, quantile)
        if (weights.horizon_s, weights.quantile) != (horizon_s, quantile):
            # A wrong question must not get an answer: NaN makes the ladder step down.
            return np.full(len(counts), math.nan), np.full(len(counts), math.nan)
        features, scales = _features(series, counts)
        points, uppers = (scales * (features @ np.array(row)) for row in (weights.point, weights.upper))
        return points, np.maximum(points, uppers)


def learn(series: Series, horizon_s: float, quantile: float) -> QuantileWeights:
    """Weights of least pinball loss on the series' windows."""
    ahead = series.steps(horizon_s)
    ends = np.arange(series.steps(BLOCK_S) * LAGS, len(series.rates_rps) - ahead + 1, series.steps(STRIDE_S))
    if len(ends) > MAX_WINDOWS:
        ends = ends[np.linspace(0, len(ends) - 1, MAX_WINDOWS).round().astype(int)]
    features, scales = _features(series, ends)
    targets = sliding_max(series.rates_rps, ahead)[ends] / scales
    point, upper = (tuple(_regression(features, targets, level).tolist()) for level in (0.5, quantile))
    return QuantileWeights(horizon_s, quantile, point, upper)


def _regression(features: Floats, targets: Floats, level: float) -> Floats:
    """The weights of the features for that quantile; the last feature is 1 and free of penalty.

    Quantile regression is a linear program (Koenker & Bassett 1978). Its dual has a bounded variable a window
    and a row a feature, whose multipliers are the weights: a few times quicker than the program itself.
    """
    from scipy.optimize import linprog  # 0.3 s to import, seldom needed

    count = len(targets)
    lags = features[:, :-1].T
    penalties = np.full(2 * len(lags), count * PENALTY)
    program = linprog(
        -targets,
        A_ub=np.vstack([lags, -lags]),
        b_ub=penalties,
        A_eq=np.ones((1, count)),
        b_eq=np.zeros(1),
        bounds=(level - 1, level),
        method="highs-ds",
    )
    if not program.success:
        raise DomainError(f"no weights were found: {program.message}")
    signed = -program.ineqlin.marginals
    return np.append(signed[: len(lags)] - signed[len(lags) :], -program.eqlin.marginals)


def _features(series: Series, ends: Ints) -> tuple[Floats, Floats]:
    """For each end: its lagged maxima over their mean, the relative Poisson noise, and 1; and that mean."""
    rows = lagged_maxima(series, ends)
    scales: Floats = np.maximum(rows.mean(axis=1), 1.0 / SMOOTH_S)
    noise = np.sqrt(1 / (scales * series.smooth_s))
    return np.column_stack([rows / scales[:, None], noise, np.ones(len(ends))]), scales


def lagged_maxima(series: Series, ends: Ints) -> Floats:
    """The LAGS maxima over BLOCK_S before each of `ends`, oldest first: (n, LAGS)."""
    block = series.steps(BLOCK_S)
    lags = ends[:, None] - block * np.arange(LAGS, 0, -1)[None, :]
    return np.asarray(sliding_max(series.rates_rps, block)[lags])
