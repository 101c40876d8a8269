"""What reports are made of beside `ipa.report.html`: tables in groups, figures with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ipa.report.stats import Mean

STYLE = """
body { max-width: 72rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { max-width: 46rem; } p.note { color: #4b5563; font-size: .92em; }
table { font-size: .94em; width: auto; min-width: 40rem; }
th, td { white-space: nowrap; padding: .18rem .55rem; }
tr.group td { border-top: 2px solid #d1d5db; } td.better { color: #047857; } td.worse { color: #b91c1c; }
td small { color: #6b7280; font-size: .88em; } td.text { white-space: normal; min-width: 18rem; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; } pre { background: #f3f4f6; padding: .6rem .8rem; overflow-x: auto; }
svg { max-width: 60rem; display: block; margin: .6rem 0; }
"""

# A cell: its HTML, and a class of its own ("better", "worse", "text" or "").
Cell = tuple[str, str]
DASH: Cell = ("–", "")


def text(value: str, kind: str = "") -> Cell:
    """A cell of plain text."""
    return escape(value), kind


def figure(mean: Mean | None, form: str, *, scale: float = 1.0, kind: str = "") -> Cell:
    """A cell with a mean and half the width of its interval; a dash where nothing is known."""
    if mean is None:
        return DASH
    shown = signless(format(mean.value * scale, form))
    if mean.half_width is None:
        return shown, kind
    half = format(mean.half_width * scale, form.replace("+", ""))
    return f"{shown} <small>± {half}</small>", kind


def signless(shown: str) -> str:
    """The number, without the minus of a zero."""
    return shown.lstrip("-") if shown.startswith("-") and not shown.strip("-0.%") else shown


def judged(mean: Mean | None, zero: float, *, more_is_better: bool) -> str:
    """ "better" or "worse" where the interval leaves `zero` out, else ""."""
    if mean is None or not mean.differs_from(zero):
        return ""
    return "better" if (mean.value > zero) is more_is_better else "worse"


def grouped_table(header: Sequence[str], groups: Iterable[Sequence[Sequence[Cell]]], *, texts: int) -> str:
    """A table whose groups of rows are set apart; the first `texts` columns are text, the others numbers."""

    def classes(at: int, kind: str = "") -> str:
        found = " ".join(part for part in ("n" if at >= texts else "", kind) if part)
        return f' class="{found}"' if found else ""

    head = "".join(f"<th{classes(at)}>{escape(name)}</th>" for at, name in enumerate(header))
    body = []
    for rows in groups:
        for number, row in enumerate(rows):
            cells = "".join(f"<td{classes(at, kind)}>{html}</td>" for at, (html, kind) in enumerate(row))
            body.append(f"<tr{' class=group' if not number else ''}>{cells}</tr>")
    rows_html = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table>{rows_html}</table></div>'


def subheading(words: str) -> str:
    """A third-level heading."""
    return f"<h3>{escape(words)}</h3>"


def note(words: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(words)}</p>'


def folded(summary: str, parts: Sequence[str]) -> str:
    """Parts that show when the summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def code(words: str) -> str:
    """Commands."""
    return f"<pre><code>{escape(words)}</code></pre>"
