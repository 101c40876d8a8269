"""The contents of a report as values, rendered as one HTML page or as Markdown with figures beside it.

Tables and figures are numbered in their order; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import count
from math import isclose

from ipa.report.stats import Mean

STYLE = """
:root { color-scheme: light; }
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff;
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, figcaption { max-width: 46rem; } p.note, figcaption { color: #4b5563; font-size: .92em; }
p.lead { color: #4b5563; margin: 0 0 1rem; }
figure { margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94em; min-width: 40rem; }
th, td { text-align: left; padding: .18rem .55rem; border-bottom: 1px solid #e5e7eb; vertical-align: top;
         white-space: nowrap; }
th { font-weight: 600; color: #374151; } td.n, th.n { text-align: right; }
tr.group td { border-top: 2px solid #d1d5db; } td.better { color: #047857; } td.worse { color: #b91c1c; }
td small { color: #6b7280; font-size: .88em; } td.text { white-space: normal; min-width: 18rem; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; } pre { background: #f3f4f6; padding: .6rem .8rem; overflow-x: auto; }
code { font-size: .92em; }
svg { width: 100%; height: auto; max-width: 60rem; min-width: 38rem; display: block; margin: .2rem 0; }
@media print { body { margin: 0; max-width: none; }
  h2 { break-after: avoid; } svg, table { break-inside: avoid; } }
"""


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
    return page(title, lead, list(as_html(numbered(blocks))))


def page(title: str, lead: str, parts: Sequence[str]) -> str:
    """A self-contained HTML page whose parts are HTML already, as `as_html` makes it."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


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


def as_html(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading():
                yield f"<h{block.level}>{escape(block.text)}</h{block.level}>"
            case Paragraph():
                yield f"<p{' class=note' if block.is_note else ''}>{escape(block.text)}</p>"
            case CodeBlock():
                yield f"<pre><code>{escape(block.text)}</code></pre>"
            case Table():
                yield _html_table(block)
            case FigureBlock():
                yield _captioned(block.caption, block.svg)
            case Folded():
                yield f"<details><summary>{escape(block.summary)}</summary>"
                yield from as_html(block.blocks)
                yield "</details>"


def _html_table(table: Table) -> str:
    def classes(at: int, kind: str = "") -> str:
        found = " ".join(part for part in ("n" if at >= table.texts else "", kind) if part)
        return f' class="{found}"' if found else ""

    def shown(cell: TableCell) -> str:
        half = f" <small>± {escape(cell.half)}</small>" if cell.half else ""
        return escape(cell.text) + half + MARKS.get(cell.kind, "")

    head = "".join(f"<th{classes(at)}>{escape(name)}</th>" for at, name in enumerate(table.header))
    body = "".join(
        f"<tr{' class=group' if not number else ''}>"
        + "".join(f"<td{classes(at, cell.kind)}>{shown(cell)}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for rows in table.groups
        for number, row in enumerate(rows)
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return _captioned(table.caption, whole)


def _captioned(caption: str, wide: str) -> str:
    """A table or figure under its caption, which stays in sight if the rest scrolls on a narrow screen."""
    label = escape(caption, quote=True)
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<div class="scroll" tabindex="0" role="group" aria-label="{label}">{wide}</div></figure>'
    )


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
