"""Policies compared, and results compared, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ipa.report.blocks import figure

if TYPE_CHECKING:
    from ipa.experiment.comparison import ResultChange
    from ipa.report.blocks import Table as ReportTable


def as_table(table: ReportTable) -> Table:
    """A table of a report for the terminal."""
    found = Table(*table.header)
    for at in range(table.texts, len(table.header)):
        found.columns[at].justify = "right"
    for rows in table.groups:
        for row in rows:
            found.add_row(*(cell.in_words for cell in row))
    return found


def change_table(changes: Sequence[ResultChange]) -> Table:
    """Before, after and the paired difference of each figure, by policy."""
    found = Table("policy", "figure", "before", "after", "difference")
    for at in (2, 3, 4):
        found.columns[at].justify = "right"
    for policy, rows in groupby(changes, key=lambda each: each.policy):
        for at, each in enumerate(rows):
            it = each.metric
            found.add_row(
                "" if at else policy,
                it.heading,
                *(figure(mean, it.form, scale=it.scale).in_words for mean in (each.before, each.after)),
                figure(each.difference, it.difference_form, scale=it.difference_scale).in_words
                + (" %" if it.relative else ""),
            )
    return found


def changes_as_values(changes: Sequence[ResultChange]) -> list[dict[str, Any]]:
    """The same for programs: figures in their own units, relative differences as ratios."""
    return [
        {
            "policy": each.policy,
            "figure": each.metric.key,
            "is_relative": each.metric.relative,
            **{
                name: None if mean is None else {"mean": mean.value, "half_width": mean.half_width}
                for name, mean in (
                    ("before", each.before),
                    ("after", each.after),
                    ("difference", each.difference),
                )
            },
        }
        for each in changes
    ]
