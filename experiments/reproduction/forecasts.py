"""The rates that a controller plans for, a tick each: what stands in for the authors' forecaster."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TICK_S = 10
HORIZON_S = 20
# Two minutes of maxima over ten seconds.
WINDOW_S = 120
DAY_S = 86_400
TRAIN_DAYS = 14
# The trace counts eight times what the runs were offered.
DAMPING = 8

Array = NDArray[np.float64]
Rates = tuple[float, ...]


def foresight(pattern: Sequence[float]) -> Rates:
    """The largest rate of the next 20 s: what the authors' LSTM is trained to say, here without error."""
    return tuple(float(max(pattern[at : at + HORIZON_S])) for at in range(0, len(pattern), TICK_S))


def last_maximum(pattern: Sequence[float]) -> Rates:
    """The largest rate of the last 20 s; at the start of what was seen."""
    ticks = range(0, len(pattern), TICK_S)
    return tuple(float(max(pattern[max(0, at - HORIZON_S) : max(at, 1)])) for at in ticks)


@dataclass(frozen=True, slots=True)
class Learned:
    """A line through the last twelve ten-second maxima, least squares: it stands in for the LSTM.

    Before two minutes were seen it is the last maximum, as in the authors' program.
    """

    weights: Array

    def __call__(self, pattern: Sequence[float]) -> Rates:
        """The rates, at least 1."""
        rates = list(last_maximum(pattern))
        for tick, at in enumerate(range(0, len(pattern), TICK_S)):
            if at >= WINDOW_S:
                window = np.asarray(pattern[at - WINDOW_S : at], dtype=np.float64)
                peaks = window.reshape(-1, TICK_S).max(axis=1)
                rates[tick] = max(1.0, float(peaks @ self.weights[:-1] + self.weights[-1]))
        return tuple(rates)


def learned(trace: Path) -> Learned:
    """The line fitted to days 1 to 14 of the trace, outages left out."""
    with gzip.open(trace, "rt", encoding="ascii") as lines:
        counts = np.array([int(next(lines)) for _ in range(TRAIN_DAYS * DAY_S)])
    return fitted((counts[counts > 0] // DAMPING).astype(np.float64))


def fitted(rates: Array) -> Learned:
    """The line fitted to rates per second."""
    maxima = rates[: len(rates) // TICK_S * TICK_S].reshape(-1, TICK_S).max(axis=1)
    steps, ahead = WINDOW_S // TICK_S, HORIZON_S // TICK_S
    windows = np.lib.stride_tricks.sliding_window_view(maxima, steps + ahead)
    known = np.column_stack([windows[:, :steps], np.ones(len(windows))])
    weights, *_ = np.linalg.lstsq(known, windows[:, steps:].max(axis=1), rcond=None)
    return Learned(weights)


def at_mean(rates: Rates, mean_rps: float) -> Rates:
    """The rates, all by one factor, so that their mean is as given."""
    factor = mean_rps * len(rates) / sum(rates)
    return tuple(rate * factor for rate in rates)


Forecast = Callable[[Sequence[float]], Rates]
