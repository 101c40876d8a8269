"""Random stages and what an event loop measures of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.queueing.stage_loop import Floats, StageRules, item_counts, run_stage, service_factors
from ipa.queueing.tail import service_spread

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
# A timeout that never ends the forming of a batch.
NEVER_S = 1e9


@dataclass(frozen=True, slots=True)
class Point:
    """One stage under load; the unit of time is the mean service time of a full batch.

    `rate` counts items, `tail` is the 99th percentile of the service time, `one` its mean for a single item.
    """

    batch_size: int
    replicas: int
    load: float
    tail: float
    items: float
    one: float
    rate: float
    timeout: float

    @property
    def spread(self) -> float:
        """The squared coefficient of variation of the service time."""
        return float(service_spread(np.array(1.0), np.array(self.tail)))

    @property
    def rules(self) -> StageRules:
        """The stage for the event loop."""
        return StageRules(self.batch_size, self.replicas, 1.0, self.one, self.spread, self.timeout)


@dataclass(frozen=True, slots=True)
class Measured:
    """Mean and quantiles (at `PERCENTILES`) of the time at the stage, the standard error of the 99th."""

    point: Point
    mean: float
    quantiles: tuple[float, ...]
    error: float

    def to_json(self) -> dict[str, Any]:
        """All fields, flat."""
        return asdict(self.point) | {"mean": self.mean, "quantiles": self.quantiles, "error": self.error}


def draw(rng: np.random.Generator) -> Point:
    """A stage as planned for: batches to 64, up to 16 replicas, load 0.1-0.95, up to 8 items a request."""
    b = int(2 ** rng.integers(0, 7))
    n = int(rng.integers(1, 17)) if rng.random() < 0.6 else int(rng.choice([1, 1, 1, 2, 2, 3, 4]))
    load, tail = rng.uniform(0.1, 0.95), rng.uniform(1.0, 2.5)
    k = (
        1.0
        if rng.random() < 0.4
        else float(rng.integers(2, 9))
        if rng.random() < 0.5
        else float(rng.uniform(1.0, 8.0))
    )
    one = float(b ** -rng.uniform(0.15, 1.0)) if b > 1 else 1.0
    return _point(rng, b, n, load, tail, k, one, (-1.5, 0.7))


def draw_wide(rng: np.random.Generator) -> Point:
    """A stage from a wider range, so that the formula does not end where the plans do."""
    b = int(2 ** rng.integers(0, 7))
    n = int(np.exp(rng.uniform(0.0, np.log(64.99))))
    load = rng.uniform(0.02, 0.97)
    tail = rng.uniform(1.0, 2.5) if rng.random() < 0.5 else rng.uniform(1.0, 5.0)
    k = (
        1.0
        if rng.random() < 0.45
        else float(rng.integers(2, 17))
        if rng.random() < 0.5
        else float(np.exp(rng.uniform(0.0, np.log(16.0))))
    )
    one = float(b ** -rng.uniform(0.1, 1.0)) if b > 1 else 1.0
    return _point(rng, b, n, load, tail, k, one, (-1.7, 0.9))


def draw_short(rng: np.random.Generator) -> Point:
    """A stage as planned for with hardly a timeout: batches gather while all replicas are busy."""
    point = draw(rng)
    short = (
        0.0 if rng.random() < 0.5 else float(point.batch_size / point.rate * 10 ** rng.uniform(-2.5, -0.5))
    )
    return replace(point, timeout=short)


def draw_quiet(rng: np.random.Generator) -> Point:
    """A stage with little to do: load 0.001-0.3, timeouts of 0.001 to ten times between items."""
    point = draw_wide(rng)
    load = float(10 ** rng.uniform(-3.0, -0.5))
    rate = load * point.replicas * point.batch_size
    timeout = float(10 ** rng.uniform(-3.0, 1.0)) / rate
    return replace(point, load=load, rate=rate, timeout=min(point.timeout, timeout))


def _point(
    rng: np.random.Generator,
    b: int,
    n: int,
    load: float,
    tail: float,
    k: float,
    one: float,
    decades: tuple[float, float],
) -> Point:
    """The stage with a timeout of zero, of some forming times, or none."""
    rate, kind = load * n * b, rng.random()
    if kind < 0.15:
        timeout = 0.0
    elif kind < 0.3:
        timeout = NEVER_S
    else:
        timeout = float(b / rate * 10 ** rng.uniform(*decades))
    return Point(b, n, float(load), float(tail), k, one, float(rate), timeout)


def measure(point: Point, seed: int, effort: float = 1.0) -> Measured:
    """The figures of the event loop in four replications; more requests where the load is high."""
    hard = 20_000 / (1.0 - point.load) ** 2 * max(1.0, point.batch_size / point.items / 4.0)
    requests = int(effort * np.clip(hard, 3e5, 3e6)) // 4
    rows = []
    for replication in range(4):
        times = sojourns(point, np.random.default_rng([seed, replication]), requests)
        rows.append([times.mean(), *np.quantile(times, np.array(PERCENTILES) / 100.0)])
    values = np.array(rows)
    error = values[:, 1 + PERCENTILES.index(99.0)].std(ddof=1) / 2.0
    mean, *quantiles = values.mean(axis=0).tolist()
    return Measured(point, mean, tuple(quantiles), float(error))


def sojourns(point: Point, rng: np.random.Generator, requests: int) -> Floats:
    """The time of each request at the stage, the first and last twentieth left out."""
    arrivals = np.cumsum(rng.exponential(point.items / point.rate, requests))
    counts = item_counts(rng, point.items, requests)
    factors = service_factors(rng, point.spread, int(counts.sum()))
    times = run_stage(arrivals, counts, point.rules, factors) - arrivals
    return times[requests // 20 : -(requests // 20)]


def columns(points: list[Point]) -> dict[str, NDArray[np.float64]]:
    """The points' fields as arrays, ready for `ipa.queueing.tail.sojourn`."""
    rows = np.array([list(asdict(point).values()) for point in points], dtype=np.float64)
    b, n, _, tail, k, one, rate, timeout = rows.T
    return {
        "batch_size": b,
        "replicas": n,
        "service_mean_s": np.ones(len(points)),
        "service_tail_s": tail,
        "rate_rps": rate,
        "items": k,
        "timeout_s": timeout,
        "service_one_s": one,
    }
