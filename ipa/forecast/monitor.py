"""Accuracy of the forecasts that a pipeline was planned with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForecastTick:
    """The observed rate and the forecast of a tick, at a time in seconds; None is unknown."""

    at_s: float
    rate_rps: float | None
    point_rps: float | None
    upper_rps: float | None


@dataclass(frozen=True, slots=True)
class Monitor:
    """Accuracy of past forecasts against the highest rate observed within their horizon.

    `covered_ratio` is the share whose upper quantile was not exceeded: about the quantile if the band is
    honest. `error_ratio` is Σ|point − peak| / Σ peak, `bias_ratio` the same with its sign: above 0 for
    forecasts above the load. Peaks are those that ticks observed, so a shorter one between two ticks is not
    counted.
    """

    forecasts: int
    covered_ratio: float
    error_ratio: float
    bias_ratio: float


def monitor(ticks: Sequence[ForecastTick], horizon_s: float) -> Monitor | None:
    """The accuracy over ticks in the order of time; None before the first horizon is over."""
    seen = [(tick.at_s, tick.rate_rps) for tick in ticks if tick.rate_rps is not None]
    times_s = [at_s for at_s, _ in seen]
    count = covered = 0
    peaks = errors = biases = 0.0
    for tick in ticks:
        if tick.point_rps is None or tick.upper_rps is None or tick.at_s + horizon_s > ticks[-1].at_s:
            continue
        after, until = (bisect_right(times_s, at_s) for at_s in (tick.at_s, tick.at_s + horizon_s))
        if after == until:
            continue
        peak = max(rate for _, rate in seen[after:until])
        count += 1
        covered += peak <= tick.upper_rps
        peaks += peak
        errors += abs(tick.point_rps - peak)
        biases += tick.point_rps - peak
    if not count or peaks <= 0:
        return None
    return Monitor(count, covered / count, errors / peaks, biases / peaks)
