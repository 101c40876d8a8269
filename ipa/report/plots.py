"""The plots of reports as SVG, drawn by matplotlib, which the extra `experiments` has."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ipa.report.blocks import Mean

# Okabe and Ito's colours: distinct for the colour-blind, and in print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"
# The first are for the policies that are in most experiments.
FIXED = {"ours": BLUE, "ipa": ORANGE, "fa2-low": GREEN, "fa2-high": RED}
OTHERS = ("#cc79a7", "#56b4e9", "#000000", "#b59f00", "#8c564b", "#7f7f7f")
# Colour never carries meaning alone: so has each series of dots a marker.
MARKERS = "os^DvP"
# Inches: the width, the height of a named row with one series, and more.
WIDTH, ROW, SERIES = 8.6, 0.2, 0.05
# Values this many times apart are drawn on a logarithmic axis.
WIDE = 8
STYLE = {
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


def over_cells(
    title: str,
    x_label: str,
    cells: Sequence[str],
    policies: Sequence[str],
    means: Sequence[Sequence[Mean | None]],
    *,
    may_be_log: bool = False,
    line: float | None = None,
    least_span: float = 0.0,
) -> str:
    """A figure over cells, one row each from the top: the mean of each policy as a dot, with its interval.

    `line` is a vertical line at the limit of the figure, or at the reference. Values far apart are drawn on a
    logarithmic axis, if that is allowed.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours, count = colours_of(policies), len(policies)

    def fill(axes: Any) -> None:
        axes.margins(x=0.06)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        for at, policy in enumerate(policies):
            shift = 0.7 * ((at + 0.5) / count - 0.5)
            dots = [(mean, number + shift) for number, row in enumerate(means) if (mean := row[at])]
            axes.errorbar(
                [mean.value for mean, _ in dots],
                [y for _, y in dots],
                xerr=[mean.half_width or 0.0 for mean, _ in dots],
                yerr=[0.0] * len(dots),
                fmt=MARKERS[at % len(MARKERS)],
                color=colours[policy],
                label=policy or None,
            )
        if line is not None:
            axes.axvline(line, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
        known = [mean.value for row in means for mean in row if mean]
        if may_be_log and known and max(known) > WIDE * min(known) > 0:
            # With plain numbers at 1, 2 and 5 times powers of ten.
            axes.set_xscale("log", nonpositive="clip")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(cells)), cells)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        for row in range(0, len(cells), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", zorder=0)
        widen(axes.get_xlim(), axes.set_xlim, least_span)

    height = len(cells) * (ROW + SERIES * count) + 1.0
    return as_svg(title, x_label, [policy for policy in policies if policy], height, fill)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; a name with a colour of its own has the same one in every report."""
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: FIXED.get(name) or next(free) for name in names}


def as_svg(
    title: str,
    x_label: str,
    labels: Sequence[str],
    height: float,
    fill: Callable[[Any], None],
    marker_scale: float = 1,
) -> str:
    """The axes that `fill` fills as an <svg> element, `height` inches high; equal inputs give equal texts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_xlabel(x_label, loc="right")
        fill(axes)
        if labels:
            figure.legend(loc="outside upper right", ncols=6, frameon=False, markerscale=marker_scale)
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", metadata=metadata, dpi=150, facecolor="white")
    name = escape(f"{title}: {', '.join(dict.fromkeys(labels))}", quote=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
    # Names of groups, which would be there once in each figure of a page.
    return re.sub(r'<g id="[^"]*">', "<g>", text).strip()


def widen(limits: tuple[float, float], set_limits: Callable[..., Any], least: float) -> None:
    """Make the axis at least `least` long."""
    low, high = limits
    if abs(high - low) < least:
        set_limits((low + high - least) / 2, (low + high + least) / 2)
