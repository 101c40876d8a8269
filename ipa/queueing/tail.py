"""How long requests spend at a batching stage under random arrivals: the mean and a high quantile."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Profiles give the service time's high percentile as its 99th.
TAIL_Z = NormalDist().inv_cdf(0.99)
# Below this spread a service time counts as constant; keeps the divisions by the spread finite.
LEAST_SPREAD = 1e-9
NEWTON_STEPS = 4


@dataclass(frozen=True, slots=True)
class Sojourn:
    """The time from a request's arrival at a stage until all its items are served; waiting included.

    `mean_s` is the mean, `mean_s + excess_s` the quantile. Both are infinite where the stage cannot carry the
    rate.
    """

    mean_s: Floats
    excess_s: Floats

    @property
    def quantile_s(self) -> Floats:
        """The quantile at the percentile that was asked for."""
        return self.mean_s + self.excess_s


def sojourn(
    batch_size: ArrayLike,
    replicas: ArrayLike,
    service_mean_s: ArrayLike,
    service_tail_s: ArrayLike,
    rate_rps: ArrayLike,
    *,
    items: ArrayLike = 1.0,
    timeout_s: ArrayLike | None = None,
    percentile: float = 99.0,
    service_one_s: ArrayLike | None = None,
) -> Sojourn:
    """The time requests spend at a stage: its mean, and what its quantile at `percentile` adds to that.

    All but `percentile` are arrays or numbers that broadcast against each other. Requests come at random
    (Poisson), each brings `items` items at once, and `rate_rps` counts *items* a second, as everywhere in this
    package. A batch is due once `batch_size` items wait or the oldest has waited `timeout_s` (None: only full
    batches); it is given to one of `replicas` as soon as one is free, and fills until then. A full batch takes
    `service_mean_s` on the mean and `service_tail_s` at the 99th percentile; a single item takes `service_one_s`
    on the mean, and sizes between them lie on a line. None assumes that half the time of a full batch does not
    depend on how many items it holds.
    """
    z = NormalDist().inv_cdf(percentile / 100.0)
    b = np.asarray(batch_size, dtype=np.float64)
    n = np.asarray(replicas, dtype=np.float64)
    full_s = np.asarray(service_mean_s, dtype=np.float64)
    rate = np.asarray(rate_rps, dtype=np.float64)
    k = np.maximum(np.asarray(items, dtype=np.float64), 1.0)
    timeout: Any = np.inf if timeout_s is None else np.asarray(timeout_s, dtype=np.float64)
    one_s: Any = full_s * (0.5 + 0.5 / b) if service_one_s is None else np.asarray(service_one_s, np.float64)
    spread = service_spread(full_s, np.asarray(service_tail_s, dtype=np.float64))

    rho = rate * full_s / (b * n)
    stable = rho < 1.0
    rho = np.minimum(rho, 1.0 - 1e-9)
    per_batch = b / k  # requests in a full batch
    request_rate = rate / k

    # Items of a batch: those that come within the timeout, or as many as the replicas need to keep pace.
    per_item_s = np.where(b > 1.0, (full_s - one_s) / np.maximum(b - 1.0, 1.0), 0.0)
    fixed_s = full_s - per_item_s * b
    paced = fixed_s * rate / np.maximum(n - per_item_s * rate, 1e-9)
    size = np.clip(np.maximum(k + rate * np.minimum(timeout, 1e9), paced), 1.0, b)
    served_s = fixed_s + per_item_s * size
    busy = np.minimum(rate * served_s / (size * n), 1.0)

    log_root = _log_root(rho, spread * per_batch)
    turn = spread * per_batch * log_root
    decay = per_batch * log_root * _fade(turn) * n / full_s
    delayed = busy ** (np.sqrt(2.0 * (n + 1.0)) - 1.0)
    within = np.expm1(per_batch * log_root) / (per_batch * np.expm1(log_root))
    factor = delayed * np.where(per_batch >= 1.0, within, np.exp(log_root * (1.0 - per_batch)))
    log_factor = np.log(np.maximum(factor, 1e-300))
    wait_s = np.maximum(log_factor - np.log1p(-percentile / 100.0), 0.0) / decay
    wait_mean_s = np.where(log_factor > 0.0, 1.0 + log_factor, np.minimum(factor, 1.0)) / decay

    to_come = np.maximum(per_batch - 1.0, 0.0)
    form_s = np.minimum(
        timeout, (to_come + z / (1.0 + 0.25 * np.sqrt(to_come)) * np.sqrt(to_come)) / request_rate
    )
    form_mean_s = np.minimum(to_come / 2.0 / request_rate, timeout)

    mean_wait_s = np.maximum(wait_mean_s, form_mean_s)
    excess_wait_s = np.maximum(np.maximum(wait_s, form_s) - mean_wait_s, 0.0)
    excess_served_s = served_s * (_gamma_quantile(spread, z) - 1.0)
    mean_s = np.where(stable, mean_wait_s + served_s, np.inf)
    excess_s = np.where(stable, np.hypot(excess_wait_s, excess_served_s), np.inf)
    return Sojourn(mean_s, excess_s)


def path_quantile_s(means_s: ArrayLike, excesses_s: ArrayLike) -> Floats:
    """The latency quantile of a path from its stages' means and excesses, along the last axis.

    Means add, and so do the squares of the excesses: exact for one stage and for stages without spread.
    """
    excess_s = np.asarray(excesses_s, dtype=np.float64)
    return np.asarray(np.sum(means_s, axis=-1) + np.sqrt(np.sum(excess_s * excess_s, axis=-1)))


def service_spread(mean_s: Floats, tail_s: Floats) -> Floats:
    """The squared coefficient of variation of a gamma service time of this mean and 99th percentile.

    Wilson and Hilferty's cube root of a gamma variable, solved for the shape.
    """
    root = np.cbrt(np.clip(tail_s / mean_s, 1.0, 12.0))
    third = (TAIL_Z - np.sqrt(TAIL_Z * TAIL_Z - 4.0 * (root - 1.0))) / 2.0
    return np.asarray(np.maximum(9.0 * third * third, LEAST_SPREAD))


def _gamma_quantile(spread: Floats, z: float) -> Floats:
    """The quantile of a gamma variable of mean one (Wilson and Hilferty)."""
    root = np.sqrt(spread) / 3.0
    return np.asarray(np.maximum(1.0 - root * root + z * root, 1.0) ** 3)


def _fade(turn: Floats) -> Floats:
    """(1 − e^−x)/x."""
    return np.asarray(-np.expm1(-turn) / np.maximum(turn, 1e-12))


def _log_root(rho: Floats, spread: Floats) -> Floats:
    """The positive u with u = ln(1 + (1 − e^(−g·u))/(g·ρ)), by a fixed number of Newton's steps."""
    u = -2.0 * np.log(rho) / (1.0 + spread)
    for _ in range(NEWTON_STEPS):
        left = np.exp(-spread * u)
        inner = rho + (1.0 - left) / spread
        u = u - (np.log(inner / rho) - u) / (left / inner - 1.0)
    return np.asarray(u)
