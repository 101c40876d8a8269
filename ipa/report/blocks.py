"""The contents of a report as values, rendered as one HTML page or as Markdown with figures beside it.

Tables and figures are numbered in their order; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
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
    """A heading of that level, 2 or 3."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph; a note is in small print."""

    text: str
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Lines as they are typed."""

    text: str


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
    """Blocks that the HTML page shows when the summary is clicked; Markdown shows them in place."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | CodeBlock | Table | FigureBlock | Folded


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


def judged(mean: Mean | None, zero: float, *, more_is_better: bool) -> str:
    """ "better" or "worse" if the interval excludes `zero`, else "".

    A difference of the size of rounding errors is none.
    """
    if mean is None or not mean.differs_from(zero) or isclose(mean.value, zero, abs_tol=1e-9):
        return ""
    return "better" if (mean.value > zero) is more_is_better else "worse"


def as_page(title: str, lead: str, blocks: Sequence[Block]) -> str:
    """The blocks as one HTML page."""
    return page(title, lead, as_html(numbered(blocks)))


def page(title: str, lead: str, body: str) -> str:
    """A self-contained HTML page whose body is HTML already, as `as_html` makes it."""
    from markupsafe import Markup

    return str(_template().render(title=title, lead=lead, body=Markup(body))) + "\n"  # noqa: S704 # escaped


def as_html(blocks: Sequence[Block]) -> str:
    """The blocks as HTML."""
    return str(_template().module.show(blocks))


@cache
def _template() -> Any:
    # Imported here: a service lacks it, and makes no page.
    from jinja2 import Environment, FileSystemLoader

    folder = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=folder, autoescape=True)
    made.globals.update(marks=MARKS, kind_of=lambda block: type(block).__name__)
    return made.get_template("report.html")


def as_markdown(title: str, lead: str, blocks: Sequence[Block], folder: str) -> tuple[str, dict[str, str]]:
    """The blocks as Markdown, and the figures by the name of their file in that folder."""
    figures: dict[str, str] = {}
    lines = [f"# {as_text(title)}", "", as_text(lead), ""]
    for part in _markdown(numbered(blocks), folder, figures):
        lines += [part, ""]
    return "\n".join(lines), figures


def numbered(blocks: Sequence[Block]) -> list[Block]:
    """The same with "Table 1." and "Figure 1." before the captions."""
    tables, figures = count(1), count(1)

    def one(block: Block) -> Block:
        if isinstance(block, Table):
            return replace(block, caption=f"Table {next(tables)}. {block.caption}")
        if isinstance(block, FigureBlock):
            return replace(block, caption=f"Figure {next(figures)}. {block.caption}")
        return (
            replace(block, blocks=[one(each) for each in block.blocks])
            if isinstance(block, Folded)
            else block
        )

    return [one(each) for each in blocks]


def _markdown(blocks: Sequence[Block], folder: str, figures: dict[str, str]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading():
                yield f"{'#' * block.level} {as_text(block.text)}"
            case Paragraph():
                yield as_text(block.text)
            case CodeBlock():
                yield f"```text\n{block.text}\n```"
            case Table():
                rows = [[as_text(cell.in_words) for cell in row] for rows in block.groups for row in rows]
                lines = rows_of([as_text(name) for name in block.header], rows, texts=block.texts)
                yield f"**{as_text(block.caption)}**\n\n" + "\n".join(lines)
            case FigureBlock():
                name = f"figure-{len(figures) + 1}.svg"
                figures[name] = block.svg
                caption = as_text(block.caption)
                yield f"![{caption}]({folder}/{name})\n\n*{caption}*"
            case Folded():
                yield from _markdown(block.blocks, folder, figures)


def rows_of(heads: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int | None = None) -> list[str]:
    """The lines of a table in Markdown, the first `texts` columns text; cells are Markdown already."""
    rules = ("---|" if texts is None or at < texts else "---:|" for at in range(len(heads)))
    return [f"| {' | '.join(heads)} |", "|" + "".join(rules), *(f"| {' | '.join(row)} |" for row in rows)]


def as_text(text: str) -> str:
    """Escape text of files, errors and people: no markup, no extra cells, no mentions."""
    escaped = "".join(f"\\{each}" if each in "\\`*_[]|~" else each for each in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
