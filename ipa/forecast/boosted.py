"""The boosted rung: quantiles of the peak by gradient boosting on minutes of load and the time of day.

Trained rarely, on a trace of hours or days; its upper quantile is calibrated on held-out days. Its trees are
plain arrays, evaluated in numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipa.forecast.base import Floats, Ints, Peak, Series, conformal, sliding_max
from ipa.forecast.features import (
    BACK_S,
    DAY_S,
    FEWEST_DAYS,
    HOUR_S,
    LEAST_RATIO,
    DayProfile,
    day_slots,
    days_of,
    features,
    levels,
    steps_a_day,
)
from ipa.model.errors import DomainError

# A matrix of rows by trees is walked at once, in parts of this many rows that fit into the cache.
ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class TreeGrowth:
    """Training parameters of trees; docs/explanation/forecasting.md says how the defaults were chosen."""

    trees: int = 200
    learning_rate: float = 0.06
    leaves: int = 31
    least_rows_in_leaf: int = 50


@dataclass(frozen=True, slots=True)
class Forest:
    """The sum of `base` and one leaf of each tree.

    All nodes are in one list. At node i a row goes to `left[i]` if its column `feature[i]` is at most
    `threshold[i]`, else to `right[i]`; a leaf leads to itself. `roots` are the first nodes of the trees.
    """

    base: float
    depth: int
    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats

    def predict(self, rows: Floats) -> Floats:
        """One value for each row; `rows` are (n, columns) without NaN."""
        parts = [
            self._walk(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _walk(self, rows: Floats) -> Floats:
        nodes = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        which = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            goes_left = rows[which, self.feature[nodes]] <= self.threshold[nodes]
            nodes = np.where(goes_left, self.left[nodes], self.right[nodes])
        sums: Floats = self.base + self.value[nodes].sum(axis=1)
        return sums

    @classmethod
    def grown(cls, rows: Floats, targets: Floats, quantile: float, growth: TreeGrowth) -> Self:
        """Trees that estimate the quantile of the targets given the rows (gradient boosting, Friedman 2001).

        scikit-learn's HistGradientBoostingRegressor on one thread and with a fixed seed, so that the same
        rows give the same trees; on two busy cores its threads would wait for each other far longer.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor  # 0.8 s to import, seldom needed
        from threadpoolctl import threadpool_limits  # scikit-learn brings it

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
        with threadpool_limits(limits=1):
            model.fit(rows, targets)
        return cls._of(
            float(np.ravel(model._baseline_prediction)[0]), [it[0].nodes for it in model._predictors]
        )

    @classmethod
    def _of(cls, base: float, trees: list[NDArray[Any]]) -> Self:
        """The forest of scikit-learn's trees, their nodes concatenated and child indices shifted."""
        sizes = np.array([len(tree) for tree in trees], dtype=np.int64)
        roots = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
        nodes = np.concatenate(trees)
        own = np.arange(len(nodes))
        first = np.repeat(roots, sizes)
        is_leaf = nodes["is_leaf"].astype(bool)
        return cls(
            base=base,
            depth=int(nodes["depth"].max()),
            roots=roots,
            feature=np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int64),
            threshold=np.where(is_leaf, 0.0, nodes["num_threshold"]).astype(np.float64),
            left=np.where(is_leaf, own, first + nodes["left"].astype(np.int64)),
            right=np.where(is_leaf, own, first + nodes["right"].astype(np.int64)),
            value=np.where(is_leaf, nodes["value"], 0.0).astype(np.float64),
        )


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
    """A trained model: trees of the log of peak over level, for median and quantile, and a day profile.

    `shift` is added to the upper quantile's log: split conformal calibration (Romano et al. 2019).
    """

    horizon_s: float
    quantile: float
    step_s: float
    smooth_s: float
    shift: float
    point: Forest
    upper: Forest
    profile: DayProfile | None


@dataclass(frozen=True, slots=True)
class Boosted:
    """Gradient boosted quantiles of the peak relative to the level, over ten minutes and the time of day.

    Without a model it trains one on the series; that takes seconds to a minute, so the service gives it one.
    If the model has a day profile, the load must have a time of day.
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
        asked = (horizon_s, quantile, series.step_s, series.smooth_s)
        if asked != (model.horizon_s, model.quantile, model.step_s, model.smooth_s):
            return (
                f"learned for {model.horizon_s:g} s, quantile {model.quantile:g}, means over "
                f"{model.smooth_s:g} s every {model.step_s:g} s"
            )
        if model.profile is not None and series.end_s is None:
            return "the time of day is not known"
        return ""

    def peak(self, series: Series, horizon_s: float, quantile: float) -> Peak:
        """The median and the calibrated quantile of the peak; NaN if there is an objection."""
        fitted = self.fitted(series, horizon_s, quantile)
        points, uppers = fitted.peaks(series, np.array([len(series.rates_rps)]), horizon_s, quantile)
        return Peak(float(points[0]), float(uppers[0]))

    def peaks(self, series: Series, counts: Ints, horizon_s: float, quantile: float) -> tuple[Floats, Floats]:
        """The same after each of `counts` steps."""
        model = self.model
        if model is None or self.objection(series, horizon_s, quantile):
            # A wrong question must not get an answer: NaN makes the ladder step down.
            return np.full(len(counts), math.nan), np.full(len(counts), math.nan)
        day = np.zeros(len(counts)) if model.profile is None else model.profile.at(day_slots(series, counts))
        rows, scales = features(series, counts, series.steps(horizon_s), day)
        points, uppers = (
            np.maximum(scales * (np.exp(logs) - LEAST_RATIO), 0.0)
            for logs in (model.point.predict(rows), model.upper.predict(rows) + model.shift)
        )
        return points, np.maximum(points, uppers)


def learn(series: Series, horizon_s: float, quantile: float, growth: TreeGrowth = GROWTH) -> BoostedModel:
    """Train a model on a load: the point on all of it, the upper quantile on all but the newest part.

    That part calibrates the quantile. Windows with gaps are left out; DomainError if that leaves fewer than
    MIN_WINDOWS, or if the horizon exceeds a share of the input window.
    """
    if horizon_s > LONGEST_S:
        raise DomainError(f"the horizon of {horizon_s:g} s is beyond {LONGEST_S:g} s")
    ahead, back = series.steps(horizon_s), series.steps(BACK_S)
    ends = series.whole(np.arange(back, len(series.rates_rps) - ahead + 1), back, ahead)
    targets = np.log(sliding_max(series.rates_rps, ahead)[ends] / levels(series, ends) + LEAST_RATIO)
    slots = day_slots(series, ends)
    chosen = np.arange(0, len(ends), series.steps(STRIDE_S))
    if len(chosen) > MAX_WINDOWS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_WINDOWS).round().astype(int)]
    if len(chosen) < MIN_WINDOWS:
        raise DomainError(
            f"{len(chosen)} windows of {BACK_S:g} s without gaps to learn from; it needs {MIN_WINDOWS}",
            hint=f"Give a trace of at least {(BACK_S + MIN_WINDOWS * STRIDE_S) / HOUR_S:.1f} h.",
        )
    profile, day = None, np.zeros(len(chosen))
    if days_of(series, ends) >= FEWEST_DAYS:
        profile = DayProfile.of(slots, targets, steps_a_day(series))
        day = profile.without(slots[chosen], targets[chosen], np.ones(len(chosen)))
    rows, _ = features(series, ends[chosen], ahead, day)
    wanted = targets[chosen]
    newest = min(series.steps(DAY_S), round(CALIBRATION_RATIO * len(series.rates_rps)))
    grown_on = ends[chosen] + ahead <= len(series.rates_rps) - newest
    upper = Forest.grown(rows[grown_on], wanted[grown_on], quantile, growth)
    missed = wanted[~grown_on] - upper.predict(rows[~grown_on])
    point = Forest.grown(rows, wanted, 0.5, growth)
    shift = conformal(missed, quantile)
    return BoostedModel(horizon_s, quantile, series.step_s, series.smooth_s, shift, point, upper, profile)
