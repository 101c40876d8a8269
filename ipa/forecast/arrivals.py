"""Arrival processes: request times from rates per second, and rates per second of named workloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ipa.forecast.base import Floats
from ipa.model.errors import InputError

SPACINGS = ("poisson", "even", "burst")


def request_times(rates_rps: ArrayLike, spacing: str = "poisson", *, seed: int | Sequence[int] = 0) -> Floats:
    """The times in s of all requests, rising: `rates_rps[i]` a second in [i, i + 1).

    "poisson": a random number of requests in each second, at random times. "even": a request each time the
    rates' integral passes another half-integer. "burst": as many as "even", all at the start of their second,
    as the load generators of the papers send them. Only "poisson" depends on the seed. InputError for rates
    that are negative or not finite, or an unknown spacing.
    """
    rates = np.asarray(rates_rps, dtype=np.float64)
    if rates.ndim != 1 or not np.all(np.isfinite(rates)) or np.any(rates < 0):
        raise InputError("rates_rps must be numbers of zero or more, one a second")
    seconds = np.arange(len(rates))
    if spacing == "poisson":
        rng = np.random.default_rng(seed)
        counts = rng.poisson(rates)
        places: Floats = np.sort(np.repeat(seconds, counts) + rng.random(int(counts.sum())))
    elif spacing == "even":
        total = np.concatenate([[0.0], np.cumsum(rates)])
        targets = np.arange(int(np.floor(total[-1] + 0.5))) + 0.5
        # Second i has the targets in (total[i], total[i + 1]]; a sum of rounding errors must not leave it.
        at = np.minimum(np.searchsorted(total[1:], targets, side="left"), max(len(rates) - 1, 0))
        inside = (targets - total[at]) / np.maximum(rates[at], 1e-300)
        places = at + np.clip(inside, 0.0, np.nextafter(1.0, 0.0))
    elif spacing == "burst":
        ends = np.floor(np.cumsum(rates) + 0.5).astype(np.int64)
        places = np.repeat(seconds.astype(np.float64), np.diff(ends, prepend=0))
    else:
        raise InputError(f"there is no spacing {spacing!r}", hint=f"There are: {', '.join(SPACINGS)}")
    return places


def steps(*parts: tuple[float, int]) -> Floats:
    """Rates per second; each part is a rate in rps and its duration in seconds."""
    return np.repeat([float(rate) for rate, _ in parts], [int(seconds) for _, seconds in parts])


@dataclass(frozen=True, slots=True)
class LoadPattern:
    """A load of 20 minutes, under its name in the IPA paper.

    `corners` are (second, rate in rps), with straight lines between; `noise_rps` is the standard deviation of
    a second's rate around them.
    """

    corners: tuple[tuple[int, float], ...]
    noise_rps: float
    least_rps: float
    most_rps: float


# Shape and figures of the workloads of Ghafouri et al., IPA, JSys 2024: a Twitter trace over 8.
_BURST = ((10, 22.0), (30, 27.0), (150, 28.5), (165, 25.0), (330, 25.5), (360, 14.5), (400, 13.5), (440, 6.5))
WORKLOADS = {
    "bursty": LoadPattern(
        (
            (0, 5.0), (300, 5.1), (385, 6.0), (392, 15.0), *((392 + at, rate) for at, rate in _BURST),
            (1200, 5.5),
        ),
        1.5, 3.0, 34.0,
    ),
    "steady_low": LoadPattern(((0, 5.06), (1200, 5.06)), 0.94, 3.0, 8.0),
    "steady_high": LoadPattern(((0, 28.84), (1200, 28.84)), 1.92, 23.0, 34.0),
    "fluctuating": LoadPattern(
        (
            (0, 5.0), (145, 6.0), (152, 15.0), *((152 + at, rate) for at, rate in _BURST), (600, 6.3),
            (735, 7.5), (750, 17.0), (765, 25.0), (810, 28.5), (885, 27.5), (915, 23.0), (985, 20.5),
            (1005, 12.0), (1035, 8.0), (1065, 6.9), (1200, 6.3),
        ),
        1.7, 3.0, 34.0,
    ),
}  # fmt: skip


def workload_rates(name: str, *, seed: int = 0) -> Floats:
    """The 1 200 rates per second in rps of the named workload; InputError for an unknown name.

    They are generated with the shape, mean and range of the papers' own, in whole requests a second.
    """
    if name not in WORKLOADS:
        raise InputError(f"there is no workload {name!r}", hint=f"There are: {', '.join(WORKLOADS)}")
    load = WORKLOADS[name]
    at, rates = zip(*load.corners, strict=True)
    smooth = np.interp(np.arange(1200), at, rates)
    names = sorted(WORKLOADS)
    noise = np.random.default_rng([seed, names.index(name)]).normal(0.0, load.noise_rps, 1200)
    made: Floats = np.clip(np.rint(smooth + noise), load.least_rps, load.most_rps)
    return made
