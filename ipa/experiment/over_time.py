"""The representative run of each policy over time: load, latency, attainment, cores and accuracy by tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.experiment.blocks import Block, FigureBlock, Paragraph
from ipa.experiment.cells import Finished
from ipa.experiment.pictures import colours_of
from ipa.experiment.plots import svg
from ipa.experiment.simulated_grid import CaseGrid, representative
from ipa.report.sketch import GREY, ORANGE, Line, Plot

# More lines than this hide each other.
MOST = 5
TIME, RATE, UPPER = "at_s", "rate_rps", "upper_rps"


@dataclass(frozen=True, slots=True)
class TimePlot:
    """A column of the ticks as a figure: its title, caption, axis, and factor."""

    column: str
    title: str
    caption: str
    y_label: str
    scale: float = 1.0
    from_zero: bool = True
    y_max: float | None = None


PLOTS = (
    TimePlot("request_p99_s", "Latency", "Latency of requests, 99th percentile of each interval", "seconds"),
    TimePlot(
        "attained_ratio",
        "Within the SLA",
        "Requests within the SLA, by interval",
        "% of those sent",
        100,
        y_max=102,
    ),
    TimePlot("cores", "Cores", "Cores paid", "cores"),
    TimePlot("pas", "Accuracy", "Accuracy of the running configuration", "PAS, %", 100, from_zero=False),
)


def over_time(grid: CaseGrid, finished: Sequence[Finished]) -> list[Block]:
    """Figures of the representative case and seed; none if no cell has ticks."""
    case, seed = representative(grid)
    kept = [
        each
        for each in finished
        if each.outcome.ticks
        and (each.labels["pipeline"], each.labels["workload"], each.labels["sla"]) == case
        and each.labels["seed"] == seed
    ]
    if not kept:
        return []
    first = str(kept[0].labels["forecaster"])
    kept = [each for each in kept if each.labels["forecaster"] == first]
    kept.sort(key=lambda each: each.labels["policy"] not in ("ours", grid.reference))
    shown = kept[:MOST]
    sla_s = float(shown[0].labels["sla_s"])
    where = f"{case[0]} under {case[1]}, SLA {sla_s:.3g} s, seed {seed}"
    many = len(grid.cases) * len(grid.seeds)
    chosen = (
        f"Of the {many} cases and seeds this one is representative: accuracy, cores and late requests under "
        "all policies are nearest to their medians (Euclidean, each in units of its interquartile range)."
        if many > 1
        else "There is one case and one seed."
    )
    load = [
        Line("seen", _points(shown[0], RATE), GREY),
        Line(f"planned for, {shown[0].labels['policy']}", _points(shown[0], UPPER), ORANGE),
    ]
    found: list[Block] = [
        Paragraph(f"{where}. {chosen}"),
        FigureBlock(f"Load over time: {where}.", svg(Plot("Load", "requests / s", load))),
    ]
    return found + [
        FigureBlock(f"{plot.caption}: {where}.", picture)
        for plot in PLOTS
        if (picture := _drawn(plot, shown, sla_s))
    ]


def _drawn(plot: TimePlot, shown: Sequence[Finished], sla_s: float) -> str:
    """The figure; empty if no cell has the column."""
    colours = colours_of([str(each.labels["policy"]) for each in shown])
    lines = [
        Line(name, points, colours[name], "step")
        for each in shown
        if (points := _points(each, plot.column, plot.scale)) and (name := str(each.labels["policy"]))
    ]
    if not lines:
        return ""
    is_latency = plot.column == "request_p99_s"
    highest = max(y for line in lines for _, y in line.points)
    return svg(
        Plot(
            plot.title,
            plot.y_label,
            lines,
            from_zero=plot.from_zero,
            limit=("SLA", sla_s) if is_latency else None,
            # What an overloaded policy comes to must not hide the others.
            y_max=min(1.1 * max(highest, sla_s), 4 * sla_s) if is_latency else plot.y_max,
        )
    )


def _points(each: Finished, key: str, scale: float = 1.0) -> list[tuple[float, float]]:
    ticks = each.outcome.ticks
    return [
        (float(at), scale * float(value))
        for at, value in zip(ticks.get(TIME, ()), ticks.get(key, ()), strict=False)
        if value is not None
    ]
