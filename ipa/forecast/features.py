"""Features of the boosted rung: minutes of load relative to its level, and the time of day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa.forecast.base import Floats, Ints, Series, sliding_max

# A load's level is its mean over IPA's window; all features are relative to it, so any scale fits.
LEVEL_S = 120.0
# Bursts recur within minutes: their height in the last ten minutes predicts the next one.
BACK_S = 600.0
MEANS_S = (3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0)
MAXIMA_S = (20.0, 60.0, 120.0)
BLOCK_S = 10.0
BLOCKS = 12
SPREADS_S = (20.0, 120.0, 600.0)
# Spans over which the mean height of peaks over a horizon is taken.
PEAKS_S = (120.0, 300.0, 600.0)
LAST_STEPS = 5
COLUMNS = len(MEANS_S) + len(MAXIMA_S) + BLOCKS + len(SPREADS_S) + len(PEAKS_S) + LAST_STEPS + 5
# Keeps the logarithm of an idle second finite.
LEAST_RATIO = 0.01
DAY_S, HOUR_S = 86400.0, 3600.0
# With fewer days the mean of a second of the day is hardly more than that second's noise.
FEWEST_DAYS = 3


@dataclass(frozen=True, slots=True)
class DayProfile:
    """Mean peak height at each step of the day, as the log of peak over level.

    `counts` are the days observed at that step, `sums` the sums over them; both (steps a day,).
    """

    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, slots: Ints, logs: Floats, steps_a_day: int) -> DayProfile:
        """The profile of `logs` at the steps of the day `slots`, arrays of one length."""
        sums = np.bincount(slots, logs, steps_a_day)
        counts = np.bincount(slots, minlength=steps_a_day)
        return cls(sums.astype(np.float64), counts.astype(np.float64))

    def at(self, slots: Ints) -> Floats:
        """The mean at those steps of the day, 0 if none was observed."""
        return self.without(slots, np.zeros(len(slots)), np.zeros(len(slots)))

    def without(self, slots: Ints, logs: Floats, known: Floats) -> Floats:
        """The means without the values `logs`, included where `known` is 1: a day must not see itself."""
        counts = self.counts[slots] - known
        sums = self.sums[slots] - logs * known
        means: Floats = np.divide(sums, counts, out=np.zeros(len(slots)), where=counts > 0)
        return means


def day_slots(series: Series, ends: Ints) -> Ints:
    """The step of the day of each of `ends`; zeros if the time of day is unknown."""
    if series.end_s is None:
        return np.zeros(len(ends), dtype=np.int64)
    return np.round(_times(series, ends) % DAY_S / series.step_s).astype(np.int64) % steps_a_day(series)


def days_of(series: Series, ends: Ints) -> int:
    """The days that `ends` are on; none if the time of day is unknown."""
    return 0 if series.end_s is None else len(np.unique(_times(series, ends) // DAY_S))


def steps_a_day(series: Series) -> int:
    """Steps in a day."""
    return series.steps(DAY_S)


def levels(series: Series, ends: Ints) -> Floats:
    """The mean over the last LEVEL_S before each of `ends`, never 0."""
    sums = _prefix(series.rates_rps)
    width = series.steps(LEVEL_S)
    means: Floats = np.maximum((sums[ends] - sums[ends - width]) / width, 1.0 / LEVEL_S)
    return means


def features(series: Series, ends: Ints, ahead: int, profile: Floats) -> tuple[Floats, Floats]:
    """For each of `ends` its COLUMNS features, and its level; `profile` is the day profile there.

    Uses only the BACK_S before an end.
    """
    rates = series.rates_rps
    scales = levels(series, ends)
    sums, squares = (_prefix(each) for each in (rates, rates * rates))
    columns: list[NDArray[Any]] = []

    def mean(prefix: Floats, width: int, last: Ints = ends) -> Floats:
        means: Floats = np.asarray((prefix[last] - prefix[last - width]) / width)
        return means

    def log_ratio(values: Floats) -> None:
        columns.append(np.log(values / scales + LEAST_RATIO))

    for seconds in MEANS_S:
        log_ratio(mean(sums, series.steps(seconds)))
    for seconds in MAXIMA_S:
        width = series.steps(seconds)
        log_ratio(sliding_max(rates, width)[ends - width])
    block = series.steps(BLOCK_S)
    blocks = sliding_max(rates, block)
    for lag in range(1, BLOCKS + 1):
        log_ratio(blocks[ends - lag * block])
    for seconds in SPREADS_S:
        width = series.steps(seconds)
        variance = np.maximum(mean(squares, width) - mean(sums, width) ** 2, 0.0)
        columns.append(np.sqrt(variance) / scales)
    peaks = _prefix(sliding_max(rates, ahead))
    for seconds in PEAKS_S:
        width = max(1, series.steps(seconds) - ahead)
        columns.append(mean(peaks, width, ends - ahead + 1) / scales)
    columns.extend(rates[ends - back] / scales for back in range(1, LAST_STEPS + 1))
    # Requests in the level's window: a measure of the counting noise.
    columns.append(np.log(scales * LEVEL_S))
    times = np.zeros(len(ends)) if series.end_s is None else _times(series, ends)
    angle = 2 * np.pi * times / DAY_S
    columns.extend([np.sin(angle), np.cos(angle), times % HOUR_S, profile])
    return np.column_stack(columns), scales


def _prefix(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate(([0.0], np.cumsum(values)))


def _times(series: Series, ends: Ints) -> Floats:
    """The times of `ends`, in seconds since a midnight."""
    back_s = (len(series.rates_rps) - ends).astype(np.float64) * series.step_s
    return (series.end_s or 0.0) - back_s
