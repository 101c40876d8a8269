"""The report of fleets."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.plots import Line, Plot, draw
from experiments.scale.fleets import cells, work
from ipa.experiment.cells import Finished
from ipa.experiment.runners import Experiment, ExperimentRunner
from ipa.report.blocks import Block, FigureBlock, Heading, Paragraph, Table, TableCell, figure, mean_of
from ipa.report.plots import GREY, colours_of

FIGURES = (
    ("budget_cores", "budget, cores", ".0f", 1.0),
    ("cores_mean", "cores", ".0f", 1.0),
    ("pas_mean", "PAS", ".2f", 100.0),
    ("worth_mean", "worth", ".0f", 1.0),
    ("lost_ratio", "beyond capacity %", ".2f", 100.0),
    ("changes_an_interval", "changed an interval", ".1f", 1.0),
    ("without_plan", "without a plan", ".0f", 1.0),
)
EXPLAINED = (
    "Means over seeds, ± half a 95 % interval. Together: one plan of the whole fleet each interval. "
    "Apart: each pipeline on a fixed share of the budget: the cheapest plan for the highest rate of "
    "its day, and of the rest in proportion to what it could use. Once: one plan of the fleet for the "
    "highest rate of each pipeline's day. PAS is over requests that were carried. Beyond capacity are "
    "requests above what the plan carries by its profile, no queue is simulated. Without a plan "
    "counts pipelines and intervals whose cores hold no plan: what ran is kept. The pipelines are "
    "random chains of five stages with eight variants each."
)


def blocks(experiment: Experiment, finished: Sequence[Finished]) -> list[Block]:
    """A table over fleets and ways, and the day of the first seed."""
    contents: list[Block] = [Heading("Fleets and ways to share the budget"), headline(experiment, finished)]
    contents.append(Paragraph(EXPLAINED, is_note=True))
    first = experiment.seeds[0]
    for count in dict.fromkeys(each.labels["pipelines"] for each in finished):
        cells = [
            each for each in finished if each.labels["pipelines"] == count and each.labels["seed"] == first
        ]
        contents += [Heading(f"{count} pipelines, a day, seed {first}"), *_day(cells)]
    return contents


def headline(experiment: Experiment, finished: Sequence[Finished]) -> Table:
    """The table."""
    groups: dict[object, dict[str, list[Finished]]] = {}
    for each in finished:
        ways = groups.setdefault(each.labels["pipelines"], {})
        ways.setdefault(str(each.labels["way"]), []).append(each)
    rows = [
        [
            [
                TableCell(str(count) if not at else ""),
                TableCell(way),
                *(
                    figure(mean_of([float(run.row[key]) for run in runs]), form, scale=scale)
                    for key, _, form, scale in FIGURES
                ),
            ]
            for at, (way, runs) in enumerate(ways.items())
        ]
        for count, ways in groups.items()
    ]
    header = ["pipelines", "way", *(name for _, name, *_ in FIGURES)]
    return Table("Fleets, and ways to share the budget: means over the seeds.", header, rows, texts=2)


def _day(cells: Sequence[Finished]) -> list[Block]:
    ways = [str(each.labels["way"]) for each in cells]
    colours = colours_of(ways)

    def lines(key: str, scale: float = 1.0) -> list[Line]:
        return [
            Line(
                way,
                [
                    (at / 3600, value * scale)
                    for at, value in zip(each.outcome.ticks["at_s"], each.outcome.ticks[key], strict=True)
                ],
                colours[way],
                "step",
            )
            for way, each in zip(ways, cells, strict=True)
        ]

    budget = float(cells[0].row["budget_cores"])
    load = [Line("all pipelines", lines("rate_rps")[0].points, GREY, "step")]
    plots = [
        Plot("Load", "requests / s", load, x_label="hours"),
        Plot("Cores", "cores", lines("cost_cores"), x_label="hours", limit=("budget", budget)),
        Plot("Accuracy of what is carried", "PAS, %", lines("pas", 100.0), x_label="hours", from_zero=False),
        Plot("Beyond capacity", "% of requests", lines("lost_ratio", 100.0), x_label="hours"),
    ]
    return [FigureBlock(f"{plot.title} over the day.", draw(plot)) for plot in plots]


RUNNER = ExperimentRunner(cells, work, blocks)
