"""The rows as Markdown, and the same lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.bench.goals import Verdict
from experiments.bench.rows import HEAD, Row

TITLES = {
    "sizes": "Side by side",
    "tail": "Side by side, with the quantile of the wait under random arrivals",
    "growth": "How time grows with each dimension",
    "pipelines": "The five IPA pipelines, loaded profiles to verified plan",
    "fleet": "Many pipelines under one budget of cores",
}
REMARKS = {
    "sizes": "A process for each engine and cell. peak_mb is what its resident set grew at most after all "
    "imports and a first small solve (VmHWM of /proc, the peak reset there).",
    "growth": "One dimension at a time; the others as in the first line of each.",
    "pipelines": "median_ms: from a new rate to the verified plan; points_median_ms: the points, made once.",
    "fleet": "instances are fleets, each with 80 % of the cores that the best plans of all would take.",
}
# Columns after the head, where the rows of a part have them.
MORE = (
    "compat",
    "pipeline",
    "varied",
    "pipelines",
    "peak_mb",
    "deadline",
    "licence",
    "error",
    "disagreement",
    "infeasible_share",
    "binding_share",
    "points_median_ms",
    "worst_gap",
)


def part_lines(part: str, rows: Sequence[Row]) -> list[str]:
    """Title, remark and table of one part."""
    columns = [*HEAD, *(name for name in MORE if any(name in row for row in rows))]
    lines = [f"## {TITLES[part]}", ""]
    if part in REMARKS:
        lines += [REMARKS[part], ""]
    lines += aligned([columns, *([shown(row.get(name)) for name in columns] for row in rows)])
    messages = [f"- {row['engine']}: {text}" for row in rows for text in row.get("messages", ())]
    if messages:
        lines += ["", "What failed:", "", *dict.fromkeys(messages)]
    return [*lines, ""]


def goal_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """The goals with what was measured."""
    cells = [[goal.words, shown(goal.measured), "met" if goal.met else _missed(goal)] for goal in verdicts]
    return ["## Goals", "", *aligned([["goal", "measured", "verdict"], *cells]), ""]


def _missed(goal: Verdict) -> str:
    return "not measured" if goal.measured is None else "missed"


def shown(value: Any) -> str:
    """A number to three digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
