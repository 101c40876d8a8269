"""The load from the samples of its counters: what came between two scrapes, series by series.

No window averages it, so a rise shows with the next scrape, and a counter that is replaced, as on targets
where each write restarts the process that counts, leaves a short gap instead of rates that are too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ipa.forecast.base import SMOOTH_S, Floats
from ipa.model.observation import LoadHistory

# The times of a series' samples, in s, oldest first, and its counts.
Counted = tuple[Floats, Floats]

STEP_S = 1.0
# A series without a sample for so many of its intervals has ended; for one, if another began since.
ENDED = 2.0


def load_of(series: Sequence[Counted], window_s: float) -> LoadHistory | None:
    """The rate in each second of the window that ends with the newest sample; None if none is known.

    A count that falls has begun again at 0, and so has a series that begins with less than all others counted
    in the window. A gap is where the rate is unknown: before the first interval, after a series has ended,
    and before the first sample of one that may have counted for longer. A series whose next sample is due, or
    was missed once, keeps its last rate.
    """
    series = [each for each in series if len(each[0])]
    if not series:
        return None
    newest_s = max(times_s[-1] for times_s, _ in series)
    end_s = np.floor(newest_s)
    seconds = np.arange(end_s - round(window_s) + 1, end_s + 1)
    rates_rps, known = np.zeros(len(seconds)), np.zeros(len(seconds), dtype=bool)
    unknown = known.copy()
    increases = [np.where(np.diff(counts) < 0, counts[1:], np.diff(counts)) for _, counts in series]
    gaps = [np.diff(times_s) for times_s, _ in series]
    lengths_s = [float(np.median(each)) for each in gaps if len(each)]
    usual_s = float(np.median(lengths_s)) if lengths_s else STEP_S
    firsts_s, counted = [times_s[0] for times_s, _ in series], sum(each.sum() for each in increases)
    for (times_s, counts), increase, gap_s in zip(series, increases, gaps, strict=True):
        every_s = float(np.median(gap_s)) if len(gap_s) else usual_s
        if times_s[0] > min(firsts_s) + every_s:
            before = (seconds > times_s[0] - every_s) & (seconds <= times_s[0])
            if counts[0] <= counted - increase.sum():
                rates_rps[before] += counts[0] / every_s
                known |= before
            else:
                unknown |= before
        if not len(gap_s):
            continue
        inside, after = (seconds > times_s[0]) & (seconds <= times_s[-1]), seconds > times_s[-1]
        until_s, since_s = seconds[inside], np.maximum(seconds[inside] - STEP_S, times_s[0])
        came = np.interp((since_s, until_s), times_s, np.concatenate(([0.0], np.cumsum(increase))))
        rates_rps[inside] += (came[1] - came[0]) / (until_s - since_s)
        missed = (newest_s - times_s[-1]) / every_s
        if missed < (1.0 if max(firsts_s) > times_s[-1] else ENDED):
            rates_rps[after] += increase[-1] / gap_s[-1]
            inside |= after
        else:
            unknown |= after & (seconds <= times_s[-1] + every_s)
        known |= inside
    known &= ~unknown
    if not known.any():
        return None
    rates = tuple(rate if it else None for rate, it in zip(rates_rps.tolist(), known.tolist(), strict=True))
    return LoadHistory(STEP_S, rates, usual_s if usual_s > STEP_S else 0.0, float(end_s))


def present_rps(load: LoadHistory) -> float:
    """The newest rate, over SMOOTH_S; of a load that ends with a gap, that before it."""
    rates = load.rates_rps
    end = next((at for at in range(len(rates), 0, -1) if rates[at - 1] is not None), 0)
    return replace(load, rates_rps=rates[:end]).mean_rps(SMOOTH_S) or 0.0
