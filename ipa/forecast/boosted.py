"""The boosted rung: quantiles of the peak by gradient boosting on minutes of load.

Trained rarely, on a trace of hours or days; its upper quantile is calibrated on held-out days. All features
are relative to the load's level.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipa.forecast.base import Floats, Ints, Rung, Series, conformal, sliding_max
from ipa.model.errors import DomainError

# A load's level is its mean over IPA's window; all features are relative to it, so any scale fits.
LEVEL_S = 120.0
# Bursts recur within minutes: their height in the last ten minutes predicts the next one.
BACK_S = 600.0
MEANS_S = (3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0)
MAXIMA_S = (20.0, 60.0, 120.0)
BLOCK_S = 10.0
BLOCKS = 12
SPREADS_S = (20.0, 120.0, 600.0)
# Spans over which the mean height of peaks over a horizon is taken.
PEAKS_S = (120.0, 300.0, 600.0)
LAST_STEPS = 5
COLUMNS = len(MEANS_S) + len(MAXIMA_S) + BLOCKS + len(SPREADS_S) + len(PEAKS_S) + LAST_STEPS + 1
# Keeps the logarithm of an idle second finite.
IDLE_RATIO = 0.01
DAY_S, HOUR_S = 86400.0, 3600.0


def levels(series: Series, ends: Ints) -> Floats:
    """The mean over the last LEVEL_S before each of `ends`, never 0."""
    sums = _prefix(series.rates_rps)
    width = series.steps(LEVEL_S)
    means: Floats = np.maximum((sums[ends] - sums[ends - width]) / width, 1.0 / LEVEL_S)
    return means


def features(series: Series, ends: Ints, ahead: int) -> tuple[Floats, Floats]:
    """The COLUMNS features of the BACK_S before each of `ends`, and its level."""
    rates = series.rates_rps
    scales = levels(series, ends)
    sums, squares = (_prefix(each) for each in (rates, rates * rates))
    columns: list[NDArray[Any]] = []

    def mean(prefix: Floats, width: int, last: Ints = ends) -> Floats:
        means: Floats = np.asarray((prefix[last] - prefix[last - width]) / width)
        return means

    def log_ratio(values: Floats) -> None:
        columns.append(np.log(values / scales + IDLE_RATIO))

    for seconds in MEANS_S:
        log_ratio(mean(sums, series.steps(seconds)))
    for seconds in MAXIMA_S:
        width = series.steps(seconds)
        log_ratio(sliding_max(rates, width)[ends - width])
    block = series.steps(BLOCK_S)
    blocks = sliding_max(rates, block)
    for lag in range(1, BLOCKS + 1):
        log_ratio(blocks[ends - lag * block])
    for seconds in SPREADS_S:
        width = series.steps(seconds)
        variance = np.maximum(mean(squares, width) - mean(sums, width) ** 2, 0.0)
        columns.append(np.sqrt(variance) / scales)
    peaks = _prefix(sliding_max(rates, ahead))
    for seconds in PEAKS_S:
        width = max(1, series.steps(seconds) - ahead)
        columns.append(mean(peaks, width, ends - ahead + 1) / scales)
    columns.extend(rates[ends - back] / scales for back in range(1, LAST_STEPS + 1))
    # Requests in the level's window: a measure of the counting noise.
    columns.append(np.log(scales * LEVEL_S))
    return np.column_stack(columns), scales


def _prefix(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate(([0.0], np.cumsum(values)))


@dataclass(frozen=True, slots=True)
class TreeGrowth:
    """Training parameters of trees; docs/explanation/forecasting.md says how the defaults were chosen."""

    trees: int = 200
    learning_rate: float = 0.06
    leaves: int = 31
    least_rows_in_leaf: int = 50


def grow(rows: Floats, targets: Floats, quantile: float, growth: TreeGrowth) -> Any:
    """Trees that estimate the quantile of the targets given the rows (gradient boosting, Friedman 2001).

    With a fixed seed, so that the same rows give the same trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor  # 0.8 s to import, seldom needed

    loss = {"loss": "absolute_error"} if quantile == 0.5 else {"loss": "quantile", "quantile": quantile}
    model = HistGradientBoostingRegressor(
        **loss,
        max_iter=growth.trees,
        learning_rate=growth.learning_rate,
        max_leaf_nodes=growth.leaves,
        min_samples_leaf=growth.least_rows_in_leaf,
        early_stopping=False,
        random_state=0,
    )
    with _one_thread():
        return model.fit(rows, targets)


def _one_thread() -> AbstractContextManager[Any]:
    """Keep scikit-learn to one thread: on two busy cores several would wait for each other far longer."""
    return _libraries().limit(limits=1)  # type: ignore[no-any-return]


# Looking for the libraries takes as long as a forecast.
@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # scikit-learn brings it

    return ThreadpoolController()


# One window every adaptation interval of IPA: closer ones are nearly the same.
STRIDE_S = 10.0
# With fewer windows it is worse than the linear rung.
MIN_WINDOWS = 1000
# Spread over the trace; a fortnight has this many.
MAX_WINDOWS = 120_000
# The newest part of the trace calibrates the upper quantile: a day, but never more than a fifth.
CALIBRATION_RATIO = 0.2
# Half of the input window: there would be no longer peaks to compare with.
LONGEST_S = BACK_S / 2
GROWTH = TreeGrowth()


@dataclass(frozen=True, slots=True)
class BoostedModel:
    """A trained model: trees (`grow`) of the log of peak over level, for median and quantile.

    `shift` is added to the upper quantile's log: split conformal calibration (Romano et al. 2019).
    """

    horizon_s: float
    quantile: float
    step_s: float
    smooth_s: float
    shift: float
    point: Any
    upper: Any


@dataclass(frozen=True, slots=True)
class Boosted(Rung):
    """Gradient boosted quantiles of the peak relative to the level, over ten minutes.

    Without a model it trains one on the series; that takes seconds to a minute, so the service gives it one.
    """

    model: BoostedModel | None = None
    growth: TreeGrowth = GROWTH
    name: str = "boosted"
    max_gap_ratio: float = 0.1

    def min_history_s(self, horizon_s: float) -> float:
        """Ten minutes; to train, MIN_WINDOWS more windows."""
        return BACK_S if self.model else BACK_S + horizon_s + MIN_WINDOWS * STRIDE_S

    def fitted(self, series: Series, horizon_s: float, quantile: float) -> Self:
        """Return one with a model for this horizon and quantile; itself if it has one. Errors: as `learn`."""
        if self.model is not None:
            return self
        return replace(self, model=learn(series, horizon_s, quantile, self.growth))

    def objection(self, series: Series, horizon_s: float, quantile: float) -> str:
        """The reason why the model does not fit the question or the load; empty if it does."""
        model = self.model
        if model is None:
            return ""
        question = (horizon_s, quantile, series.step_s, series.smooth_s)
        if question != (model.horizon_s, model.quantile, model.step_s, model.smooth_s):
            return (
                f"learned for {model.horizon_s:g} s, quantile {model.quantile:g}, means over "
                f"{model.smooth_s:g} s every {model.step_s:g} s"
            )
        return ""

    def peaks(self, series: Series, counts: Ints, horizon_s: float, quantile: float) -> tuple[Floats, Floats]:
        """Median and calibrated quantile after each of `counts` steps; NaN if there is an objection."""
        model = self.model
        if model is None or self.objection(series, horizon_s, quantile):
            # A wrong question must not get an answer: NaN makes the ladder step down.
            return np.full(len(counts), math.nan), np.full(len(counts), math.nan)
        rows, scales = features(series, counts, series.steps(horizon_s))
        with _one_thread():
            predicted = model.point.predict(rows), model.upper.predict(rows) + model.shift
        points, uppers = (np.maximum(scales * (np.exp(logs) - IDLE_RATIO), 0.0) for logs in predicted)
        return points, np.maximum(points, uppers)


def newest_steps(series: Series) -> int:
    """The steps at the end of a trace on which no upper quantile is trained."""
    return min(series.steps(DAY_S), round(CALIBRATION_RATIO * len(series.rates_rps)))


def learn(series: Series, horizon_s: float, quantile: float, growth: TreeGrowth = GROWTH) -> BoostedModel:
    """Train a model on a load: the median on all of it, the upper quantile on all but the newest part.

    That part calibrates the quantile. Windows with gaps are left out; DomainError if that leaves fewer than
    MIN_WINDOWS, or if the horizon exceeds a share of the input window.
    """
    if horizon_s > LONGEST_S:
        raise DomainError(f"the horizon of {horizon_s:g} s is beyond {LONGEST_S:g} s")
    ahead, back = series.steps(horizon_s), series.steps(BACK_S)
    ends = series.whole(np.arange(back, len(series.rates_rps) - ahead + 1), back, ahead)
    targets = np.log(sliding_max(series.rates_rps, ahead)[ends] / levels(series, ends) + IDLE_RATIO)
    chosen = np.arange(0, len(ends), series.steps(STRIDE_S))
    if len(chosen) > MAX_WINDOWS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_WINDOWS).round().astype(int)]
    if len(chosen) < MIN_WINDOWS:
        raise DomainError(
            f"{len(chosen)} windows of {BACK_S:g} s without gaps to learn from; it needs {MIN_WINDOWS}",
            hint=f"Give a trace of at least {(BACK_S + MIN_WINDOWS * STRIDE_S) / HOUR_S:.1f} h.",
        )
    rows, _ = features(series, ends[chosen], ahead)
    wanted = targets[chosen]
    grown_on = ends[chosen] + ahead <= len(series.rates_rps) - newest_steps(series)
    upper = grow(rows[grown_on], wanted[grown_on], quantile, growth)
    missed = wanted[~grown_on] - upper.predict(rows[~grown_on])
    point = grow(rows, wanted, 0.5, growth)
    shift = conformal(missed, quantile)
    return BoostedModel(horizon_s, quantile, series.step_s, series.smooth_s, shift, point, upper)
