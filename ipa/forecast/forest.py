"""Boosted regression trees as plain arrays, evaluated in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipa.forecast.base import Floats, Ints

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
