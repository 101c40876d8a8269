"""Markup of reports, every text escaped: a self-contained HTML page, and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
p.lead { color: #4b5563; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e5e7eb; vertical-align: top; }
th { font-weight: 600; color: #374151; } td.n, th.n { text-align: right; } tr.best td { background: #ecfdf5; }
svg { width: 100%; height: auto; } code { font-size: .92em; }
@media print { body { margin: 0; max-width: none; }
  h2 { break-after: avoid; } svg, table { break-inside: avoid; } }
"""


def heading(text: str) -> str:
    """A second-level heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: Sequence[int] = (),
    best: int | None = None,
) -> str:
    """A table; `numeric` columns are aligned right, row `best` is highlighted."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=best' if i == best else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows)
    )
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, lead: str, parts: Sequence[str], *, style: str = "") -> str:
    """The whole page. `parts` are HTML already: made by the functions above, or an <svg>.

    `style` is additional CSS.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>\n'
        f'<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def rows_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
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
