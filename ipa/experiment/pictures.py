"""Plots with intervals: where policies lie in accuracy and cost, and a figure over many cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.report.plots import BLUE, GREEN, ORANGE, RED, Dots, Plot, draw
from ipa.report.stats import Mean

# Okabe and Ito's colours, the first for the policies that are in most experiments.
OTHERS = ("#cc79a7", "#56b4e9", "#000000", "#b59f00", "#8c564b", "#7f7f7f")
FIXED = {"ours": BLUE, "ipa": ORANGE, "fa2-low": GREEN, "fa2-high": RED}
# The shortest axes of differences in cores and in accuracy.
LEAST_CORES_PCT, LEAST_POINTS = 1.0, 0.1
# Values this many times apart are drawn on a logarithmic axis.
WIDE = 8


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the same for the same name in every report where it has one of its own."""
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: FIXED.get(name) or next(free) for name in names}


@dataclass(frozen=True, slots=True)
class Place:
    """The position of one policy: two means with their intervals."""

    name: str
    x: Mean
    y: Mean


def trade_off(title: str, places: Sequence[Place], x_label: str, y_label: str) -> str:
    """Each policy's place with its intervals; the reference is where the two lines cross."""
    colours = colours_of([place.name for place in places])
    return draw(
        Plot(
            title,
            y_label,
            x_label=x_label,
            dots=[Dots(it.name, [(it.x, it.y)], colours[it.name]) for it in places],
            marks=[0.0],
            levels=[0.0],
            from_zero=False,
            least_span=(LEAST_CORES_PCT, LEAST_POINTS),
        )
    )


@dataclass(frozen=True, slots=True)
class CellFigure:
    """A figure over cells, a row each: by policy its mean."""

    title: str
    x_label: str
    cells: Sequence[str]
    policies: Sequence[str]
    means: Sequence[Sequence[Mean | None]]
    log: bool = False
    # A vertical line where the figure should be at most, or where the reference is.
    line: float | None = None
    # The axis is never shorter: differences below it are noise.
    least_span: float = 0.0


def over_cells(plot: CellFigure) -> str:
    """The figure as dots with intervals, a band a cell."""
    colours = colours_of(plot.policies)
    count = len(plot.policies)
    known = [mean.value for row in plot.means for mean in row if mean]

    def series(at: int) -> Dots:
        rows = [(row[at], number + 0.7 * ((at + 0.5) / count - 0.5)) for number, row in enumerate(plot.means)]
        places = [(mean, Mean(y, None, 1)) for mean, y in rows if mean]
        return Dots(plot.policies[at], places, colours[plot.policies[at]])

    return draw(
        Plot(
            plot.title,
            "",
            x_label=plot.x_label,
            rows=plot.cells,
            dots=[series(at) for at in range(count) if plot.means],
            marks=[] if plot.line is None else [plot.line],
            log_x=plot.log and bool(known) and max(known) > WIDE * min(known) > 0,
            least_span=(plot.least_span, 0.0),
        )
    )
