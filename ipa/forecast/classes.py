"""The distribution of the load to come: the forecast, with errors as they were lately."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ipa.forecast.base import Floats, Peak
from ipa.forecast.mixture import Judged, Past
from ipa.model.observation import RATE_SHARES

# At first errors are taken for normally distributed, which counts as much as so many of the past.
PRIOR_ERRORS = 400.0
# The deviations of equally probable parts of a normal distribution.
NORMAL = np.array([NormalDist().inv_cdf((part + 0.5) / 40) for part in range(40)])
# An upper quantile is at least this many deviations above the point.
LEAST_DEVIATIONS = 0.5


def distributed(
    rungs: Sequence[Judged],
    weights: Sequence[float],
    past: Past,
    peak: Peak,
    quantile: float,
    highest_rps: float,
) -> tuple[float, tuple[float, ...]]:
    """The upper quantile of the mixed forecast `peak`, and the mean rate of each class of RATE_SHARES.

    A past error counts in deviations of its forecast. It raises none to more than the highest rate of the
    load, or than the rungs expect.
    """
    deviations = max(NormalDist().inv_cdf(quantile), LEAST_DEVIATIONS)
    points, uppers = (_mixed(rungs, weights, name) for name in ("points", "uppers"))
    known = np.isfinite(uppers - points)
    points, uppers, peaks = points[known], uppers[known], past.peaks[known]
    errors = (peaks - points) / np.maximum(uppers - points, 1e-9) * deviations
    spread_rps = max(peak.upper_rps - peak.point_rps, 0.0) / deviations
    again = np.minimum(peak.point_rps + spread_rps * errors, max(highest_rps, peak.upper_rps))
    rates = np.maximum(np.concatenate((again, peak.point_rps + spread_rps * NORMAL)), 0.0)
    masses = np.concatenate((np.ones(len(again)), np.full(len(NORMAL), PRIOR_ERRORS / len(NORMAL))))
    order = np.argsort(rates)
    rates, ends = rates[order], np.concatenate(([0.0], np.cumsum(masses[order]))) / masses.sum()
    upper_rps = rates[min(int(np.searchsorted(ends[1:], quantile)), len(rates) - 1)]
    sums = np.concatenate(([0.0], np.cumsum(rates * np.diff(ends))))
    means = np.diff(np.interp(np.cumsum((0.0, *RATE_SHARES)), ends, sums)) / RATE_SHARES
    return max(float(upper_rps), peak.point_rps), tuple(means.tolist())


def _mixed(rungs: Sequence[Judged], weights: Sequence[float], name: str) -> Floats:
    """The past answers of the rungs by their present weights; NaN where none could answer."""
    answers = np.array([getattr(each, name) for each in rungs])
    shares = np.isfinite(answers) * np.array(weights)[:, None]
    total = shares.sum(axis=0)
    mixed: Floats = (shares * np.nan_to_num(answers)).sum(axis=0) / np.where(total > 0, total, np.nan)
    return mixed
