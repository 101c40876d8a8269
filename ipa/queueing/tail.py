"""Sojourn times at a batching stage under random arrivals: the mean and a high quantile.

The time has three parts: forming, waiting for a replica, service. Each is a closed form with a few constants
and a fitted correction. The corrections only rise with causes of delay, so that the total never falls when
service slows down or a replica is removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from math import log
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipa.model.plan import CFS_PERIOD_S

Floats = NDArray[np.float64]

# Profiles give the service time's high percentile as its 99th.
TAIL_Z = NormalDist().inv_cdf(0.99)
# Below this spread a service time counts as constant; keeps the divisions by the spread finite.
LEAST_SPREAD = 1e-9
# The approximation of a gamma variable's 99th percentile holds up to this many times its mean.
MOST_TAIL_RATIO = 12.0
TINY = 1e-12
# Timeouts beyond this number of requests count as none.
LONG_REQUESTS = 1e9
# Erlang's delay probability is ρ^e with this e, within a factor 1.3 from n = 1 to 64 and ρ = 0.1 to 0.99:
# e = 1 + ROOT_SHARE·(√n − 1) + SLACK_SHARE·(n − 1)·(1 − ρ).
ROOT_SHARE, SLACK_SHARE = 0.888, 0.435
# Numbers of requests still to come: exact up to 16, then in steps for interpolation.
TO_COME = np.array([*range(17), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512, 1024], np.float64)
BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Constants:
    """The fitted constants of the closed forms, and the corrections' weights.

    `steep` and `delay` shape the waiting tail and `early` its start, `paced` weighs the time until the next
    replica is free, `sure` is the share of the wait that adds to service fully, `spread` weighs the service
    time's own tail, `partly` is the share of requests whose last items open a batch; those from `mean_delay`
    on are only for the mean.
    """

    steep: float
    delay: float
    early: float
    paced: float
    sure: float
    spread: float
    partly: float
    mean_delay: float
    mean_wait: float
    mean_paced: float
    mean_form: float
    mean_size: float


@dataclass(frozen=True, slots=True)
class Parts:
    """The closed forms' results, per option; `features` are the inputs of the corrections, a row each."""

    form_s: Floats
    form_mean_s: Floats
    log_factor: Floats
    light_s: Floats
    heavy_s: Floats
    paced_s: Floats
    own_s: Floats
    fixed_s: Floats
    per_item_s: Floats
    batch_size: Floats
    items: Floats
    usual_size: Floats
    size_noise: Floats
    service_tail: Floats
    log_delayed: Floats
    features: Floats


def stage_parts(
    b: Floats,
    n: Floats,
    k: Floats,
    full_s: Floats,
    one_s: Floats,
    spread: Floats,
    rate: Floats,
    timeout: Floats,
    percentile: float,
    c: Constants,
) -> Parts:
    """The parts of the time at each stage. Arrays of one shape.

    `spread` is the squared coefficient of variation of the service time; the rest is as in `sojourn`.
    """
    z = NormalDist().inv_cdf(percentile / 100.0)
    log_odds = -log(1.0 - percentile / 100.0)
    request_rate = rate / k
    one_s = np.minimum(np.maximum(one_s, full_s / b), full_s)
    per_item_s = (full_s - one_s) / np.maximum(b - 1.0, 1.0)
    fixed_s = full_s - per_item_s * b

    # Forming: requests that must still come after the last item of this one, if no timeout ends it.
    per_batch = b / k
    whole = np.gcd(np.where(k == np.floor(k), k, 1.0).astype(np.int64), b.astype(np.int64)) / b
    to_come = per_batch * (1.0 - whole)
    steps = np.ceil(to_come)
    count = np.where(k > 1.0, np.minimum(steps, to_come + c.partly), steps)
    one = np.maximum(np.log(np.maximum(1.0 - whole, TINY)) + log_odds, 0.0)
    form = np.where(to_come <= 1.0, one, np.interp(count, TO_COME, _forming(percentile)))
    within = np.minimum(timeout * request_rate, LONG_REQUESTS)
    form_s = np.minimum(within, form) / request_rate
    form_mean = np.where(to_come <= 1.0, 1.0 - whole, 0.5 * count)
    within_mean = within * (1.0 + 0.5 * within) / (1.0 + within)
    form_mean_s = form_mean * within_mean / np.maximum(np.hypot(form_mean, within_mean), TINY) / request_rate

    # Usual batch: the arrivals within the timeout, or those that keep the replicas in pace with the rate.
    timed = np.minimum(k * (1.0 + within), b)
    usual = _usual_size(b, n, timed, fixed_s, per_item_s, rate)
    usual_s = fixed_s + per_item_s * usual
    paced_s = usual_s / n
    full_load = np.minimum(rate * full_s / (b * n), 1.0 - TINY)
    load = np.minimum(rate * paced_s / usual, 1.0 - TINY)

    # Waiting: decay of the tail at the usual load, and at full batches when the queue is long.
    log_load, log_full = np.log(load), np.log(full_load)
    power = 1.0 + ROOT_SHARE * (np.sqrt(n) - 1.0) + SLACK_SHARE * (n - 1.0) * (1.0 - load)
    log_delayed = c.delay * power * log_load
    log_factor = np.logaddexp(0.0, log_delayed + (log_odds + c.early))
    varied = spread * per_batch
    light_s = paced_s / (c.steep - 2.0 * log_load / (1.0 + spread / k * usual) * (timed / k))
    heavy_s = full_s / n / per_batch * ((1.0 + varied) / (-2.0 * log_full) + 0.5 * varied)
    own_s = paced_s * np.maximum(1.0 / per_batch - 1.0, 0.0)

    wait_items = rate * (log_factor * light_s + c.paced * paced_s + own_s)
    log_n = np.log(n)
    features = np.empty((19, *b.shape))
    for row, values in enumerate(
        (
            np.log(b),
            np.log(k),
            np.log(np.minimum(within, 64.0) + 0.1),
            np.log(timed / b),
            np.sqrt(spread),
            np.log(one_s / full_s),
            np.sqrt(np.maximum(fixed_s, 0.0) / full_s),
            log(log_odds),
            load,
            full_load,
            np.log(usual / b),
            np.minimum(per_item_s * rate / n, 1.0),
            log_factor,
            np.log(wait_items / b + 0.02),
            np.log(rate * usual_s / b),
            -log_n,
            log_full,
            np.log(rate * one_s / n),
            -log_n,
        )
    ):
        features[row] = values
    return Parts(
        form_s=form_s,
        form_mean_s=form_mean_s,
        log_factor=log_factor,
        light_s=light_s,
        heavy_s=np.maximum(heavy_s - light_s, 0.0),
        paced_s=paced_s,
        own_s=own_s,
        fixed_s=fixed_s,
        per_item_s=per_item_s,
        batch_size=b,
        items=k,
        usual_size=usual,
        size_noise=np.sqrt(k * (np.minimum(within * k, b) + usual * load**4)),
        service_tail=c.spread * (gamma_quantile(spread, z) - 1.0),
        log_delayed=log_delayed,
        features=features,
    )


def _usual_size(
    b: Floats, n: Floats, timed: Floats, fixed_s: Floats, per_item_s: Floats, rate: Floats
) -> Floats:
    """The items of a batch: those that come within the timeout, or while all replicas are busy."""
    keeping = np.minimum(fixed_s * rate / np.maximum(n - per_item_s * rate, TINY), b)
    return np.asarray(np.minimum(np.hypot(timed, keeping), b))


def quantile_of(parts: Parts, outputs: Sequence[Any], c: Constants) -> Floats:
    """The quantile from the parts and the corrections for the wait, the batch size and the forming."""
    kind, length, size, forming = outputs
    wait_s = (
        parts.log_factor * (parts.light_s + logistic(kind) * parts.heavy_s)
        + c.paced * parts.paced_s
        + parts.own_s
    ) * np.exp(length)
    # A batch fills while all replicas are busy: forming and waiting overlap, so the longer of the two counts.
    queued_s = longer(parts.form_s * np.exp(forming), wait_s)
    late = parts.usual_size + logistic(size - 2.0) * (parts.batch_size - parts.usual_size)
    served_s = parts.fixed_s + parts.per_item_s * late
    return np.asarray(
        c.sure * queued_s + served_s + np.hypot((1.0 - c.sure) * queued_s, parts.service_tail * served_s)
    )


def mean_of(parts: Parts, outputs: Sequence[Any], c: Constants) -> Floats:
    """The mean from the parts and the corrections for the wait."""
    kind, length, _, _ = outputs
    delayed = np.exp(c.mean_delay * parts.log_delayed)
    wait_s = c.mean_wait * (parts.light_s + logistic(kind) * parts.heavy_s) + c.mean_paced * parts.paced_s
    queued_s = longer(c.mean_form * parts.form_mean_s, delayed * wait_s * np.exp(length) + parts.own_s)
    usual = np.minimum(parts.usual_size + c.mean_size * parts.size_noise, parts.batch_size)
    return np.asarray(queued_s + parts.fixed_s + parts.per_item_s * usual)


def service_spread(mean_s: Floats, tail_s: Floats) -> Floats:
    """The squared coefficient of variation of a gamma service time of this mean and 99th percentile.

    Wilson and Hilferty's cube root of a gamma variable, solved for the shape.
    """
    root = np.cbrt(np.minimum(np.maximum(tail_s / mean_s, 1.0), MOST_TAIL_RATIO))
    third = (TAIL_Z - np.sqrt(TAIL_Z * TAIL_Z - 4.0 * (root - 1.0))) / 2.0
    return np.asarray(np.maximum(9.0 * third * third, LEAST_SPREAD))


def longer(one: Floats, other: Floats) -> Floats:
    """A smooth maximum: the fourth root of the sum of fourth powers."""
    one, other = one * one, other * other
    return np.asarray(np.sqrt(np.hypot(one, other)))


def logistic(x: Any) -> Any:
    """1/(1 + e^−x)."""
    return 1.0 / (1.0 + np.exp(-x))


def gamma_quantile(spread: Floats, z: float) -> Floats:
    """The quantile of a gamma variable of mean one, not less than one (Wilson and Hilferty, PNAS 1931)."""
    root = np.sqrt(spread) / 3.0
    cube = np.maximum(1.0 - root * root + z * root, 1.0)
    return np.asarray(cube * cube * cube)


@lru_cache(maxsize=16)
def _forming(percentile: float) -> Floats:
    """The quantile of the forming wait, in mean gaps between requests, if up to `TO_COME` more are needed.

    Any number from none to all is equally likely; the wait for i of them is Erlang's.
    """
    top = int(TO_COME[-1])
    came = np.arange(top)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top)))])
    counts = TO_COME[1:, None]
    weights = np.maximum(counts - came, 0.0) / (counts + 1.0)
    low, high = np.zeros(len(counts)), counts[:, 0] + 20.0 * np.sqrt(counts[:, 0]) + 60.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        later = np.sum(
            weights * np.exp(came * np.log(middle[:, None]) - middle[:, None] - log_factorial), axis=1
        )
        is_low = later > 1.0 - percentile / 100.0
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return np.concatenate([[0.0], high])


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

    All but `percentile` are arrays or numbers above zero that broadcast against each other. Requests arrive
    at random (Poisson), each brings `items` items at once, and `rate_rps` counts *items* a second, as
    everywhere in this package; if the number of items varies, pass E[k²]/E[k]. A batch is due once
    `batch_size` items wait or the oldest has waited `timeout_s` (None: only full batches); it goes to one of
    `replicas` as soon as one is free, and accepts items until then. A full batch takes `service_mean_s` on
    average and `service_tail_s` at the 99th percentile; a single item takes `service_one_s` on average, and
    sizes between them lie on a line. None assumes that half the time of a full batch does not depend on its
    items. Sources, accuracy and limits: docs/explanation/queueing.md.
    """
    if service_one_s is None:
        service_one_s = np.asarray(service_mean_s) * (0.5 + 0.5 / np.asarray(batch_size))
    given = [batch_size, replicas, service_mean_s, service_tail_s, rate_rps, items]
    given += [np.inf if timeout_s is None else timeout_s, service_one_s]
    arrays = [np.asarray(each, dtype=np.float64) for each in given]
    shape = np.broadcast_shapes(*{each.shape for each in arrays})
    # In the common shape, flat.
    columns = [(each if each.shape == shape else np.broadcast_to(each, shape)).ravel() for each in arrays]
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


# `sojourn`, or another formula with its arguments; arrays of one shape.
SojournFormula = Callable[..., Sojourn]


def sojourn_with_quota(
    formula: SojournFormula,
    quota_cores: Floats,
    machine_cores: float,
    batch_size: Floats,
    replicas: Floats,
    service_mean_s: Floats,
    service_tail_s: Floats,
    rate_rps: Floats,
    *,
    items: Floats,
    timeout_s: Floats,
    percentile: float,
    service_one_s: Floats,
) -> Sojourn:
    """The sojourn by the formula on replicas of `quota_cores` < 1 each; service times are of busy replicas.

    Such a replica computes at full speed, in `quota_cores` of its busy time, until it has used up the CPU
    time saved while idle: at most a period of its quota. It answers once its CPU time is paid for. The
    replicas that serve the items of a request at once share `machine_cores` with one of another stage
    (infinite: a cluster, whose nodes have CPUs to spare).

    That is a token bucket, whose output is the later of two queues with the same arrivals: one served at full
    speed, and one at the speed of the quota that is a period ahead; neither is later than without savings.
    At full speed batches are small, so the second serves single items, each in its share of such a batch,
    and of its variation. A quantile is the later one of both, since both rise with the work before a request;
    the mean assumes an exponential variation of their difference. Accuracy: docs/explanation/queueing.md.
    """

    tail_ratio = service_tail_s / service_mean_s

    def times(size: Floats, full_s: Floats, one_s: Floats) -> Sojourn:
        return formula(
            *(size, replicas, full_s, full_s * tail_ratio, rate_rps),
            items=items,
            timeout_s=timeout_s,
            percentile=percentile,
            service_one_s=one_s,
        )

    at_once = np.minimum(replicas, np.maximum(items / batch_size, 1.0))
    speed = np.minimum(machine_cores / (at_once + 1.0), 1.0)
    ratio = np.minimum(quota_cores / speed, 1.0)
    busy = times(batch_size, service_mean_s, service_one_s)
    quick = times(batch_size, service_mean_s * ratio, service_one_s * ratio)
    per_item_s = (service_mean_s - service_one_s) / np.maximum(batch_size - 1.0, 1.0)
    fixed_s = service_mean_s - per_item_s * batch_size
    timed = np.minimum(items + timeout_s * rate_rps, batch_size)
    usual = _usual_size(batch_size, replicas, timed, fixed_s * ratio, per_item_s * ratio, rate_rps)
    each_s = fixed_s / usual + per_item_s
    saving = times(np.ones_like(batch_size), each_s, each_s)
    rest_s = (usual - 1.0) * each_s
    with np.errstate(invalid="ignore", divide="ignore"):
        # By so much a single item is quicker, however little waits.
        least_s = service_one_s * (1 - ratio)
        varying_s = np.maximum(saving.mean_s + rest_s - quick.mean_s - least_s, 0.0)
        left_s = CFS_PERIOD_S - least_s
        beyond_s = np.where(
            left_s > 0, varying_s * np.exp(-np.maximum(left_s, 0.0) / varying_s), varying_s - left_s
        )
        late_s = np.maximum(quick.quantile_s, saving.quantile_s + rest_s * tail_ratio - CFS_PERIOD_S)
        quantile_s = np.minimum(late_s, busy.quantile_s)
        mean_s = np.minimum(np.minimum(quick.mean_s + beyond_s, busy.mean_s), quantile_s)
        excess_s = quantile_s - mean_s
    is_stable = np.isfinite(busy.mean_s)
    return Sojourn(np.where(is_stable, mean_s, np.inf), np.where(is_stable, excess_s, np.inf))
