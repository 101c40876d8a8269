"""The report of forecasters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.lab.experiment import Experiment
from experiments.lab.markup import DASH, Cell, grouped_table, note, text
from experiments.lab.pictures import bars
from experiments.lab.units import Finished
from ipa.report import html

FIGURES = (
    ("smape_ratio", "SMAPE %", ".2f", 100.0),
    ("coverage_ratio", "coverage %", ".2f", 100.0),
    ("pinball_rps", "pinball, rps", ".3f", 1.0),
    ("mae_rps", "error, rps", ".2f", 1.0),
    ("upper_ratio", "upper ÷ peak", ".3f", 1.0),
    ("count", "forecasts", ".0f", 1.0),
)
EXPLAINED = (
    "Every ten seconds of the test days the highest second of the next 20 is forecast. SMAPE is the "
    "mean of 2|f−a|/(f+a). Coverage is the share of peaks at or below the 95 % quantile: 95 is right, "
    "more costs cores; upper ÷ peak says how much. Two are no rungs of the ladder: maximum-10s, the last of "
    "the papers' inputs, and lstm, their network (where PyTorch is installed). One trace is one sample: "
    "hundredths of a percent between two forecasters are noise. Times of fit and answer are in timings.json, "
    "since no two runs have them alike."
)


def parts(experiment: Experiment, finished: Sequence[Finished], data: Path) -> list[str]:
    """A table and two pictures a trace."""
    found = [html.heading("Forecasters"), headline(experiment, finished), note(EXPLAINED)]
    for trace in dict.fromkeys(each.unit.labels["trace"] for each in finished):
        rows = [
            each for each in finished if each.unit.labels["trace"] == trace and each.row.get("smape_ratio")
        ]
        names = [str(each.unit.labels["forecaster"]) for each in rows]
        for key, words, line in (
            ("smape_ratio", "SMAPE, %", None),
            ("coverage_ratio", "coverage of the 95 % quantile, %", 95.0),
        ):
            values = [100 * float(each.row[key]) for each in rows]
            if values:
                found.append(bars(f"{trace}: {words}", words, names, values, line))
    return found


def headline(experiment: Experiment, finished: Sequence[Finished]) -> str:
    """The table."""
    groups: dict[str, list[list[Cell]]] = {}
    for each in finished:
        rows = groups.setdefault(str(each.unit.labels["trace"]), [])
        name = str(each.unit.labels["trace"]) if not rows else ""
        figures = [
            text(format(float(each.row[key]) * scale, form)) if each.row.get(key) is not None else DASH
            for key, _, form, scale in FIGURES
        ]
        rows.append([text(name), text(str(each.unit.labels["forecaster"])), *figures])
    return grouped_table(
        ["trace", "forecaster", *(name for _, name, *_ in FIGURES)], list(groups.values()), texts=2
    )
