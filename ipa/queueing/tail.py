"""Sojourn times at a batching stage under random arrivals: the mean and a high quantile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ipa.queueing.tail_parts import Constants, Floats, mean_of, quantile_of, service_spread, stage_parts

# Written by `python -m experiments.queueing.fit`: the constants; and for the corrections of waiting's kind
# and length, of the batch size and of forming, tanh units over the features, their offsets, the weights of
# the corrections on the units, and the offset of each correction.
_FIT = json.loads(resources.files(__package__).joinpath("tail_fit.json").read_text("utf-8"))
CONSTANTS = Constants(**_FIT["constants"])
UNITS, OFFSETS, OUT, SHIFTS = (
    np.array(_FIT[each], np.float64) for each in ("units", "offsets", "out", "shifts")
)
# Options computed at once: few enough for intermediate results to stay in the processor's cache.
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Sojourn:
    """The time from a request's arrival at a stage until all its items are served; waiting included.

    `mean_s` is the mean, `mean_s + excess_s` the quantile. Both are infinite if the stage cannot carry the
    rate.
    """

    mean_s: Floats
    excess_s: Floats

    @property
    def quantile_s(self) -> Floats:
        """The quantile at the requested percentile."""
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
    """The sojourn time of requests at a stage: its mean, and the excess of its quantile at `percentile`.

    All but `percentile` are arrays or numbers above zero that broadcast against each other. Requests come at
    random (Poisson), each brings `items` items at once, and `rate_rps` counts *items* a second, as everywhere
    in this package; if the number of items varies, pass E[k²]/E[k]. A batch is due once `batch_size` items
    wait or the oldest has waited `timeout_s` (None: only full batches); it goes to one of `replicas` as soon
    as one is free, and fills until then. A full batch takes `service_mean_s` on average and `service_tail_s`
    at the 99th percentile; a single item takes `service_one_s` on average, and sizes between them lie on a
    line. None assumes that half the time of a full batch does not depend on its items. Sources, accuracy and
    limits: docs/explanation/queueing.md.
    """
    shape, columns = _columns(
        batch_size, replicas, service_mean_s, service_tail_s, rate_rps, items, timeout_s, service_one_s
    )
    size = columns[0].size
    if size <= BLOCK:
        mean_s, quantile_s = _block(columns, percentile)
    else:
        cuts = range(BLOCK, size, BLOCK)
        blocks = zip(*(np.split(column, cuts) for column in columns), strict=True)
        made = [_block(block, percentile) for block in blocks]
        mean_s, quantile_s = (np.concatenate(part) for part in zip(*made, strict=True))
    excess_s = quantile_s - mean_s
    excess_s[mean_s == np.inf] = np.inf
    return Sojourn(mean_s.reshape(shape), np.maximum(excess_s, 0.0).reshape(shape))


def path_quantile_s(means_s: ArrayLike, excesses_s: ArrayLike) -> Floats:
    """The latency quantile of a path from its stages' means and excesses, along the last axis.

    Means add, and so do the squares of the excesses: exact for one stage and for stages without spread.
    """
    excess_s = np.asarray(excesses_s, dtype=np.float64)
    return np.asarray(np.sum(means_s, axis=-1) + np.sqrt(np.sum(excess_s * excess_s, axis=-1)))


def _block(columns: Sequence[Floats], percentile: float) -> tuple[Floats, Floats]:
    """Mean and quantile of a block of options."""
    b, n, full_s, tail_s, rate, k, timeout, one_s = columns
    spread = service_spread(full_s, tail_s)
    parts = stage_parts(b, n, np.maximum(k, 1.0), full_s, one_s, spread, rate, timeout, percentile, CONSTANTS)
    # In place: these are by far the largest arrays, and allocating another takes as long as filling it.
    units = UNITS @ parts.features
    units += OFFSETS[:, None]
    np.tanh(units, out=units)
    outputs: Any = OUT @ units + SHIFTS[:, None]
    endless = np.where(rate * full_s < b * n, 0.0, np.inf)
    return mean_of(parts, outputs, CONSTANTS) + endless, quantile_of(parts, outputs, CONSTANTS)


def _columns(
    batch_size: ArrayLike,
    replicas: ArrayLike,
    service_mean_s: ArrayLike,
    service_tail_s: ArrayLike,
    rate_rps: ArrayLike,
    items: ArrayLike,
    timeout_s: ArrayLike | None,
    service_one_s: ArrayLike | None,
) -> tuple[tuple[int, ...], list[Floats]]:
    """The common shape of the arguments, and each argument in that shape, flat."""
    given: list[Any] = [batch_size, replicas, service_mean_s, service_tail_s, rate_rps, items]
    given.append(np.inf if timeout_s is None else timeout_s)
    if service_one_s is None:
        service_one_s = np.asarray(service_mean_s) * (0.5 + 0.5 / np.asarray(batch_size))
    given.append(service_one_s)
    arrays = [np.asarray(each, dtype=np.float64) for each in given]
    shape = np.broadcast_shapes(*{each.shape for each in arrays})
    return shape, [(each if each.shape == shape else np.broadcast_to(each, shape)).ravel() for each in arrays]
