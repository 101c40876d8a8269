"""The report of forecasters."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.experiment.cells import Finished
from ipa.experiment.experiment import Experiment
from ipa.experiment.forecasts import cells, work
from ipa.experiment.pictures import CellFigure, over_cells
from ipa.experiment.runners import ExperimentRunner
from ipa.report.blocks import DASH, Block, FigureBlock, Heading, Paragraph, Table, TableCell
from ipa.report.stats import Mean

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


def blocks(experiment: Experiment, finished: Sequence[Finished]) -> list[Block]:
    """A table, and two figures for each trace."""
    found: list[Block] = [Heading("Forecasters"), headline(experiment, finished), Paragraph(EXPLAINED, True)]
    for trace in dict.fromkeys(each.labels["trace"] for each in finished):
        rows = [each for each in finished if each.labels["trace"] == trace and each.row.get("smape_ratio")]
        names = [str(each.labels["forecaster"]) for each in rows]
        for key, words, line in (
            ("smape_ratio", "SMAPE, %", None),
            ("coverage_ratio", "coverage of the 95 % quantile, %", 95.0),
        ):
            scores = [[Mean(100 * float(each.row[key]), None, 1)] for each in rows]
            if scores:
                plot = CellFigure(f"{trace}: {words}", words, names, [""], scores, line=line)
                found.append(FigureBlock(f"{plot.title}.", over_cells(plot)))
    return found


def headline(experiment: Experiment, finished: Sequence[Finished]) -> Table:
    """The score of every forecaster."""
    groups: dict[str, list[list[TableCell]]] = {}
    for each in finished:
        trace = str(each.labels["trace"])
        rows = groups.setdefault(trace, [])
        figures = [
            TableCell(format(float(each.row[key]) * scale, form)) if each.row.get(key) is not None else DASH
            for key, _, form, scale in FIGURES
        ]
        rows.append([TableCell("" if rows else trace), TableCell(str(each.labels["forecaster"])), *figures])
    caption = "The peak of the next 20 seconds, forecast every ten on days that no forecaster has seen."
    header = ["trace", "forecaster", *(name for _, name, *_ in FIGURES)]
    return Table(caption, header, list(groups.values()), texts=2)


RUNNER = ExperimentRunner(cells, work, blocks, headline)
