"""The report of an experiment: HTML and Markdown with its origin, and the index of all that were run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ipa.experiment.experiment import Experiment
from ipa.experiment.provenance import CITE_PAPER
from ipa.experiment.results import Results
from ipa.experiment.runners import runner_of
from ipa.report.blocks import (
    Block,
    CodeBlock,
    Heading,
    Paragraph,
    Table,
    TableCell,
    as_html,
    as_markdown,
    as_page,
)
from ipa.report.blocks import page as page_of

PAGE, MARKDOWN, HEADLINE, FIGURES = "report.html", "report.md", "headline.html", "figures"


def write_report(results: Results, folder: Path) -> Path:
    """The page of the experiment; beside it the same as Markdown, and its part of the index."""
    experiment = results.experiment
    runner = runner_of(experiment.runner)
    blocks: list[Block] = [Paragraph(each, is_note=True) for each in results.notes]
    blocks += runner.blocks(experiment, results.finished)
    blocks += _origin(results)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    page.write_text(as_page(experiment.title, experiment.question, blocks), encoding="utf-8")
    text, figures = as_markdown(experiment.title, experiment.question, blocks, FIGURES)
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    for name, svg in figures.items():
        (folder / FIGURES).mkdir(exist_ok=True)
        (folder / FIGURES / name).write_text(svg, encoding="utf-8")
    _write_headline(results, folder)
    return page


def _write_headline(results: Results, folder: Path) -> None:
    experiment = results.experiment
    heading = f'<h2><a href="{escape(folder.name)}/{PAGE}">{escape(experiment.title)}</a></h2>'
    blocks: list[Block] = [Paragraph(experiment.question)]
    blocks += [Paragraph(each, is_note=True) for each in results.notes]
    blocks.append(runner_of(experiment.runner).headline(experiment, results.finished))
    blocks.append(Paragraph(f"{_form(experiment)}; {len(results.finished)} cells.", is_note=True))
    (folder / HEADLINE).write_text(f"{heading}\n{as_html(blocks)}\n", encoding="utf-8")


def write_index(folder: Path, order: Sequence[str]) -> Path:
    """The page over all experiments that have a report in the folder, in that order, others after them."""
    there = {path.parent.name: path for path in sorted(folder.glob(f"*/{HEADLINE}"))}
    names = [name for name in order if name in there] + [name for name in there if name not in order]
    lead = "Each heading leads to the whole report. ± is half a 95 % interval over seeds."
    parts = "\n".join(there[name].read_text("utf-8") for name in names)
    page = folder / PAGE
    page.write_text(page_of("Experiments", lead, parts), encoding="utf-8")
    return page


def _form(experiment: Experiment) -> str:
    return "The quick form" if experiment.is_quick else "The full form"


def _origin(results: Results) -> Iterator[Block]:
    experiment, made = results.experiment, results.made
    seeds = ", ".join(map(str, experiment.seeds))
    yield Heading("How it was made")
    words = f"{_form(experiment)} of {experiment.name}: {len(results.finished)} cells, seeds {seeds}."
    yield Paragraph(f"{words} {runner_of(experiment.runner).words(experiment)}".strip())
    rows = [[TableCell(name), TableCell(value, kind="text")] for name, value in made.rows()]
    yield Table("Origin of the figures.", ["", "value"], [rows], texts=2)
    yield Paragraph(
        "Beside this page: report.md with the same contents; runs.parquet has a row for each run, "
        "ticks.parquet a row for each tick, differences.parquet a row for each difference; their columns are "
        "described in the files. Equal code and inputs give equal bytes in them, on any machine and engine.",
        is_note=True,
    )
    yield Heading("How to cite", 3)
    yield CodeBlock(made.citation)
    yield Paragraph(f"The published figures and rules are those of {CITE_PAPER}.", is_note=True)
