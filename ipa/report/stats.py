"""Means over seeds, their confidence intervals, and the figures of runs that differ only by their seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

LEVEL = 0.95
# Two figures that differ by less than this part of them are equal.
ROUNDING = 1e-9
REASONS, FIRST_FAILURE = "decisions_by_reason", "first_failure"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with half the width of its 95 % confidence interval; None if there is only one value."""

    value: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float:
        """The lower end of the interval; the mean without one."""
        return self.value - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """The upper end of the interval; the mean without one."""
        return self.value + (self.half_width or 0.0)

    def scaled(self, by: float) -> Mean:
        """The mean and its interval in another unit."""
        return Mean(by * self.value, None if self.half_width is None else by * self.half_width, self.count)

    def differs_from(self, value: float) -> bool | None:
        """True if the interval excludes the value; None without an interval."""
        return None if self.half_width is None else not self.low <= value <= self.high


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean over seeds with Student's t interval; None for no values."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    count = len(known)
    if count == 1:
        return Mean(known[0], None, 1)
    return Mean(fmean(known), student_t(count - 1) * stdev(known) / math.sqrt(count), count)


def means_of(
    rows: Sequence[Mapping[str, float | None]], *, missing: float | None = None
) -> dict[str, Mean | None]:
    """The means of rows of figures, a row a seed, over the rows that have the figure; None is unknown.

    `missing` stands for a name that a row lacks.
    """
    return {
        name: mean_of([value for row in rows if (value := row.get(name, missing)) is not None])
        for name in dict.fromkeys(name for row in rows for name in row)
    }


def paired(values: Sequence[float], others: Sequence[float], *, relative: bool) -> Mean | None:
    """The mean of value − other, or of value/other − 1, pair by pair, with Student's t interval of the pairs.

    A seed is the same load for both. Pairs whose other is 0 have no ratio and are left out.
    """
    return mean_of([difference(*pair, relative=relative) for pair in zip(values, others, strict=True)])


def difference(value: float, other: float, *, relative: bool) -> float:
    """Value − other, or value/other − 1, which is NaN if other is 0.

    Sums of the same numbers in another order differ in their last digits: such a difference is 0.
    """
    if math.isclose(value, other, rel_tol=ROUNDING, abs_tol=ROUNDING):
        return 0.0 if other or not relative else math.nan
    if relative:
        return value / other - 1 if other else math.nan
    return value - other


def student_t(freedom: int) -> float:
    """The two-sided quantile of Student's t at LEVEL."""
    # The function behind scipy.stats, which takes far longer to import.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of `ipa simulate -o json` as means over seeds, and `intervals` beside them."""
    words = (REASONS, FIRST_FAILURE)
    figures = means_of([{name: it[name] for name in it if name not in words} for it in summaries])
    reasons = means_of([it[REASONS] for it in summaries], missing=0)
    return {
        **{name: mean and mean.value for name, mean in figures.items()},
        FIRST_FAILURE: next((it[FIRST_FAILURE] for it in summaries if it[FIRST_FAILURE]), None),
        REASONS: {name: mean and mean.value for name, mean in sorted(reasons.items())},
        "intervals": {name: mean and mean.half_width for name, mean in figures.items()},
    }


def span(first: int, count: int) -> str:
    """The seeds in words."""
    return f"{first}" if count == 1 else f"{first} to {first + count - 1}"


def with_half(value: float | None, half_width: float | None, form: str, *, scale: float = 1) -> str:
    """The figure as text, `±` half the width of its interval if known; a dash for none."""
    if value is None:
        return "–"
    shown = format(scale * value, form)
    return shown if half_width is None else f"{shown} ± {format(scale * half_width, form)}"
