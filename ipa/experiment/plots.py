"""Plots as SVG text: one style for every report. Needs matplotlib, of the extras `demo` and `experiments`."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ipa.report.sketch import GREY, ORANGE, RED, Plot


def svg(plot: Plot, *, width_in: float = 8.2, height_in: float = 2.5) -> str:
    """The plot as an <svg> element. The same input gives the same text."""
    return drawn(lambda axes: _draw(axes, plot), width_in, height_in)


def drawn(draw: Callable[[Any], None], width_in: float, height_in: float) -> str:
    """Run `draw` on matplotlib's axes, in the style of all plots; the result as an <svg> element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {"svg.hashsalt": "ipa", "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw(axes, plot: Plot) -> None:  # type: ignore[no-untyped-def] # matplotlib has no types here
    for moment in plot.marks:
        axes.axvline(moment, color=GREY, linewidth=0.7, alpha=0.45, zorder=0)
    if plot.band:
        label, low, high = plot.band
        axes.fill_between(
            [x for x, _ in low],
            [y for _, y in low],
            [y for _, y in high],
            color=ORANGE,
            alpha=0.22,
            linewidth=0,
            label=label,
        )
    for line in plot.lines:
        xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
        if line.style == "step":
            axes.step(xs, ys, where="post", color=line.colour, linewidth=1.5, label=line.label)
        elif line.style == ".":
            axes.plot(xs, ys, ".", color=line.colour, markersize=2.5, alpha=0.6, label=line.label)
        else:
            axes.plot(xs, ys, line.style, color=line.colour, linewidth=1.5, label=line.label)
    if plot.limit:
        label, value = plot.limit
        axes.axhline(value, color=RED, linewidth=1.2, linestyle="--", label=label)
    axes.set_title(plot.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_ylim(bottom=0 if plot.from_zero else None, top=plot.y_max)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    # Above the axes, so that all plots of a page have the same width and their times line up.
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6, frameon=False, fontsize=8)
