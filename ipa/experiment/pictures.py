"""Plots with intervals: where policies lie in accuracy and cost, and a figure over many cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.experiment.plots import drawn
from ipa.report.sketch import BLUE, GREEN, GREY, ORANGE, RED
from ipa.report.stats import Mean

# Okabe and Ito's colours, the first for the policies that are in most experiments.
OTHERS = ("#cc79a7", "#56b4e9", "#000000", "#b59f00", "#8c564b", "#7f7f7f")
FIXED = {"ours": BLUE, "ipa": ORANGE, "fa2-low": GREEN, "fa2-high": RED}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
PUBLISHED = "published"
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

    def draw(axes: Any) -> None:
        axes.axhline(0, color=GREY, linewidth=0.7)
        axes.axvline(0, color=GREY, linewidth=0.7)
        for number, place in enumerate(places):
            axes.errorbar(
                [place.x.value],
                [place.y.value],
                xerr=[place.x.half_width or 0.0],
                yerr=[place.y.half_width or 0.0],
                fmt=MARKERS[number % len(MARKERS)],
                color=colours[place.name],
                markersize=6,
                capsize=2,
                linewidth=1.2,
                label=place.name,
            )
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(0.12)
        _at_least(axes.set_xlim, axes.get_xlim, LEAST_CORES_PCT)
        _at_least(axes.set_ylim, axes.get_ylim, LEAST_POINTS)
        axes.grid(alpha=0.25, linewidth=0.6)
        _tidy(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, 8.2, 3.4)


@dataclass(frozen=True, slots=True)
class Dots:
    """A figure over cells, a row each: by policy its mean, and the published value where there is one."""

    title: str
    x_label: str
    cells: Sequence[str]
    policies: Sequence[str]
    means: Sequence[Sequence[Mean | None]]
    published: Sequence[Sequence[float | None]] = ()
    log: bool = False
    # A vertical line where the figure should be at most, or where the reference is.
    line: float | None = None
    # The axis is never shorter: differences below it are noise.
    least_span: float = 0.0


def dots(plot: Dots) -> str:
    """The figure as dots with intervals, a band a cell; published values are hollow."""
    colours = colours_of(plot.policies)
    count = len(plot.policies)

    def draw(axes: Any) -> None:
        for row in range(len(plot.cells)):
            if row % 2 == 0:
                axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", zorder=0)
        for at, policy in enumerate(plot.policies):
            ys = [row + 0.7 * ((at + 0.5) / count - 0.5) for row in range(len(plot.cells))]
            placed = [(mean, y) for mean, y in zip([row[at] for row in plot.means], ys, strict=True) if mean]
            axes.errorbar(
                [mean.value for mean, _ in placed],
                [y for _, y in placed],
                xerr=[mean.half_width or 0.0 for mean, _ in placed],
                fmt="o",
                color=colours[policy],
                markersize=4,
                linewidth=1.1,
                label=policy,
                zorder=3,
            )
            if plot.published:
                told = [
                    (value, y)
                    for value, y in zip([row[at] for row in plot.published], ys, strict=True)
                    if value is not None
                ]
                axes.plot(
                    [value for value, _ in told],
                    [y for _, y in told],
                    "D",
                    markerfacecolor="none",
                    markeredgecolor=colours[policy],
                    markersize=4.5,
                    zorder=2,
                )
        if any(value is not None for row in plot.published for value in row):
            axes.plot([], [], "D", markerfacecolor="none", markeredgecolor=GREY, label=PUBLISHED)
        if plot.line is not None:
            axes.axvline(plot.line, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        axes.set_yticks(range(len(plot.cells)), plot.cells)
        axes.set_ylim(len(plot.cells) - 0.5, -0.5)
        axes.set_xlabel(plot.x_label)
        known = [mean.value for row in plot.means for mean in row if mean]
        _at_least(axes.set_xlim, axes.get_xlim, plot.least_span)
        if plot.log and known and max(known) > WIDE * min(known) > 0:
            _log_axis(axes)
        axes.set_title(plot.title, loc="left", fontsize=10, fontweight="bold")
        axes.grid(axis="x", alpha=0.3, linewidth=0.6)
        _tidy(axes)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, 8.2, 0.9 + len(plot.cells) * max(0.24, 0.058 * count + 0.06))


def _log_axis(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _at_least(
    change: Callable[[float, float], Any], ends: Callable[[], tuple[float, float]], span: float
) -> None:
    """Widen the axis to the span around its middle, so that no rounding error fills it."""
    low, high = ends()
    if high - low < span:
        middle = (low + high) / 2
        change(middle - span / 2, middle + span / 2)


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


def bars(
    title: str, x_label: str, names: Sequence[str], values: Sequence[float], line: float | None = None
) -> str:
    """A bar for each name, from zero or, where a line is given, from near it; the value at its end."""
    known = [*values, *([] if line is None else [line])]
    least, most = min(known), max(known)
    low = 0.0 if line is None else least - 0.35 * (most - least + 1)

    def draw(axes: Any) -> None:
        rows = range(len(names))
        axes.barh(rows, [value - low for value in values], left=low, color=BLUE, alpha=0.75, height=0.6)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(f" {value:.2f}", (value, row), va="center", fontsize=8)
        if line is not None:
            axes.axvline(line, color=GREY, linewidth=0.9, linestyle="--")
        axes.set_xlim(low, low + (most - low) * 1.12)
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.tick_params(axis="y", length=0)
        _tidy(axes)

    return drawn(draw, 8.2, 0.9 + 0.28 * len(names))
