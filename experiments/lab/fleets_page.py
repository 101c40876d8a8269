"""The report of fleets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.lab.experiment import Experiment
from experiments.lab.markup import Cell, figure, grouped_table, note, subheading, text
from experiments.lab.pictures import colours_of
from experiments.lab.units import Finished
from experiments.plots import svg
from ipa.report import html
from ipa.report.sketch import GREY, Line, Plot
from ipa.report.stats import mean_of

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


def parts(experiment: Experiment, finished: Sequence[Finished], data: Path) -> list[str]:
    """A table over fleets and ways, and the day of one seed."""
    found = [html.heading("Fleets and ways to share the budget"), headline(experiment, finished)]
    found.append(note(EXPLAINED))
    counts = dict.fromkeys(each.unit.labels["pipelines"] for each in finished)
    for count in counts:
        kept = [each for each in finished if each.unit.labels["pipelines"] == count and each.outcome.ticks]
        if kept:
            found += [
                subheading(f"{count} pipelines, a day, seed {kept[0].unit.labels['seed']}"),
                *_day(kept),
            ]
    return found


def headline(experiment: Experiment, finished: Sequence[Finished]) -> str:
    """The table."""
    groups: dict[object, dict[str, list[Finished]]] = {}
    for each in finished:
        ways = groups.setdefault(each.unit.labels["pipelines"], {})
        ways.setdefault(str(each.unit.labels["way"]), []).append(each)
    rows: list[list[list[Cell]]] = [
        [
            [
                text(str(count) if not at else ""),
                text(way),
                *(
                    figure(mean_of([float(run.row[key]) for run in runs]), form, scale=scale)
                    for key, _, form, scale in FIGURES
                ),
            ]
            for at, (way, runs) in enumerate(ways.items())
        ]
        for count, ways in groups.items()
    ]
    return grouped_table(["pipelines", "way", *(name for _, name, *_ in FIGURES)], rows, texts=2)


def _day(kept: Sequence[Finished]) -> list[str]:
    ways = [str(each.unit.labels["way"]) for each in kept]
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
            for way, each in zip(ways, kept, strict=True)
        ]

    budget = float(kept[0].row["budget_cores"])
    load = [Line("all pipelines", lines("rate_rps")[0].points, GREY, "step")]
    return [
        svg(Plot("Load", "requests / s", load, x_label="hours")),
        svg(Plot("Cores", "cores", lines("cost_cores"), x_label="hours", limit=("budget", budget))),
        svg(
            Plot(
                "Accuracy of what is carried", "PAS, %", lines("pas", 100.0), x_label="hours", from_zero=False
            )
        ),
        svg(Plot("Beyond capacity", "% of requests", lines("lost_ratio", 100.0), x_label="hours")),
    ]
