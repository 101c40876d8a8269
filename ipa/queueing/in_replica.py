"""Sojourn times at a stage whose replicas batch for themselves, as MLServer does."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

import numpy as np

from ipa.queueing.tail import Sojourn, sojourn
from ipa.queueing.tail_parts import TINY, Floats, service_spread

# The times that full batches take to fill are taken together in this many steps.
STEPS = 12
# Halvings of the interval that has the quantile, before the tail in it is taken as exponential.
HALVINGS = 14
# Waits are taken to decay no faster than this many times the inverse of the service time's standard
# deviation: a tail as short as that is the service time's own.
FASTEST = 1.5
# Kraemer and Langenbach-Belz's correction for even arrivals has 2/3 here. Batches are spaced less evenly than
# their first two moments say: this keeps predictions from being more than a tenth too low.
EVENING = 0.3
# The planner prefers options whose times are predicted too short: predictions aim this much high.
AIM = 1.02
# A normal tail is nearly a logistic one at this many times the deviations.
LOGISTIC = 1.702
# Bisections until the last bits of a float.
BISECTIONS = 50


@dataclass(frozen=True, slots=True)
class _Batches:
    """The batches that a replica forms of requests at random; an entry an option.

    `more` are the requests after a batch's first, `open_s` the time from the first until it closes,
    `covariance_s` that of both. `full_ratio` is the share of batches that close by size. `timed` is the mean
    size of the others, `met` and `met_variance` that of the one that a request of theirs is in.
    """

    more: Floats
    more_variance: Floats
    open_s: Floats
    open_variance: Floats
    covariance_s: Floats
    full_ratio: Floats
    timed: Floats
    met: Floats
    met_variance: Floats


def sojourn_in_replica(
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
    is_behind: bool = False,
) -> Sojourn:
    """As `ipa.queueing.tail.sojourn`, for replicas that batch what was spread to them; arrays of one shape.

    Requests are spread at random, so that each replica has its share of them, at random too. All items of a
    request are in one batch. A batch of several requests closes `timeout_s` after its first, or once it has
    `batch_size`, whether its replica is busy or not: so it has no more than come in that time, however many
    wait. It then waits for the batches before it. With `is_behind` requests come from another stage, whose
    replicas space them: where batches of evenly spaced ones are smaller, their time counts if it is longer.
    Rules: `mlserver.batching`; derivation and accuracy: docs/explanation/queueing.md.
    """
    rate_rps = rate_rps / (items * replicas)
    mean_s, quantile_s = np.empty_like(rate_rps), np.empty_like(rate_rps)
    single = batch_size == 1
    if single.any():
        # All items of a request one after the other, by one server.
        one_s, ones = service_one_s[single] * items[single], np.ones(int(single.sum()))
        tail_s = one_s * service_tail_s[single] / service_mean_s[single]
        load = np.minimum(rate_rps[single] * one_s, 1.0)
        found = sojourn(
            *(ones, ones, one_s, tail_s, rate_rps[single]),
            timeout_s=0.0,
            percentile=percentile,
            service_one_s=one_s,
        )
        quantile_s[single] = found.quantile_s
        # Pollaczek and Khinchine.
        with np.errstate(divide="ignore"):
            mean_s[single] = one_s * (1 + load * (1 + service_spread(one_s, tail_s)) / (2 * (1 - load)))
    if not single.all():
        several = ~single
        given = (batch_size, service_mean_s, service_tail_s, service_one_s, rate_rps, items, timeout_s)
        columns = [column[several] for column in given]
        times = [_batched(*columns, percentile=percentile, is_even=even) for even in {False, is_behind}]
        mean_s[several], quantile_s[several] = np.max(times, axis=0)
    with np.errstate(invalid="ignore"):
        excess_s = np.maximum(quantile_s - mean_s, 0.0)
    return Sojourn(mean_s, np.where(np.isfinite(mean_s), excess_s, np.inf))


def _batched(
    batch_size: Floats,
    service_mean_s: Floats,
    service_tail_s: Floats,
    service_one_s: Floats,
    rate_rps: Floats,
    items: Floats,
    timeout_s: Floats,
    *,
    percentile: float,
    is_even: bool,
) -> tuple[Floats, Floats]:
    """Mean and quantile of the time at a replica whose batches have several requests, `rate_rps` a second."""
    made = _batches(batch_size, rate_rps, timeout_s, is_even)
    # Nothing is saved by larger batches than were measured.
    item_s = (service_mean_s - service_one_s) / (batch_size - 1)
    one_s, more_s = service_one_s + item_s * (items - 1), item_s * items
    spread = service_spread(service_mean_s, service_tail_s)
    served_s = one_s + more_s * made.more
    varied_s2 = more_s**2 * made.more_variance * (1 + spread) + spread * served_s**2
    # A batch that fills up is open for a shorter time and served for a longer one.
    opened_s2 = np.maximum(
        made.open_variance - 2 * more_s * made.covariance_s, TINY * made.open_s**2 + TINY**2
    )
    between_s = 1 / rate_rps + made.open_s
    between_cv2 = (1 / rate_rps**2 + opened_s2) / between_s**2
    cv2 = between_cv2 + varied_s2 / served_s**2
    is_stable = served_s < between_s
    load = np.where(is_stable, served_s / between_s, 0.5)
    evener = np.exp(-EVENING * (1 - load) / load * (1 - np.minimum(between_cv2, 1.0)) ** 2 / cv2)
    wait_s = load * served_s * cv2 / (2 * (1 - load)) * evener

    # The work before a batch when it opens is above x with the probability factor·exp(−decay·x).
    shape, scale = made.open_s**2 / opened_s2, opened_s2 / np.maximum(made.open_s, TINY)
    decay = _decay(served_s, varied_s2, rate_rps, shape, scale)
    log_factor = np.log(decay * wait_s) + shape * np.log1p(decay * scale)
    # Rows: a request of a batch that closes by time, then those of full ones by the time that it is open.
    open_s, share = _opened(batch_size, rate_rps, timeout_s, made)
    is_timed = (np.arange(len(share)) == 0)[:, None]
    first = np.where(is_timed, 1 / made.timed, 1 / batch_size)
    last = np.where(is_timed, 0.0, first)
    own_s = one_s + more_s * np.where(is_timed, made.met - 1, batch_size - 1)
    own_s2 = spread * own_s**2 + np.where(is_timed, more_s**2 * made.met_variance, 0.0)
    quantile_s = _quantile(share, open_s, first, last, own_s, own_s2, decay, log_factor, 1 - percentile / 100)
    forming_s = (share * open_s * (first + (1 - first - last) / 2)).sum(axis=0)
    mean_s = forming_s + (share * own_s).sum(axis=0) + wait_s
    return np.where(is_stable, mean_s, np.inf), np.where(is_stable, quantile_s, np.inf)


def _batches(batch_size: Floats, rate_rps: Floats, timeout_s: Floats, is_even: bool) -> _Batches:
    """The batches of options with these sizes, requests a second at a replica, and timeouts.

    Requests come at random. Of those that come evenly a batch has λ·timeout on the mean, and one at least.
    """
    most = batch_size - 1
    # Far beyond this all batches are full.
    within = np.minimum(rate_rps * timeout_s, most + 12 * np.sqrt(batch_size) + 40)[:, None]
    more = np.arange(int(batch_size.max()) + 1.0)
    log_factorial = np.cumsum(np.log(np.maximum(more, 1.0)))
    come = np.exp(more * np.log(np.maximum(within, TINY)) - within - log_factorial)
    if is_even:
        come = np.maximum(1 - np.abs(more - np.clip(within - 1, 0.0, most[:, None])), 0.0)
    beyond = np.maximum(1 - np.cumsum(come, axis=1), 0.0)
    timed = np.where(more < most[:, None], come, 0.0)
    ratio = timed.sum(axis=1)
    full_ratio = np.maximum(1 - ratio, 0.0)
    mean = timed @ more + most * full_ratio
    variance = np.maximum(timed @ more**2 + most**2 * full_ratio - mean**2, 0.0)
    open_s = mean / rate_rps
    later = np.where(more[:-1] < most[:, None], more[1:] * beyond[:, 1:], 0.0).sum(axis=1)
    open_variance = np.maximum(2 * later / rate_rps**2 - open_s**2, 0.0)
    # What has come less what was expected to is a martingale: its variance is the mean of what has come.
    covariance_s = (variance + rate_rps**2 * open_variance - mean) / (2 * rate_rps)
    requests = timed @ (more + 1)
    is_never = requests < TINY
    met = np.where(is_never, 1.0, timed @ (more + 1) ** 2 / np.maximum(requests, TINY))
    met_variance = np.maximum(timed @ (more + 1) ** 3 / np.maximum(requests, TINY) - met**2, 0.0)
    size = np.where(is_never, 1.0, requests / np.maximum(ratio, TINY))
    return _Batches(mean, variance, open_s, open_variance, covariance_s, full_ratio, size, met, met_variance)


def _opened(batch_size: Floats, rate_rps: Floats, timeout_s: Floats, made: _Batches) -> tuple[Floats, Floats]:
    """The times that batches are open, and the share of requests in those: by time, then by size in steps.

    Full batches are open as long as their requests take to come (Erlang), if that is before the timeout.
    """
    most = batch_size - 1
    longest = np.minimum(most + 3.5 * np.sqrt(most) + 3 * (most > 0), rate_rps * timeout_s)
    shortest = np.minimum(np.maximum(most - 3.5 * np.sqrt(most), 0.0), longest / 2)
    middle = (np.arange(STEPS) + 0.5)[:, None] / STEPS
    come = np.maximum(shortest + (longest - shortest) * middle, TINY)
    log_density = (batch_size - 2) * np.log(come) - come
    density = np.exp(log_density - log_density.max(axis=0))
    full = batch_size * made.full_ratio / (1 + made.more)
    share = np.vstack([1 - full, full * density / density.sum(axis=0)])
    open_s = np.vstack([np.where(full < 1, timeout_s, 0.0), come / rate_rps])
    return open_s, np.maximum(share, 0.0)


def _decay(served_s: Floats, varied_s2: Floats, rate_rps: Floats, shape: Floats, scale: Floats) -> Floats:
    """The rate at which the tail of the wait decays, at most `FASTEST`.

    It solves E[exp(θ·(service time − time between batches))] = 1: the service time is taken as gamma
    distributed, as the time that a batch is open is (of this shape and scale); until the next one opens it is
    exponential.
    """
    low = np.zeros_like(served_s)
    high = np.minimum(FASTEST / np.sqrt(varied_s2), served_s / varied_s2 * (1 - TINY))
    ratio = served_s**2 / varied_s2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        grows = ratio * np.log1p(-middle * varied_s2 / served_s) + np.log1p(middle / rate_rps)
        is_below = grows + shape * np.log1p(middle * scale) > 0
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return np.asarray((low + high) / 2)


def _quantile(
    share: Floats,
    open_s: Floats,
    first: Floats,
    last: Floats,
    own_s: Floats,
    own_s2: Floats,
    decay: Floats,
    log_factor: Floats,
    late_ratio: float,
) -> Floats:
    """The time that `late_ratio` of the requests exceed; a row each kind of request, a column an option.

    A request is served with its batch, once that has closed and the work before it is done: of its batch's
    requests a share of `first` waits `open_s` for that, `last` not at all, and the others a time that is even
    between. What it exceeds is the sum of both chances, of a kind at most one.
    """
    step_s = np.diff(open_s, axis=0, append=open_s[-1:])
    step_s[0] = 0.0
    deviation_s = np.sqrt(own_s2 + step_s**2 / 12) / LOGISTIC
    between = 1 - first - last
    width_s = np.maximum(open_s, TINY)
    passed = decay * width_s
    kept = first + last * np.exp(-passed) + between * -np.expm1(-passed) / passed
    log_kept = log_factor + np.log(kept) + decay * own_s + decay**2 * own_s2 / 2
    high = np.max(
        np.where(
            share > 0,
            np.maximum(open_s + own_s + 6 * deviation_s * LOGISTIC, (log_kept - log(late_ratio / 2)) / decay),
            0.0,
        ),
        axis=0,
    )
    low = np.zeros_like(high)
    log_low, log_high = np.zeros_like(high), np.full_like(high, -inf)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        soon = np.logaddexp(0.0, (open_s + own_s - middle) / deviation_s)
        now = np.logaddexp(0.0, (own_s - middle) / deviation_s)
        formed = (
            -first * np.expm1(-soon) - last * np.expm1(-now) + between * deviation_s / width_s * (soon - now)
        )
        late = np.log(
            (share * np.minimum(formed + np.exp(np.minimum(log_kept - decay * middle, 0.0)), 1.0)).sum(axis=0)
        )
        is_late = late > log(late_ratio)
        low, log_low = np.where(is_late, middle, low), np.where(is_late, late, log_low)
        high, log_high = np.where(is_late, high, middle), np.where(is_late, log_high, late)
    part = (log_low - log(late_ratio)) / np.maximum(log_low - log_high, TINY)
    return np.asarray(AIM * (low + (high - low) * part))


def carried_in_replica(
    batch_size: int, full_s: float, one_s: float, *, items: float, timeout_s: float, is_behind: bool = False
) -> float:
    """The items a second that keep one replica busy, which batches what was spread to it.

    `full_s` and `one_s` are the mean service times of `batch_size` items and of one. Batches have the
    requests of `items` each that come within `timeout_s`, and no more than `batch_size`
    (`sojourn_in_replica`): with a short timeout it carries much less than full batches would.
    """
    item_s = (full_s - one_s) / (batch_size - 1) if batch_size > 1 else one_s
    # Of a batch of one request, and what each further one adds to it.
    first_s, more_s = one_s + item_s * (items - 1), item_s * items
    if batch_size == 1:
        return items / first_s
    size, timeouts_s = np.array([float(batch_size)]), np.array([timeout_s])
    low, high = 1 / (first_s + more_s * (batch_size - 1)), batch_size / first_s
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rates_rps = np.array([middle])
        more = min(float(_batches(size, rates_rps, timeouts_s, even).more[0]) for even in {False, is_behind})
        is_busy = middle * (first_s + more_s * more) >= 1 + more
        low, high = (low, middle) if is_busy else (middle, high)
    return items * low
