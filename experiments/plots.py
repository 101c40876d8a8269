"""The plots over time of the experiments' pages, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ipa.report.plots import BLUE, GREY, ORANGE, RED, as_svg, widen

Points = Sequence[tuple[float, float]]

# Inches.
HEIGHT = 2.3


@dataclass(frozen=True, slots=True)
class Line:
    """One series. `style` is "-" a line, "." dots or "step" steps."""

    label: str
    points: Points
    colour: str = BLUE
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot over time: its series, a horizontal limit, a band between two series, and marks at moments.

    The vertical axis begins at zero or with the values, and is at least `least_span` long: smaller
    differences are noise.
    """

    title: str
    y_label: str
    lines: Sequence[Line] = ()
    x_label: str = "seconds"
    limit: tuple[str, float] | None = None
    band: tuple[str, Points, Points] | None = None
    marks: Sequence[float] = ()
    y_max: float | None = None
    from_zero: bool = True
    least_span: float = 0.0


def draw(plot: Plot) -> str:
    """The plot as an <svg> element. The same input gives the same text."""
    # Single requests are drawn as points that nobody would see in the legend.
    fill = partial(_fill, plot)
    return as_svg(plot.title, plot.x_label, [it.label for it in plot.lines], HEIGHT, fill, marker_scale=3)


def _fill(plot: Plot, axes: Any) -> None:
    axes.set_ylabel(plot.y_label)
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y")
    axes.grid(visible=False, axis="x")
    if plot.band:
        label, low, high = plot.band
        at = [x for x, _ in low]
        lower, upper = ([y for _, y in side] for side in (low, high))
        axes.fill_between(at, lower, upper, color=ORANGE, alpha=0.22, label=label)
    for line in plot.lines:
        x, y = [x for x, _ in line.points], [y for _, y in line.points]
        look: dict[str, Any] = {"color": line.colour, "label": line.label}
        if line.style == "step":
            axes.step(x, y, where="post", **look)
        elif line.style == ".":
            axes.plot(x, y, ".", markersize=3, alpha=0.6, markeredgewidth=0, **look)
        else:
            axes.plot(x, y, **look)
    for mark in plot.marks:
        axes.axvline(mark, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    if plot.limit:
        axes.axhline(plot.limit[1], color=RED, linestyle=(0, (5, 3)), label=plot.limit[0])
    if plot.from_zero:
        axes.set_ylim(bottom=0.0)
    if plot.y_max is not None:
        axes.set_ylim(top=plot.y_max)
    widen(axes.get_ylim(), axes.set_ylim, plot.least_span)
