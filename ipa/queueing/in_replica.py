"""Sojourn times at a stage whose replicas batch by themselves, as MLServer does."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ipa.queueing.tail import TINY, Floats, Sojourn, service_spread

# The times that full batches take to fill are taken together in this many steps.
STEPS = 6
# Kinds of requests that are fewer than this share of an option's do not count.
LEAST_SHARE = 1e-6
# Steps of the search for the quantile, to a thousandth.
HALVINGS = 10
# Kraemer and Langenbach-Belz's correction of the mean wait for even arrivals.
EVENING = 2 / 3
# The planner prefers options whose times are predicted too short: predictions aim this much high (chosen).
AIM = 1.01
# A normal tail is nearly a logistic one at this many times the deviations.
LOGISTIC = 1.702
# An exponent whose power is still a float.
FARTHEST = 500.0
# Bisections until a billionth of the interval, and Newton's steps until the last bits of a float.
BISECTIONS, NEWTON_STEPS = 30, 20
# A wait counts as none below this share of that behind requests at random.
LEAST_WAIT = 1e-3


@dataclass(frozen=True, slots=True)
class _Batches:
    """The batches that a replica forms from random requests; one entry per option.

    `more` counts the requests after a batch's first, `open_s` is the time from the first to the closing,
    `covariance_s` their covariance. `full_ratio` is the share of batches that close by size. `timed` is the
    mean size of the others, `met` and `met_variance` describe the size that a request in one of these sees.
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


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds of requests, by options; the share `share` of an option's requests is in batches open `open_s`.

    The kinds of option i begin at begins[i]. Of a batch's requests a share `first` waits for all of that
    time, and `last` for none of it. `step_s` is the width of the interval that `open_s` stands for.
    """

    option: NDArray[np.intp]
    begins: NDArray[np.intp]
    is_timed: NDArray[np.bool_]
    share: Floats
    open_s: Floats
    step_s: Floats
    first: Floats
    last: Floats

    def summed(self, values: Floats) -> Floats:
        """The sum over each option's kinds."""
        return np.asarray(np.add.reduceat(values, self.begins))


@dataclass(frozen=True, slots=True)
class _Work:
    """The work that batches bring to a replica; one entry per option.

    The first request of a batch takes `one_s`, each other one `more_s`, a batch `served_s` on the mean with
    variance `varied_s2`. The mean time between two batches is `between_s`; `opened_s2` is the variance of the
    part of it in which a batch is open, less what the batch's size makes up for in service.
    """

    one_s: Floats
    more_s: Floats
    spread: Floats
    served_s: Floats
    varied_s2: Floats
    opened_s2: Floats
    between_s: Floats
    between_cv2: Floats

    @property
    def load(self) -> Floats:
        """The share of the time that the replica is busy."""
        return np.asarray(self.served_s / self.between_s)

    @property
    def cv2(self) -> Floats:
        """The squared coefficients of variation of service time and time between batches, added."""
        return np.asarray(self.between_cv2 + self.varied_s2 / self.served_s**2)


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
    evenly: bool = False,
) -> Sojourn:
    """The sojourn time, as `tail.sojourn`, for replicas that batch by themselves; arrays of one shape.

    Requests are spread at random over the replicas. All items of a request are in one batch. A batch of
    several requests closes `timeout_s` after its first, or once it has `batch_size`, whether its replica is
    busy or not: so it never has more than arrive in that time, however many wait. It then waits for the
    batches before it. Requests arrive at random, or `evenly`: as far apart as possible. Rules:
    `mlserver.batching`; derivation and accuracy: docs/explanation/queueing.md.
    """
    timeout_s = np.where(batch_size == 1, 0.0, timeout_s)
    rate_rps = rate_rps / (items * replicas)
    made = _batches(batch_size, rate_rps, _come(replicas, rate_rps, timeout_s, evenly))
    work = _work(batch_size, service_mean_s, service_tail_s, service_one_s, rate_rps, items, made)
    is_stable = work.load < 1
    load = np.where(is_stable, work.load, 0.5)
    evener = np.exp(-EVENING * (1 - load) / load * (1 - np.minimum(work.between_cv2, 1.0)) ** 2 / work.cv2)
    wait_ratio = _wait_ratio(replicas, rate_rps, timeout_s, made, work) if evenly else 1.0
    wait_s = load * work.served_s * work.cv2 / (2 * (1 - load)) * evener * wait_ratio

    # The work before a batch when it opens is above x with the probability factor·exp(−decay·x).
    shape, scale = made.open_s**2 / work.opened_s2, work.opened_s2 / np.maximum(made.open_s, TINY)
    decay, factor = _tail(work, rate_rps, shape, scale)
    decay, log_factor = decay / wait_ratio, np.log(factor)
    # Chernoff's bound of the sum with a normal service time is least at this rate, or below it.
    decay = np.minimum(decay, NormalDist().inv_cdf(percentile / 100) / np.sqrt(work.varied_s2))
    # Of the work when it opens, what is left when it closes counts.
    log_factor = log_factor + shape * np.log1p(decay * scale)
    kinds = _kinds(batch_size, rate_rps, timeout_s, made)
    at, size = kinds.option, batch_size[kinds.option]
    of_batch = np.where(kinds.is_timed, made.met[at], size)
    own_s = work.one_s[at] + work.more_s[at] * (of_batch - 1)
    own_s2 = work.spread[at] * own_s**2 + np.where(
        kinds.is_timed, (work.more_s**2 * made.met_variance)[at], 0.0
    )
    quantile_s = _time_exceeded_by(kinds, own_s, own_s2, decay, log_factor, 1 - percentile / 100)
    forming_s = kinds.open_s * (kinds.first + (1 - kinds.first - kinds.last) / 2)
    mean_s = kinds.summed(kinds.share * (forming_s + own_s)) + wait_s
    excess_s = np.maximum(quantile_s - mean_s, 0.0)
    return Sojourn(np.where(is_stable, mean_s, np.inf), np.where(is_stable, excess_s, np.inf))


def _come(replicas: Floats, rate_rps: Floats, timeout_s: Floats, evenly: bool) -> Floats:
    """The mean number of requests that arrive after a batch's first and before its timeout.

    Of evenly spaced requests it is the mean rounded down or up at random: up to one fewer.
    """
    return np.asarray(np.maximum(rate_rps * timeout_s - evenly / replicas, 0.0))


def _wait_ratio(replicas: Floats, rate_rps: Floats, timeout_s: Floats, made: _Batches, work: _Work) -> Floats:
    """The wait behind evenly spaced requests, as a share of the wait behind random ones.

    The longest wait that work gathers within any time t, √(2·e·V·t) − (1 − ρ)·t, is proportional to the
    variance V of the arriving work (robust queueing); λ·(dρ/dλ)² of V comes from the number of requests,
    which one of n replicas gets less evenly.
    """
    size = 1 + made.more
    rising = np.minimum(rate_rps * timeout_s, 1 / TINY) * (1 - made.full_ratio)
    slope_s = work.served_s / size - rising * (work.one_s - work.more_s) / size**2
    varied_s = work.served_s**2 * work.cv2 / work.between_s
    counted = np.minimum(rate_rps * slope_s**2 / varied_s, 1.0)
    return np.asarray(np.maximum(1 - counted / replicas, LEAST_WAIT))


def _work(
    batch_size: Floats,
    service_mean_s: Floats,
    service_tail_s: Floats,
    service_one_s: Floats,
    rate_rps: Floats,
    items: Floats,
    made: _Batches,
) -> _Work:
    """The work of the batches `made`."""
    # Batches larger than measured save nothing more.
    item_s = (service_mean_s - service_one_s) / np.maximum(batch_size - 1, 1)
    item_s = np.where(batch_size == 1, service_one_s, item_s)
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
    return _Work(one_s, more_s, spread, served_s, varied_s2, opened_s2, between_s, between_cv2)


def _batches(batch_size: Floats, rate_rps: Floats, come: Floats) -> _Batches:
    """The batches of options with these sizes, and requests a second at a replica.

    After its first request a batch gets those that arrive at random, on average `come` of them within the
    timeout. Many options have the same size and `come`: each pair is computed once.
    """
    # Far beyond this all batches are full.
    most_come = np.minimum(come, batch_size + 12 * np.sqrt(batch_size) + 40)
    pairs, own = np.unique(batch_size + 1j * most_come, return_inverse=True)
    size, most, within = pairs.real, pairs.real - 1, pairs.imag[:, None]
    more = np.arange(int(size.max(initial=1.0)) + 1.0)
    log_factorial = np.cumsum(np.log(np.maximum(more, 1.0)))
    chance = np.exp(more * np.log(np.maximum(within, TINY)) - within - log_factorial)
    beyond = np.maximum(1 - np.cumsum(chance, axis=1), 0.0)
    timed = np.where(more < most[:, None], chance, 0.0)
    ratio = timed.sum(axis=1)
    full_ratio = np.maximum(1 - ratio, 0.0)
    mean = timed @ more + most * full_ratio
    variance = np.maximum(timed @ more**2 + most**2 * full_ratio - mean**2, 0.0)
    later = np.where(more[:-1] < most[:, None], more[1:] * beyond[:, 1:], 0.0).sum(axis=1)
    # In units of the time between two requests.
    open_variance = np.maximum(2 * later - mean**2, 0.0)
    requests = timed @ (more + 1)
    is_never = requests < TINY
    met = np.where(is_never, 1.0, timed @ (more + 1) ** 2 / np.maximum(requests, TINY))
    met_variance = np.maximum(timed @ (more + 1) ** 3 / np.maximum(requests, TINY) - met**2, 0.0)
    timed_size = np.where(is_never, 1.0, requests / np.maximum(ratio, TINY))
    return _Batches(
        more=mean[own],
        more_variance=variance[own],
        open_s=mean[own] / rate_rps,
        open_variance=open_variance[own] / rate_rps**2,
        # Arrivals minus their expected number are a martingale: its variance is their mean.
        covariance_s=(variance + open_variance - mean)[own] / (2 * rate_rps),
        full_ratio=full_ratio[own],
        timed=timed_size[own],
        met=met[own],
        met_variance=met_variance[own],
    )


def _kinds(batch_size: Floats, rate_rps: Floats, timeout_s: Floats, made: _Batches) -> _Kinds:
    """The kinds of requests of options: of batches that close by time, then of full ones by steps of time.

    Full batches are open until their last request arrives (Erlang), if that is before the timeout.
    """
    full = batch_size * made.full_ratio / (1 + made.more)
    fills = np.flatnonzero(full > LEAST_SHARE)
    size, rate, most = batch_size[fills], rate_rps[fills], batch_size[fills] - 1
    longest = np.minimum(most + 3.5 * np.sqrt(most) + np.where(most > 0, 3.0, 0.0), rate * timeout_s[fills])
    shortest = np.minimum(np.maximum(most - 3.5 * np.sqrt(most), 0.0), longest / 2)
    middle = (np.arange(STEPS) + 0.5)[:, None] / STEPS
    come = np.maximum(shortest + (longest - shortest) * middle, TINY)
    log_density = (size - 2) * np.log(come) - come
    density = np.exp(log_density - log_density.max(axis=0))
    sized = full[fills] * density / density.sum(axis=0)
    timed = np.flatnonzero(full < 1 - LEAST_SHARE)
    option = np.concatenate([timed, np.tile(fills, STEPS)])
    order = np.argsort(option, kind="stable")
    option, is_timed = option[order], order < len(timed)
    first = 1 / np.where(is_timed, made.timed[option], batch_size[option])
    return _Kinds(
        option=option,
        begins=np.searchsorted(option, np.arange(len(batch_size))),
        is_timed=is_timed,
        share=np.concatenate([1 - full[timed], sized.ravel()])[order],
        open_s=np.concatenate([timeout_s[timed], (come / rate).ravel()])[order],
        step_s=np.concatenate([np.zeros(len(timed)), np.tile((longest - shortest) / rate / STEPS, STEPS)])[
            order
        ],
        first=first,
        # The only request of a batch is its first.
        last=np.where(is_timed | (first == 1), 0.0, first),
    )


def _tail(work: _Work, rate_rps: Floats, shape: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """The rate at which the tail of the work before a batch decays, and its factor (1 if it grows).

    The rate solves E[exp(θ·X)] = 1 for X, the service time less the time between batches. The service time is
    taken as gamma distributed, and so is the time that a batch is open (with this shape and scale); the time
    until the next batch opens is exponential, at λ. The factor is −E[X]·λ/(λ + θ)/E[X·exp(θ·X)], as at M/G/1.
    """
    served_s, varied_s2 = work.served_s, work.varied_s2
    ratio, most = served_s**2 / varied_s2, served_s / varied_s2
    # In y, θ = most·(1 − exp(−y)), the logarithm is concave: Newton's steps from above do not pass its root.
    waits = most / rate_rps, shape, most * scale
    spaced = np.log1p(waits[0]) + shape * np.log1p(waits[2])
    y = spaced / ratio
    for _ in range(NEWTON_STEPS):
        left, gone = -np.expm1(-y), np.exp(-y)
        one, other = waits[0] * left, waits[2] * left
        value = np.log1p(one) + shape * np.log1p(other) - ratio * y
        slope = gone * (waits[0] / (1 + one) + shape * waits[2] / (1 + other)) - ratio
        y = np.maximum(y - value / np.minimum(slope, -TINY), 0.0)
    decay = np.maximum(-most * np.expm1(-y), TINY)
    tilted_s = (
        served_s * np.exp(np.minimum(y, FARTHEST))
        - shape * scale / (1 + decay * scale)
        - 1 / (rate_rps + decay)
    )
    factor = (work.between_s - served_s) * rate_rps / (rate_rps + decay) / tilted_s
    return decay, np.where((work.load < 1) & (factor > 0), factor, 1.0)


def _time_exceeded_by(
    kinds: _Kinds, own_s: Floats, own_s2: Floats, decay: Floats, log_factor: Floats, late_ratio: float
) -> Floats:
    """The time that `late_ratio` of the requests exceed, per option; `own_s` and `own_s2` are per kind.

    A request is served with its batch, once that has closed and earlier work is done. For the closing a share
    `first` of the requests waits `open_s`, a share `last` not at all, the others a uniform time between. The
    chance to exceed a time is the sum of the chances of both waits, per kind at most one.
    """
    at, open_s = kinds.option, kinds.open_s
    deviation_s = np.sqrt(own_s2 + kinds.step_s**2 / 12) / LOGISTIC
    between = 1 - kinds.first - kinds.last
    width_s = np.maximum(open_s, TINY)
    rate = decay[at]
    passed = rate * width_s
    tail = kinds.first + kinds.last * np.exp(-passed) + between * -np.expm1(-passed) / passed
    log_kept = log_factor[at] + np.log(tail) + rate * own_s + rate**2 * own_s2 / 2
    longest = np.maximum(open_s + own_s + 6 * deviation_s * LOGISTIC, (log_kept - log(late_ratio / 2)) / rate)
    high = np.maximum.reduceat(longest, kinds.begins)
    low = np.zeros_like(high)
    log_low, log_high = np.zeros_like(high), np.full_like(high, -inf)
    even = between * deviation_s / width_s
    for step in range(HALVINGS):
        # Alternately at the point by an exponential tail between the ends, and in the middle.
        part = (log_low - log(late_ratio)) / np.maximum(log_low - log_high, TINY)
        middle = low + (high - low) * (part if step % 2 else 0.5)
        past_s = own_s - middle[at]
        soon = np.logaddexp(0.0, (open_s + past_s) / deviation_s)
        now = np.logaddexp(0.0, past_s / deviation_s)
        formed = even * (soon - now) - kinds.first * np.expm1(-soon) - kinds.last * np.expm1(-now)
        waits = np.exp(np.minimum(log_kept - rate * middle[at], 0.0))
        late = np.log(kinds.summed(kinds.share * np.minimum(formed + waits, 1.0)))
        is_late = late > log(late_ratio)
        low, log_low = np.where(is_late, middle, low), np.where(is_late, late, log_low)
        high, log_high = np.where(is_late, high, middle), np.where(is_late, log_high, late)
    part = (log_low - log(late_ratio)) / np.maximum(log_low - log_high, TINY)
    return np.asarray(AIM * (low + (high - low) * part))


def carried_in_replica(
    batch_size: Floats,
    replicas: Floats,
    full_s: Floats,
    one_s: Floats,
    *,
    items: Floats,
    timeout_s: Floats,
    evenly: bool = False,
) -> Floats:
    """The items a second that keep a replica busy that batches by itself.

    `full_s` and `one_s` are the mean service times of `batch_size` items and of one. Batches have the
    requests that arrive within `timeout_s`, and no more than `batch_size` (`sojourn_in_replica`): with a
    short timeout a replica carries much less than with full batches.
    """
    timeout_s = np.where(batch_size == 1, 0.0, timeout_s)
    low, high = np.zeros_like(full_s), batch_size / (one_s * np.minimum(items, 1.0))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        made = _batches(batch_size, middle, _come(replicas, middle, timeout_s, evenly))
        is_busy = _work(batch_size, full_s, full_s, one_s, middle, items, made).load >= 1
        low, high = np.where(is_busy, low, middle), np.where(is_busy, middle, high)
    return np.asarray(items * low)
