"""The pages: one an experiment, and the index of all that were run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from experiments.lab.experiment import Experiment
from experiments.lab.markup import STYLE, code, note
from experiments.lab.runners import Runner
from experiments.lab.units import Finished
from ipa.report import html

PAGE, HEADLINE = "report.html", "headline.html"


def write_report(
    experiment: Experiment,
    runner: Runner,
    finished: Sequence[Finished],
    notes: Sequence[str],
    folder: Path,
    data: Path,
) -> Path:
    """The experiment's page, and its part of the index beside it. Nothing in it says when it was made."""
    parts = [note(each) for each in notes]
    parts += runner.parts(experiment, finished, data)
    parts += [html.heading("How it was made"), *_made(experiment, finished)]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    page.write_text(html.page(experiment.title, experiment.question, parts, style=STYLE), encoding="utf-8")
    headline = [
        f'<h2><a href="{escape(experiment.name)}/{PAGE}">{escape(experiment.title)}</a></h2>',
        html.paragraph(experiment.question),
        *(note(each) for each in notes),
        runner.headline(experiment, finished),
        note(f"{_form(experiment)}; {len(finished)} runs."),
    ]
    (folder / HEADLINE).write_text("\n".join(headline) + "\n", encoding="utf-8")
    return page


def write_index(folder: Path, order: Sequence[str]) -> Path:
    """The page over all experiments that have a report in the folder, in that order, others after them."""
    there = {path.parent.name: path for path in sorted(folder.glob(f"*/{HEADLINE}"))}
    names = [name for name in order if name in there] + [name for name in there if name not in order]
    lead = "Each heading leads to the whole report. ± is half a 95 % interval over seeds."
    parts = [there[name].read_text("utf-8") for name in names]
    page = folder / PAGE
    page.write_text(html.page("Experiments", lead, parts, style=STYLE), encoding="utf-8")
    return page


def _form(experiment: Experiment) -> str:
    return "The quick form" if experiment.quick else "The full form"


def _made(experiment: Experiment, finished: Sequence[Finished]) -> list[str]:
    seeds = ", ".join(map(str, experiment.seeds))
    words = [f"{_form(experiment)} of {experiment.name}: {len(finished)} runs."]
    if experiment.runner == "simulate":
        words.append(
            f"Each is {experiment.minutes:g} simulated minutes with {experiment.spacing} arrivals, "
            f"seeds {seeds}; a decision every {experiment.interval_s:g} s. "
            "Under a seed each policy has the same requests."
        )
    words.append(f"Python {sys.version_info.major}.{sys.version_info.minor}, numpy {version('numpy')}.")
    command = f"make experiment NAME={experiment.name}" + (" QUICK=1" if experiment.quick else "")
    tables = "runs.parquet has a row a run, ticks.parquet a row a tick where ticks were kept"
    return [note(" ".join(words)), code(command), note(f"Beside this page, {tables}.")]
