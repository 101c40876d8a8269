"""Random paths of stages in a row, measured by the event loop and predicted from their stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from experiments.queueing.points import NEVER_S, Point, columns, draw
from experiments.queueing.stage_loop import Floats, item_counts, run_stage, service_factors
from ipa.queueing.tail import path_quantile_s, sojourn


@dataclass(frozen=True, slots=True)
class MeasuredPath:
    """The 99th percentile of a path, predicted and measured, in mean times between requests.

    `means` and `excesses` of the 99th percentile over them were measured at each stage, `correlations`
    between the times of a request at the stages; `runs` are the percentiles of the path in each replication.
    """

    stages: tuple[Point, ...]
    predicted: float
    runs: tuple[float, ...]
    means: Floats
    excesses: Floats
    correlations: Floats

    @property
    def measured(self) -> float:
        """The mean of the replications."""
        return float(np.mean(self.runs))

    @property
    def error_ratio(self) -> float:
        """The excess of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1.0

    @property
    def composed_ratio(self) -> float:
        """The error if each stage's times were known: that of the path's rule alone."""
        return float(path_quantile_s(self.means, self.excesses)) / self.measured - 1.0

    @property
    def correlated_ratio(self) -> float:
        """The error if the correlations between the stages were known too."""
        excess = np.sqrt(max(0.0, float(self.excesses @ self.correlations @ self.excesses)))
        return (float(self.means.sum()) + float(excess)) / self.measured - 1.0

    @property
    def repeated_ratio(self) -> float:
        """The first replication's excess over the last: what a perfect prediction may be off by."""
        return self.runs[0] / self.runs[-1] - 1.0


def draw_path(rng: np.random.Generator) -> tuple[Point, ...]:
    """Two to four stages; the first gets one item a request, the others one or, after a fan-out, several."""
    stages = [draw(rng) for _ in range(int(rng.integers(2, 5)))]
    first = stages[0]
    return replace(first, items=1.0), *stages[1:]


def predict(stages: tuple[Point, ...]) -> float:
    """The path's 99th percentile by the formula."""
    given = columns(list(stages))
    stage = sojourn(**given)
    # One unit of time for all: the mean time between requests.
    unit = given["rate_rps"] / given["items"]
    return float(path_quantile_s(stage.mean_s * unit, stage.excess_s * unit))


def measure_path(stages: tuple[Point, ...], seed: int, requests: int) -> MeasuredPath:
    """The path's 99th percentile in two replications: what leaves a stage arrives at the next."""
    runs, by_stage, correlations = [], [], []
    for replication in range(2):
        rng = np.random.default_rng([seed, replication])
        came = np.cumsum(rng.exponential(1.0, requests))
        counted = slice(requests // 10, -(requests // 10))
        at, times = came, []
        for point in stages:
            unit, rules = point.rate / point.items, point.rules
            rules = replace(
                rules,
                service_s=unit,
                service_one_s=unit * point.one,
                timeout_s=NEVER_S if point.timeout == NEVER_S else unit * point.timeout,
            )
            counts = item_counts(rng, point.items, requests)
            factors = service_factors(rng, point.spread, int(counts.sum()))
            order = np.argsort(at, kind="stable")
            left = np.empty(requests)
            left[order] = run_stage(at[order], counts[order], rules, factors)
            times.append((left - at)[counted])
            at = left
        runs.append(float(np.quantile((at - came)[counted], 0.99)))
        by_stage.append([(each.mean(), np.quantile(each, 0.99)) for each in times])
        correlations.append(np.corrcoef(times))
    means, quantiles = np.mean(by_stage, axis=0).T
    return MeasuredPath(
        stages, predict(stages), tuple(runs), means, quantiles - means, np.mean(correlations, axis=0)
    )
