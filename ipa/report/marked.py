"""Markdown: tables, and escaped text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
