"""A review of changed files as a table for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ipa.cli.output import printer
from ipa.cli.views.plan_text import print_line
from ipa.report.review.result import Review
from ipa.report.review.words import cells, headline, verdict


def print_review(review: Review) -> None:
    """Print the effects on each pipeline, then the findings."""
    console = printer()
    print_line(console, f"IPA: {headline(review)}   {verdict(review)}")
    if review.pipelines:
        figures = [cells(review, each) for each in review.pipelines]
        table = Table(box=None, padding=(0, 2, 0, 0))
        for head in ("pipeline", *figures[0]):
            table.add_column(head)
        for each, shown in zip(review.pipelines, figures, strict=True):
            table.add_row(*map(Text, (each.pipeline, *shown.values())))
        console.print(table)
    for each in review.pipelines:
        for finding in each.findings:
            limit = f" (fails if {finding.rule})" if finding.rule else ""
            print_line(console, f"  ❌ {each.pipeline}: {finding.words}{limit}")
        if each.note:
            print_line(console, f"  {each.pipeline}: {each.note}")
