"""The contents of a report as values, rendered as one self-contained HTML page.

Tables and figures are numbered in their order; every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isclose
from pathlib import Path
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
    """The means of rows of figures, one row per seed, over the rows that have the figure; None is unknown.

    `missing` stands for a name that a row lacks.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, missing) for row in rows] for name in names}
    return {name: mean_of([it for it in column if it is not None]) for name, column in columns.items()}


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
    """The figures of `ipa simulate -o json` as means over seeds, and their `intervals`."""
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
    """The seeds as text."""
    return f"{first}" if count == 1 else f"{first} to {first + count - 1}"


def with_half(value: float | None, half_width: float | None, form: str, *, scale: float = 1) -> str:
    """The figure as text, `±` half the width of its interval if known; a dash for none."""
    if value is None:
        return "–"
    shown = format(scale * value, form)
    return shown if half_width is None else f"{shown} ± {format(scale * half_width, form)}"


@dataclass(frozen=True, slots=True)
class TableCell:
    """A text, and half the width of its interval; `kind` is "better", "worse", "text" (wraps) or ""."""

    text: str
    half: str = ""
    kind: str = ""

    @property
    def in_words(self) -> str:
        """The cell as one text, without colour."""
        value = f"{self.text} ± {self.half}" if self.half else self.text
        return value + MARKS.get(self.kind, "")


# Colour never carries meaning alone.
MARKS = {"better": " ✓", "worse": " ✗"}
DASH = TableCell("–")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph; a note is in small print."""

    text: str
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A numbered table whose groups of rows are set apart.

    The first `texts` columns are text, the others numbers.
    """

    caption: str
    header: Sequence[str]
    groups: Sequence[Sequence[Sequence[TableCell]]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class FigureBlock:
    """A numbered figure: an <svg> element."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that the page shows after a click on the summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Table | FigureBlock | Folded


def figure(mean: Mean | None, form: str, *, scale: float = 1.0, kind: str = "") -> TableCell:
    """The cell of a mean and half the width of its interval; a dash without a mean.

    A value that rounds to zero in this format is neither better nor worse: it is below what the table
    resolves. So is an interval that rounds to zero: it is shown as less than the last digit, or not at all if
    the value is zero too.
    """
    if mean is None:
        return DASH
    shown = signless(format(mean.value * scale, form))
    if is_zero(shown):
        kind = ""
    if not mean.half_width:
        return TableCell("0" if is_zero(shown) and mean.half_width == 0 else shown, kind=kind)
    half = format(mean.half_width * scale, form.replace("+", ""))
    if is_zero(half):
        return TableCell("0") if is_zero(shown) else TableCell(shown, f"<{half[:-1]}1", kind)
    return TableCell(shown, half, kind)


def is_zero(shown: str) -> bool:
    """True for a number that is shown as zero."""
    return not shown.strip("+-−0.%")


def signless(shown: str) -> str:
    """The number with a true minus sign, and no sign at a zero."""
    if is_zero(shown):
        return shown.lstrip("+-")
    return shown.replace("-", "−")


def judged(mean: Mean | None, *, more_is_better: bool | None) -> str:
    """ "better" or "worse" if the interval excludes zero, else ""; also "" if `more_is_better` is None.

    A difference of the size of rounding errors is neither.
    """
    if mean is None or more_is_better is None or mean.half_width is None or mean.low <= 0.0 <= mean.high:
        return ""
    if isclose(mean.value, 0.0, abs_tol=1e-9):
        return ""
    return "better" if (mean.value > 0.0) is more_is_better else "worse"


def as_page(title: str, lead: str, blocks: Sequence[Block]) -> str:
    """The blocks as one HTML page."""
    return str(_template().render(title=title, lead=lead, blocks=blocks)) + "\n"


@cache
def _template() -> Any:
    # Imported here: a service lacks it, and makes no page.
    from jinja2 import Environment, FileSystemLoader

    folder = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=folder, autoescape=True)
    made.globals.update(marks=MARKS, kind_of=lambda block: type(block).__name__)
    return made.get_template("report.html")
