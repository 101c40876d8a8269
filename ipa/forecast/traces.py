"""Recorded loads: requests by the second, and the zeros among them that are collector outages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ipa.forecast.base import Flags

# A run of zeros with this many expected requests is an outage: one in 5·10⁸ of Poisson arrivals.
DUE = 20.0
# Counts on either side that give the expected number.
NEAR = 60


def outages(counts: Sequence[float]) -> Flags:
    """True for each count in a run of zeros in which about DUE requests or more were expected.

    Expected is the lesser of the means of the NEAR counts before it outside such runs, and of those after it:
    a load that becomes idle is no outage.
    """
    rates = np.asarray(counts, dtype=np.float64)
    edges = np.diff(np.concatenate(([0], (rates == 0).astype(np.int8), [0])))
    is_outage = np.zeros(len(rates), dtype=np.bool_)
    for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        before = rates[max(0, start - NEAR) : start][~is_outage[max(0, start - NEAR) : start]]
        sides = [side for side in (before, rates[stop : stop + NEAR]) if len(side)]
        if sides and min(float(side.mean()) for side in sides) * (stop - start) >= DUE:
            is_outage[start:stop] = True
    return is_outage
