"""The representative case: load, latency, attainment, cores and accuracy by tick, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ipa.experiment.cells import Finished
from ipa.experiment.simulated_grid import CaseGrid, CaseKey, representative
from ipa.report.blocks import Block, FigureBlock, Folded, Paragraph, Table, TableCell, figure
from ipa.report.plots import GREY, ORANGE, Line, Plot, colours_of, draw
from ipa.report.stats import mean_of

# More lines than this hide each other.
MOST = 5
TIME, RATE, UPPER, LATENCY = "at_s", "rate_rps", "upper_rps", "request_latency_s"
# The beginning of the reason codes of changes.
CHANGED = "apply."
# Rows of a long list; the caption gives their number.
MOST_CHANGES = 200
QUANTILES = {
    "latency_p50_s": "p50",
    "latency_p90_s": "p90",
    "latency_p95_s": "p95",
    "latency_p99_s": "p99",
    "latency_p999_s": "p99.9",
    "latency_max_s": "max",
}


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
    TimePlot(LATENCY, "Latency", "Latency of requests at the SLA's percentile, by interval", "seconds"),
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
    """Figures and tables of the representative case and seed; none if no cell has ticks."""
    case, seed = representative(grid)
    own = [
        each
        for each in finished
        if (each.labels["pipeline"], each.labels["workload"], each.labels["sla"]) == case
        and each.labels["forecaster"] == finished[0].labels["forecaster"]
    ]
    own.sort(key=lambda each: each.labels["policy"] not in ("ours", grid.reference))
    shown = [each for each in own if each.outcome.ticks and each.labels["seed"] == seed][:MOST]
    if not shown:
        return []
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
    changes = list(_changes(shown))
    plots = [(plot.caption, _drawn(plot, shown, sla_s)) for plot in PLOTS]
    return [
        Paragraph(f"{where}. {chosen}"),
        FigureBlock(f"Load over time: {where}.", draw(Plot("Load", "requests / s", load))),
        *(FigureBlock(f"{caption}: {where}.", picture) for caption, picture in plots if picture),
        _quantiles(grid, case),
        _decisions(own),
        *([Folded("What was changed", changes)] if changes else []),
    ]


def _quantiles(grid: CaseGrid, case: CaseKey) -> Table:
    rows = [
        [TableCell(policy), *(figure(grid.mean(case, policy, key), ".4f") for key in QUANTILES)]
        for policy in grid.policies
    ]
    caption = "Latency of the answered requests in this case, in seconds: means over the seeds."
    return Table(caption, ["policy", *QUANTILES.values()], [rows])


def _decisions(own: Sequence[Finished]) -> Table:
    """The decisions of a case by reason, a column for each policy."""
    by_policy: dict[str, list[Mapping[str, int]]] = {}
    for each in own:
        by_policy.setdefault(str(each.labels["policy"]), []).append(each.outcome.decisions)
    reasons = sorted({reason for seeds in by_policy.values() for each in seeds for reason in each})
    form = ".0f" if all(len(seeds) == 1 for seeds in by_policy.values()) else ".1f"
    rows = [
        [
            TableCell(reason),
            *(figure(mean_of([each.get(reason, 0) for each in seeds]), form) for seeds in by_policy.values()),
        ]
        for reason in reasons
    ]
    return Table("Decisions in this case by reason: means over the seeds.", ["reason", *by_policy], [rows])


def _changes(shown: Sequence[Finished]) -> Iterator[Table]:
    """The first changes of each run that has any."""
    for each in shown:
        ticks = each.outcome.ticks
        ran = zip(ticks[TIME], ticks.get("reason", ()), ticks.get("configs", ()), strict=False)
        rows = [
            [TableCell(f"{at_s:.0f}"), TableCell(reason), TableCell(configs, kind="text")]
            for at_s, reason, configs in ran
            if reason.startswith(CHANGED)
        ]
        caption = f"Changes by {each.labels['policy']}, seed {each.labels['seed']}: {len(rows)}"
        caption += f", of which the first {MOST_CHANGES}." if len(rows) > MOST_CHANGES else "."
        if rows:
            header = ["second", "reason", "running configuration"]
            yield Table(caption, header, [rows[:MOST_CHANGES]], texts=3)


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
    is_latency = plot.column == LATENCY
    highest = max(y for line in lines for _, y in line.points)
    return draw(
        Plot(
            plot.title,
            plot.y_label,
            lines,
            from_zero=plot.from_zero,
            # Less than a point of accuracy must not fill the axis.
            least_span=(0.0, 0.0 if plot.from_zero else 1.0),
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
