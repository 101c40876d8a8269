"""The contents of a report as values, rendered as one self-contained HTML page.

Tables and figures are numbered in their order; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

from ipa.report.stats import Mean


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
    """Blocks that the page shows when the summary is clicked."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Table | FigureBlock | Folded


def figure(mean: Mean | None, form: str, *, scale: float = 1.0, kind: str = "") -> TableCell:
    """The cell of a mean and half the width of its interval; a dash if there is none.

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
    """The number with a true minus sign, and none before a zero."""
    if is_zero(shown):
        return shown.lstrip("+-")
    return shown.replace("-", "−")


def judged(mean: Mean | None, *, more_is_better: bool | None) -> str:
    """ "better" or "worse" if the interval excludes zero, else ""; so for None, which prefers neither.

    A difference of the size of rounding errors is none.
    """
    if mean is None or more_is_better is None or not mean.differs_from(0.0):
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


def rows_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown; cells are Markdown already."""
    return [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def as_text(text: str) -> str:
    """Escape text of files, errors and people: no markup, no extra cells, no mentions."""
    escaped = "".join(f"\\{each}" if each in "\\`*_[]|~" else each for each in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
