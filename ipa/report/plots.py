"""The plots of reports as SVG, drawn by matplotlib, which the extra `experiments` has."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from ipa.report.stats import Mean

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours: distinct for the colour-blind, and in print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"
# Colour never carries meaning alone: so has each series of dots a marker.
MARKERS = "os^DvP"
# Inches: the width, the height of a plot over time, and that of a named row with one series, and more.
WIDTH, HEIGHT, ROW, SERIES = 8.6, 2.3, 0.2, 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """One series. `style` is "-" a line, "." dots or "step" steps."""

    label: str
    points: Points
    colour: str = BLUE
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Dots:
    """One series of means with their intervals in both directions; one without a label has no legend."""

    label: str
    places: Sequence[tuple[Mean, Mean]]
    colour: str = BLUE


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: its series, a horizontal limit, a band between two series, and marks at moments.

    With `rows` the vertical axis has these names from the top in place of numbers: row i is at i.
    `least_span` is the shortest of each axis: differences below it are noise.
    """

    title: str
    y_label: str
    lines: Sequence[Line] = ()
    x_label: str = "seconds"
    limit: tuple[str, float] | None = None
    band: tuple[str, Points, Points] | None = None
    marks: Sequence[float] = ()
    y_max: float | None = None
    # True if the axis begins at zero; else it begins with the values.
    from_zero: bool = True
    dots: Sequence[Dots] = ()
    rows: Sequence[str] = ()
    log_x: bool = False
    least_span: tuple[float, float] = (0.0, 0.0)


def draw(plot: Plot) -> str:
    """The plot as an <svg> element. The same input gives the same text."""
    labels = [line.label for line in plot.lines] + [dots.label for dots in plot.dots if dots.label]
    height = len(plot.rows) * (ROW + SERIES * len(plot.dots)) + 1.0 if plot.rows else HEIGHT
    with new_figure(WIDTH, height) as figure:
        _fill(figure.add_subplot(), plot)
        if labels:
            # Single requests are drawn as points that nobody would see in the legend.
            scale = 1 if plot.dots else 3
            figure.legend(loc="outside upper right", ncols=6, frameon=False, markerscale=scale)
        text = saved(figure, "svg").decode()
    name = escape(f"{plot.title}: {', '.join(dict.fromkeys(labels))}", quote=True)
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
    # Names of groups, which would be there once in each figure of a page.
    return re.sub(r'<g id="[^"]*">', "<g>", text).strip()


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """An empty figure of that many inches, in the style of all plots."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "ipa",
        "svg.fonttype": "none",
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#d1d5db",
        "text.color": "#374151",
        "axes.labelcolor": "#374151",
        "xtick.color": "#374151",
        "ytick.color": "#374151",
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
        "grid.color": "#e5e7eb",
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.3,
        "lines.markersize": 5,
    }
    with mpl.rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def saved(figure: Any, kind: str) -> bytes:
    """The figure as a file of that kind, "svg" or "png"; the same figure gives the same bytes of SVG."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata, dpi=150, facecolor="white")
    return buffer.getvalue()


def _fill(axes: Any, plot: Plot) -> None:
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x_label, loc="right")
    axes.set_ylabel(plot.y_label)
    axes.margins(x=0.06 if plot.dots else 0.01)
    axes.grid(visible=not plot.rows, axis="y")
    axes.grid(visible=bool(plot.dots), axis="x")
    if plot.band:
        label, low, high = plot.band
        at = [x for x, _ in low]
        axes.fill_between(
            at, [y for _, y in low], [y for _, y in high], color=ORANGE, alpha=0.22, label=label
        )
    for line in plot.lines:
        _add_line(axes, line)
    for number, each in enumerate(plot.dots):
        xs, ys = ([place[side] for place in each.places] for side in (0, 1))
        axes.errorbar(
            [mean.value for mean in xs],
            [mean.value for mean in ys],
            xerr=[mean.half_width or 0.0 for mean in xs],
            yerr=[mean.half_width or 0.0 for mean in ys],
            fmt=MARKERS[number % len(MARKERS)],
            color=each.colour,
            label=each.label or None,
        )
    for mark in plot.marks:
        axes.axvline(mark, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    if plot.limit:
        axes.axhline(plot.limit[1], color=RED, linestyle=(0, (5, 3)), label=plot.limit[0])
    _set_axes(axes, plot)


def _add_line(axes: Any, line: Line) -> None:
    x, y = [x for x, _ in line.points], [y for _, y in line.points]
    if line.style == "step":
        axes.step(x, y, where="post", color=line.colour, label=line.label)
    elif line.style == ".":
        axes.plot(x, y, ".", color=line.colour, markersize=3, alpha=0.6, markeredgewidth=0, label=line.label)
    else:
        axes.plot(x, y, color=line.colour, label=line.label)


def _set_axes(axes: Any, plot: Plot) -> None:
    if plot.log_x:
        set_log_x(axes)
    if plot.rows:
        axes.set_yticks(range(len(plot.rows)), plot.rows)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(plot.rows) - 0.5, -0.5)
        for row in range(0, len(plot.rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", zorder=0)
    elif plot.from_zero:
        axes.set_ylim(bottom=0.0)
    if plot.y_max is not None:
        axes.set_ylim(top=plot.y_max)
    for least, limits, widen in (
        (plot.least_span[0], axes.get_xlim(), axes.set_xlim),
        (plot.least_span[1], axes.get_ylim(), axes.set_ylim),
    ):
        low, high = limits
        if abs(high - low) < least:
            widen((low + high - least) / 2, (low + high + least) / 2)


def set_log_x(axes: Any) -> None:
    """Make the horizontal axis logarithmic, with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log", nonpositive="clip")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


# Okabe and Ito's colours, the first for the policies that are in most experiments.
OTHERS = ("#cc79a7", "#56b4e9", "#000000", "#b59f00", "#8c564b", "#7f7f7f")
FIXED = {"ours": BLUE, "ipa": ORANGE, "fa2-low": GREEN, "fa2-high": RED}
# Values this many times apart are drawn on a logarithmic axis.
WIDE = 8


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the same for the same name in every report where it has one of its own."""
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: FIXED.get(name) or next(free) for name in names}


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
